-- The journal. Times are microseconds since 1970 UTC. Ids are UUIDs as text; plan ids are version 7, so that rows of one
-- time lie together and newest-first is the order of the key.

CREATE TABLE plans (
    plan_id        TEXT PRIMARY KEY NOT NULL,
    correlation_id TEXT NOT NULL,
    kind           TEXT NOT NULL, -- chat or graph
    status         TEXT NOT NULL,
    owner          TEXT NOT NULL, -- the planner that runs it
    created_at     INTEGER NOT NULL,
    deadline_at    INTEGER,
    ended_at       INTEGER,
    context        TEXT NOT NULL,
    output         TEXT,
    error          TEXT -- JSON: code, message, details, retry_after_ms
) WITHOUT ROWID, STRICT;

CREATE INDEX plans_by_correlation ON plans (correlation_id);
CREATE INDEX plans_by_status ON plans (status, plan_id);
CREATE INDEX plans_unfinished ON plans (owner) WHERE status IN ('pending', 'running');

CREATE TABLE tasks (
    plan_id       TEXT NOT NULL REFERENCES plans (plan_id) ON DELETE CASCADE,
    ordinal       INTEGER NOT NULL, -- the task's place in its plan, from 0
    task_id       TEXT NOT NULL,
    key           TEXT NOT NULL,
    agent         TEXT NOT NULL,
    action        TEXT NOT NULL,
    payload       TEXT NOT NULL, -- JSON object
    depends_on    TEXT NOT NULL, -- JSON array of keys
    on_failure    TEXT NOT NULL, -- fail or continue
    status        TEXT NOT NULL,
    queued_at     INTEGER NOT NULL,
    dispatched_at INTEGER,
    ended_at      INTEGER,
    output        TEXT, -- JSON: output_type, data, metadata
    error         TEXT,
    PRIMARY KEY (plan_id, ordinal)
) WITHOUT ROWID, STRICT;

CREATE TABLE attempts (
    plan_id     TEXT NOT NULL,
    ordinal     INTEGER NOT NULL,
    number      INTEGER NOT NULL, -- from 1
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    outcome     TEXT, -- succeeded, failed or cancelled; NULL while it runs
    error_class TEXT,
    message     TEXT,
    stderr_tail TEXT,
    worker      TEXT NOT NULL,
    PRIMARY KEY (plan_id, ordinal, number),
    FOREIGN KEY (plan_id, ordinal) REFERENCES tasks (plan_id, ordinal) ON DELETE CASCADE
) WITHOUT ROWID, STRICT;

CREATE INDEX tasks_by_agent ON tasks (agent, plan_id);

-- Planners that live. One whose lease has run out owns nothing any more: whoever finds that takes its plans over and
-- deletes its row, and the next commit of the old owner fails.
CREATE TABLE planners (
    instance    TEXT PRIMARY KEY NOT NULL,
    lease_until INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- Keys by which callers name a plan that they may ask for twice.
CREATE TABLE idempotency_keys (
    key        TEXT PRIMARY KEY NOT NULL,
    digest     TEXT NOT NULL,
    plan_id    TEXT NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- What happened, in the order in which it became durable.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id  TEXT NOT NULL,
    ordinal  INTEGER, -- the task's; NULL for events of the plan itself
    kind     TEXT NOT NULL,
    at       INTEGER NOT NULL,
    data     TEXT NOT NULL -- JSON object
) STRICT;

CREATE INDEX events_by_plan ON events (plan_id, position);

-- The one way in for the writer: a batch of changes as JSON arrays, written by one statement in one transaction. Inserts
-- come before updates; events keep the order in which things happened.
CREATE VIEW journal_batch AS
SELECT NULL AS instance, NULL AS lease_until, NULL AS plans, NULL AS keys, NULL AS tasks, NULL AS attempts,
       NULL AS task_steps, NULL AS attempt_ends, NULL AS task_ends, NULL AS plan_ends, NULL AS events;

CREATE TRIGGER journal_write INSTEAD OF INSERT ON journal_batch BEGIN
    -- The fence: a planner that was taken for dead writes nothing more.
    SELECT raise(ABORT, 'fenced') WHERE NOT EXISTS (SELECT 1 FROM planners WHERE instance = NEW.instance);
    UPDATE planners SET lease_until = NEW.lease_until WHERE instance = NEW.instance;

    INSERT INTO plans (plan_id, correlation_id, kind, status, owner, created_at, deadline_at, context)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
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

    INSERT INTO attempts (plan_id, ordinal, number, started_at, worker)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(NEW.attempts);

    -- With its first task, a plan runs.
    UPDATE plans SET status = 'running'
    WHERE status = 'pending' AND plan_id IN (SELECT value ->> 0 FROM json_each(NEW.task_steps));

    -- Several steps of one task may be in a batch; the last one counts, and a terminal state never changes.
    UPDATE tasks
    SET status = step.status, dispatched_at = coalesce(tasks.dispatched_at, step.dispatched_at)
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS status, value ->> 3 AS dispatched_at,
                 max(key)
          FROM json_each(NEW.task_steps) GROUP BY 1, 2) AS step
    WHERE tasks.plan_id = step.plan_id AND tasks.ordinal = step.ordinal
      AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled');

    UPDATE attempts
    SET ended_at = ended.at, outcome = ended.outcome, error_class = ended.error_class, message = ended.message,
        stderr_tail = ended.stderr_tail
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS number, value ->> 3 AS at,
                 value ->> 4 AS outcome, value ->> 5 AS error_class, value ->> 6 AS message,
                 value ->> 7 AS stderr_tail
          FROM json_each(NEW.attempt_ends)) AS ended
    WHERE attempts.plan_id = ended.plan_id AND attempts.ordinal = ended.ordinal AND attempts.number = ended.number
      AND attempts.outcome IS NULL;

    UPDATE tasks
    SET status = ended.status, ended_at = ended.at, output = ended.output, error = ended.error
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS status, value ->> 3 AS at,
                 value ->> 4 AS output, value ->> 5 AS error
          FROM json_each(NEW.task_ends)) AS ended
    WHERE tasks.plan_id = ended.plan_id AND tasks.ordinal = ended.ordinal
      AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled');

    UPDATE plans
    SET status = ended.status, ended_at = ended.at, output = ended.output, error = ended.error
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS status, value ->> 2 AS at, value ->> 3 AS output,
                 value ->> 4 AS error
          FROM json_each(NEW.plan_ends)) AS ended
    WHERE plans.plan_id = ended.plan_id AND plans.status NOT IN ('succeeded', 'failed', 'cancelled');

    INSERT INTO events (plan_id, ordinal, kind, at, data)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(NEW.events) ORDER BY key;
END;
