-- The journal. Times are microseconds since 1970 UTC. Ids are UUIDs as text; plan ids are version 7, so that rows of one
-- time lie together and newest-first is the order of the key.

CREATE TABLE plans (
    plan_id        TEXT PRIMARY KEY NOT NULL,
    correlation_id TEXT NOT NULL,
    status         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    ended_at       INTEGER,
    context        TEXT NOT NULL,
    output         TEXT,
    error          TEXT -- JSON: code, message, details, retry_after_ms
) WITHOUT ROWID, STRICT;

CREATE INDEX plans_by_correlation ON plans (correlation_id);
CREATE INDEX plans_by_status ON plans (status, plan_id);

CREATE TABLE tasks (
    plan_id       TEXT NOT NULL REFERENCES plans (plan_id) ON DELETE CASCADE,
    ordinal       INTEGER NOT NULL, -- the task's place in its plan, from 0
    task_id       TEXT NOT NULL,
    key           TEXT NOT NULL,
    agent         TEXT NOT NULL,
    action        TEXT NOT NULL,
    payload       TEXT NOT NULL, -- JSON object
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
