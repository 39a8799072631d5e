-- Every plan is rows of the same tables (docs/adr/0008): stored documents become rows. A document that is no JSON, or lacks a
-- member, costs its own plan: the text goes into quarantine.
CREATE TEMP VIEW stored AS
SELECT plans.plan_id, documents.position, documents.events, iif(json_valid(documents.document), documents.document, '{}') AS document,
       documents.document AS original
FROM plans JOIN documents ON documents.position = plans.document;

INSERT OR IGNORE INTO tasks
    (plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure, status, queued_at, dispatched_at,
     ended_at, output, error)
SELECT plan_id, 0, document ->> '$.task.task_id', document ->> '$.task.key', document ->> '$.task.agent',
       document ->> '$.task.action', document -> '$.task.payload', document -> '$.task.depends_on',
       document ->> '$.task.on_failure', document ->> '$.task.status', document ->> '$.task.queued_at',
       document ->> '$.task.dispatched_at', document ->> '$.task.ended_at', document -> '$.task.output',
       document -> '$.task.error'
FROM stored;

INSERT OR IGNORE INTO attempts
    (plan_id, ordinal, number, started_at, ended_at, outcome, error_class, message, stderr_tail, worker, model_calls)
SELECT plan_id, 0, value ->> '$.number', value ->> '$.started_at', value ->> '$.ended_at', value ->> '$.outcome',
       value ->> '$.error_class', value ->> '$.message', value ->> '$.stderr_tail', value ->> '$.worker',
       value -> '$.model_calls'
FROM stored, json_each(document, '$.attempts')
WHERE plan_id IN (SELECT plan_id FROM tasks);

-- Entries of such a plan that are still in the log are applied already.
ALTER TABLE plans ADD COLUMN applied_early INTEGER; -- 1: together with entries that followed later in the log
UPDATE plans SET applied_early = 1 WHERE document IS NOT NULL;

INSERT INTO events (plan_id, position, events) SELECT plan_id, position, events FROM stored;

INSERT INTO quarantined_records (plan_id, at, reason, is_unknown, planner, record)
SELECT plan_id, unixepoch() * 1000000, 'the document of the plan is damaged', 0, '', original
FROM stored WHERE plan_id NOT IN (SELECT plan_id FROM tasks);

DROP VIEW temp.stored;
DROP VIEW every_task;
DROP VIEW every_attempt;
DROP TRIGGER plan_deleted;
DROP INDEX plans_by_agent;
DROP TABLE documents;
ALTER TABLE plans DROP COLUMN document;
ALTER TABLE plans DROP COLUMN agent;
