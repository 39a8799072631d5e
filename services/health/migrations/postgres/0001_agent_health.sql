-- What is remembered of each agent; an agent without a row is healthy and was never heard of.
-- Times are microseconds since 1970-01-01T00:00:00Z, by the clock of this database.
CREATE TABLE phoenix_health.agent_health (
    agent_id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    consecutive_failures BIGINT NOT NULL CHECK (consecutive_failures BETWEEN 0 AND 4294967295),
    -- The task that all failures since the last success belong to; NULL when they belong to several, or the reporter knew none.
    failing_task         UUID,
    last_failure_at      BIGINT,
    last_success_at      BIGINT,
    -- Set while the circuit is open; in the past when a probe may go.
    circuit_open_until   BIGINT,
    -- The one probe under way: its lease, and when the lease ends.
    probe_lease          UUID,
    probe_expires_at     BIGINT,
    -- Grows with every change.
    revision             BIGINT NOT NULL CHECK (revision >= 0),
    CHECK ((probe_lease IS NULL) = (probe_expires_at IS NULL))
-- Few rows that change often: a new version of a row finds room beside the old one.
) WITH (fillfactor = 50);
