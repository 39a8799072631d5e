-- Where other planners reach a planner; NULL when it does not say so, as versions before this one.
ALTER TABLE phoenix_planner.planners ADD COLUMN url text;
