-- Calls of models that a failed attempt used all the same, as JSON; NULL when it reported none. What an attempt used that
-- succeeded is in the metadata of its task's output.
ALTER TABLE attempts ADD COLUMN model_calls TEXT;

DROP VIEW every_attempt;

CREATE VIEW every_attempt AS
SELECT plan_id, ordinal, number, agent, attempts.started_at, attempts.ended_at, outcome, error_class, message, stderr_tail,
       worker, model_calls
FROM attempts JOIN tasks USING (plan_id, ordinal)
UNION ALL
SELECT plans.plan_id, 0, value ->> '$.number', agent, value ->> '$.started_at', value ->> '$.ended_at',
       value ->> '$.outcome', value ->> '$.error_class', value ->> '$.message', value ->> '$.stderr_tail',
       value ->> '$.worker', value -> '$.model_calls'
FROM (SELECT plan_id, agent, document AS position FROM plans) AS plans JOIN documents USING (position),
     json_each(document, '$.attempts');
