-- What a plan has been through: how often another planner took it over, and how often a planner died while it ran.
ALTER TABLE plans ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;

-- Planners that died, as opposed to those that gave their plans up in order, for as long as they own unfinished plans.
CREATE TABLE dead_planners (
    instance TEXT PRIMARY KEY NOT NULL
) WITHOUT ROWID, STRICT;

-- Plans that are to be cancelled by whichever planner owns them.
CREATE TABLE cancel_requests (
    plan_id TEXT PRIMARY KEY NOT NULL,
    reason  TEXT NOT NULL,
    at      INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
