-- Calls of models that a failed attempt used all the same, as JSON; NULL when it reported none. What an attempt used that
-- succeeded is in the metadata of its task's output.
ALTER TABLE phoenix_planner.attempts ADD COLUMN model_calls text;
