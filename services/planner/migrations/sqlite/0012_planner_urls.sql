-- Where other planners reach a planner; NULL when it does not say so.
ALTER TABLE planners ADD COLUMN url TEXT;
