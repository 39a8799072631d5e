-- Dead letters: tasks that failed for good, kept apart from all the others, so that whoever looks for them passes none
-- that did not. A task that succeeds leaves no row and no index entry here.

-- The plan that this one takes up again. A plan is taken up once; what takes it up may be taken up in its turn.
ALTER TABLE plans ADD COLUMN redrive_of TEXT;

CREATE UNIQUE INDEX plans_by_redrive ON plans (redrive_of) WHERE redrive_of IS NOT NULL;

CREATE TABLE dead_letters (
    plan_id     TEXT NOT NULL,
    ordinal     INTEGER NOT NULL,
    at          INTEGER NOT NULL, -- when the task failed for good
    agent       TEXT NOT NULL,
    code        TEXT NOT NULL, -- of its error
    error_class TEXT, -- of its last attempt
    state       TEXT NOT NULL DEFAULT 'open', -- open, redriven or discarded
    settled_at  INTEGER, -- NULL while it is open, as the next two
    settled_by  TEXT, -- the correlation id of the request that redrove or discarded it
    reason      TEXT,
    sweep_id    TEXT, -- the last sweep that has selected it
    PRIMARY KEY (plan_id, ordinal),
    FOREIGN KEY (plan_id, ordinal) REFERENCES tasks (plan_id, ordinal) ON DELETE CASCADE
) WITHOUT ROWID, STRICT;

-- In the order of listings, with everything else that they are filtered by.
CREATE INDEX dead_letters_by_state ON dead_letters (state, at, plan_id, ordinal, code, error_class);
CREATE INDEX dead_letters_by_agent ON dead_letters (agent, state, at, plan_id, ordinal, code, error_class);
CREATE INDEX dead_letters_by_sweep ON dead_letters (sweep_id) WHERE sweep_id IS NOT NULL;

-- How many are open, counted as they come and go, so that nobody has to count them.
ALTER TABLE journal ADD COLUMN open_dead_letters INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER dead_letter_opened AFTER INSERT ON dead_letters WHEN NEW.state = 'open' BEGIN
    UPDATE journal SET open_dead_letters = open_dead_letters + 1;
END;

CREATE TRIGGER dead_letter_settled AFTER UPDATE OF state ON dead_letters WHEN OLD.state = 'open' AND NEW.state <> 'open' BEGIN
    UPDATE journal SET open_dead_letters = open_dead_letters - 1;
END;

CREATE TRIGGER dead_letter_deleted AFTER DELETE ON dead_letters WHEN OLD.state = 'open' BEGIN
    UPDATE journal SET open_dead_letters = open_dead_letters - 1;
END;

INSERT INTO dead_letters (plan_id, ordinal, at, agent, code, error_class)
SELECT plan_id, ordinal, ended_at, agent, error ->> '$.code', error ->> '$.details.error_class'
FROM tasks WHERE status = 'dead_lettered';

-- Requests that deal with many dead letters at once.
CREATE TABLE sweeps (
    sweep_id TEXT PRIMARY KEY NOT NULL,
    action   TEXT NOT NULL, -- redrive or discard
    rate     REAL, -- plans per second, of a redrive
    reason   TEXT NOT NULL,
    by       TEXT NOT NULL, -- the correlation id of the request
    at       INTEGER NOT NULL,
    owner    TEXT NOT NULL, -- the planner that works it off
    selected INTEGER NOT NULL, -- dead letters
    ended_at INTEGER
) WITHOUT ROWID, STRICT;

CREATE INDEX sweeps_unfinished ON sweeps (owner) WHERE ended_at IS NULL;

-- A key stands for a plan or for a sweep.
ALTER TABLE idempotency_keys RENAME COLUMN plan_id TO subject;
