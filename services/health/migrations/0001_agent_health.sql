-- What is remembered of each agent; an agent without a row is healthy and was never heard of.
-- Times are microseconds since 1970-01-01T00:00:00Z.
CREATE TABLE agent_health (
    agent_id             TEXT    NOT NULL PRIMARY KEY,
    consecutive_failures INTEGER NOT NULL CHECK (consecutive_failures BETWEEN 0 AND 4294967295),
    last_failure_at      INTEGER,
    last_success_at      INTEGER,
    -- Set while the circuit is open; in the past when a probe may go.
    circuit_open_until   INTEGER,
    -- The one probe under way: a UUID that names its lease, and when the lease ends by itself.
    probe_lease          TEXT,
    probe_expires_at     INTEGER,
    -- Grows with every change.
    revision             INTEGER NOT NULL CHECK (revision >= 0),
    CHECK ((probe_lease IS NULL) = (probe_expires_at IS NULL))
) STRICT, WITHOUT ROWID;
