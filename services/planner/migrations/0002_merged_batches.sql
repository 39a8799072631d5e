-- A batch writes each row once: what happens to a task, an attempt or a plan within one batch is merged before it gets here.

-- Whether a planner lives is told from whether it goes on writing, on the clock of whoever asks, never from a time that it
-- wrote: clocks jump.
ALTER TABLE planners ADD COLUMN beat INTEGER NOT NULL DEFAULT 0;
ALTER TABLE planners DROP COLUMN lease_until;

-- Events of one plan lie together; one tree instead of a table and its index. Positions are counted in `journal`.
CREATE TABLE journal (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    position INTEGER NOT NULL -- of the last event
) STRICT;

INSERT INTO journal (only, position) SELECT 1, coalesce(max(position), 0) FROM events;

CREATE TABLE plan_events (
    plan_id  TEXT NOT NULL,
    position INTEGER NOT NULL,
    ordinal  INTEGER, -- the task's; NULL for events of the plan itself
    kind     TEXT NOT NULL,
    at       INTEGER NOT NULL,
    data     TEXT NOT NULL, -- JSON object
    PRIMARY KEY (plan_id, position)
) WITHOUT ROWID, STRICT;

INSERT INTO plan_events (plan_id, position, ordinal, kind, at, data)
SELECT plan_id, position, ordinal, kind, at, data FROM events;

DROP TRIGGER journal_write;
DROP VIEW journal_batch;
DROP TABLE events;
ALTER TABLE plan_events RENAME TO events;

-- The one way in for the writer: a batch of changes as JSON arrays, written by one statement in one transaction. Inserts
-- come before updates.
CREATE VIEW journal_batch AS
SELECT NULL AS planner, NULL AS plans, NULL AS keys, NULL AS tasks, NULL AS attempts, NULL AS attempt_ends,
       NULL AS task_changes, NULL AS plan_changes, NULL AS events;

CREATE TRIGGER journal_write INSTEAD OF INSERT ON journal_batch BEGIN
    -- The fence: a planner that was taken for dead writes nothing more.
    SELECT raise(ABORT, 'fenced') WHERE NOT EXISTS (SELECT 1 FROM planners WHERE instance = NEW.planner);
    UPDATE planners SET beat = beat + 1 WHERE instance = NEW.planner;

    INSERT INTO plans (plan_id, correlation_id, kind, status, owner, created_at, deadline_at, context)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, NEW.planner, value ->> 4, value ->> 5, value ->> 6
    FROM json_each(NEW.plans);

    -- A key that is there already stays with its plan.
    INSERT INTO idempotency_keys (key, digest, plan_id, created_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(NEW.keys)
    WHERE TRUE ON CONFLICT (key) DO NOTHING;

    INSERT INTO tasks
        (plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure, status, queued_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
           value ->> 8, value ->> 9, value ->> 10
    FROM json_each(NEW.tasks);

    INSERT INTO attempts
        (plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class, message, stderr_tail)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
           value ->> 8, value ->> 9
    FROM json_each(NEW.attempts)
    -- An executor that counts wrong must not stop the journal.
    WHERE TRUE ON CONFLICT (plan_id, ordinal, number) DO NOTHING;

    -- Of an attempt that was started in an earlier batch.
    UPDATE attempts
    SET ended_at = ended.at, outcome = ended.outcome, error_class = ended.error_class, message = ended.message,
        stderr_tail = ended.stderr_tail
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS number, value ->> 3 AS at,
                 value ->> 4 AS outcome, value ->> 5 AS error_class, value ->> 6 AS message,
                 value ->> 7 AS stderr_tail
          FROM json_each(NEW.attempt_ends)) AS ended
    WHERE attempts.plan_id = ended.plan_id AND attempts.ordinal = ended.ordinal AND attempts.number = ended.number
      AND attempts.outcome IS NULL;

    -- A terminal state never changes.
    UPDATE tasks
    SET status = change.status, dispatched_at = coalesce(tasks.dispatched_at, change.dispatched_at),
        ended_at = change.ended_at, output = change.output, error = change.error
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS status, value ->> 3 AS dispatched_at,
                 value ->> 4 AS ended_at, value ->> 5 AS output, value ->> 6 AS error
          FROM json_each(NEW.task_changes)) AS change
    WHERE tasks.plan_id = change.plan_id AND tasks.ordinal = change.ordinal
      AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled');

    UPDATE plans
    SET status = change.status, ended_at = change.ended_at, output = change.output, error = change.error
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS status, value ->> 2 AS ended_at, value ->> 3 AS output,
                 value ->> 4 AS error
          FROM json_each(NEW.plan_changes)) AS change
    WHERE plans.plan_id = change.plan_id AND plans.status NOT IN ('succeeded', 'failed', 'cancelled')
      AND (plans.status <> change.status);

    INSERT INTO events (plan_id, position, ordinal, kind, at, data)
    SELECT value ->> 0, journal.position + 1 + key, value ->> 1, value ->> 2, value ->> 3, value ->> 4
    FROM json_each(NEW.events), journal;
    UPDATE journal SET position = position + json_array_length(NEW.events);
END;
