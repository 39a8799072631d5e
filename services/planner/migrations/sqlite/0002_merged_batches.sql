-- Entries become durable in a log, one row per commit: one page and one fsync, however many tables they are about. A moment
-- later they are moved into the tables, many commits at once, and what happened to one task, attempt or plan meanwhile is
-- merged, so that each row is written once.
CREATE TABLE log (
    seq     INTEGER PRIMARY KEY,
    planner TEXT NOT NULL,
    entries TEXT NOT NULL -- JSON array
) STRICT;

-- The way in: refused as a whole for a planner that was taken for dead.
CREATE VIEW log_append AS SELECT NULL AS planner, NULL AS entries, NULL AS keys;

CREATE TRIGGER log_write INSTEAD OF INSERT ON log_append BEGIN
    SELECT raise(ABORT, 'fenced') WHERE NOT EXISTS (SELECT 1 FROM planners WHERE instance = NEW.planner);
    INSERT INTO log (planner, entries) VALUES (NEW.planner, NEW.entries);
    -- A key that is there already stays with its plan.
    INSERT INTO idempotency_keys (key, digest, plan_id, created_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(NEW.keys)
    WHERE TRUE ON CONFLICT (key) DO NOTHING;
END;

-- Whether a planner lives is told from whether it goes on writing, on the clock of whoever asks, never from a time that it
-- wrote: clocks jump.
ALTER TABLE planners ADD COLUMN beat INTEGER NOT NULL DEFAULT 0;
ALTER TABLE planners DROP COLUMN lease_until;

-- Of whatever is moved at once, the events of one plan are one row. Positions are counted in `journal`; as they only grow,
-- they also tell a mover whether somebody else has moved the same part of the log meanwhile.
CREATE TABLE journal (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    position INTEGER NOT NULL -- of the last event
) STRICT;

INSERT INTO journal (only, position) SELECT 1, coalesce(max(position), 0) FROM events;

CREATE TABLE plan_events (
    plan_id  TEXT NOT NULL,
    position INTEGER NOT NULL, -- of the first event of the row; the others follow without a gap
    events   TEXT NOT NULL,    -- JSON array of [ordinal of the task or null, kind, time, facts]
    PRIMARY KEY (plan_id, position)
) WITHOUT ROWID, STRICT;

INSERT INTO plan_events (plan_id, position, events)
SELECT plan_id, position, json_array(json_array(ordinal, kind, at, json(data))) FROM events;

CREATE VIEW log_move AS SELECT NULL AS position, NULL AS events, NULL AS last_seq;

CREATE TRIGGER log_moved INSTEAD OF INSERT ON log_move BEGIN
    SELECT raise(ABORT, 'moved') WHERE NEW.position <> (SELECT position FROM journal);
    UPDATE journal SET position = position + NEW.events;
    DELETE FROM log WHERE seq <= NEW.last_seq;
END;

DROP TRIGGER journal_write;
DROP VIEW journal_batch;
DROP TABLE events;
ALTER TABLE plan_events RENAME TO events;
