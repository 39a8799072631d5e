-- Whoever looks into the journal with SQL finds every task and every attempt here, one row each, however its plan is kept.
CREATE VIEW every_task AS
SELECT plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure, status, queued_at, dispatched_at,
       ended_at, output, error
FROM tasks
UNION ALL
SELECT plans.plan_id, 0, document ->> '$.task.task_id', document ->> '$.task.key', document ->> '$.task.agent',
       document ->> '$.task.action', document -> '$.task.payload', document -> '$.task.depends_on',
       document ->> '$.task.on_failure', document ->> '$.task.status', document ->> '$.task.queued_at',
       document ->> '$.task.dispatched_at', document ->> '$.task.ended_at', document -> '$.task.output',
       document -> '$.task.error'
FROM (SELECT plan_id, document AS position FROM plans) AS plans JOIN documents USING (position);

CREATE VIEW every_attempt AS
SELECT plan_id, ordinal, number, agent, attempts.started_at, attempts.ended_at, outcome, error_class, message, stderr_tail,
       worker
FROM attempts JOIN tasks USING (plan_id, ordinal)
UNION ALL
SELECT plans.plan_id, 0, value ->> '$.number', agent, value ->> '$.started_at', value ->> '$.ended_at',
       value ->> '$.outcome', value ->> '$.error_class', value ->> '$.message', value ->> '$.stderr_tail',
       value ->> '$.worker'
FROM (SELECT plan_id, agent, document AS position FROM plans) AS plans JOIN documents USING (position),
     json_each(document, '$.attempts');
