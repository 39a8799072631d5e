-- Records of the log that this version cannot use: damaged, of a kind that a newer version writes, or not fitting what the
-- tables hold. Each costs its own plan, whose later records follow it here, in order. A version that can read all records of
-- a plan puts them back into the log when it opens the journal.
CREATE TABLE quarantined_records (
    id         INTEGER PRIMARY KEY, -- in the order of the log
    plan_id    TEXT, -- NULL where the record does not tell
    at         INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    is_unknown INTEGER NOT NULL, -- 1: a newer version may know it
    planner    TEXT NOT NULL,
    record     TEXT NOT NULL -- as it was in the log
) STRICT;

CREATE INDEX quarantined_records_by_plan ON quarantined_records (plan_id) WHERE plan_id IS NOT NULL;

INSERT INTO quarantined_records (plan_id, at, reason, is_unknown, planner, record)
SELECT NULL, at, reason, 0, planner, entries FROM log_set_aside;

DROP TABLE log_set_aside;

-- How many plans have records there: read with the position, so that a journal without any pays nothing for it.
ALTER TABLE journal ADD COLUMN quarantined INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER record_quarantined AFTER INSERT ON quarantined_records BEGIN
    UPDATE journal SET quarantined = quarantined + 1;
END;

CREATE TRIGGER record_readmitted AFTER DELETE ON quarantined_records BEGIN
    UPDATE journal SET quarantined = quarantined - 1;
END;

UPDATE journal SET quarantined = (SELECT count(*) FROM quarantined_records);
