-- Commits of the log that the tables do not take: what the disk made of them can't be read, or does not go together with
-- what is there. Kept for whoever repairs them, so that the rest of the journal goes on.
CREATE TABLE log_set_aside (
    at      INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    planner TEXT NOT NULL,
    entries TEXT NOT NULL -- as they were in the log
) STRICT;
