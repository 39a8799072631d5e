-- Further state of the circuit as JSON: the newest calls, openings since it was closed, why and since when it is as it is, and
-- an operator's decision to isolate the agent.
ALTER TABLE phoenix_health.agent_health ADD COLUMN circuit TEXT NOT NULL DEFAULT '{}';

-- Changes of circuits, the newest of each agent.
CREATE TABLE phoenix_health.circuit_transitions (
    agent_id   TEXT COLLATE "C" NOT NULL,
    -- Revision of the agent's health after the change.
    revision   BIGINT NOT NULL,
    -- Microseconds since 1970-01-01T00:00:00Z, by the clock of this database.
    changed_at BIGINT NOT NULL,
    from_state TEXT NOT NULL,
    to_state   TEXT NOT NULL,
    cause      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    -- Who isolated or restored the agent.
    actor      TEXT,
    -- What was known, as JSON.
    evidence   TEXT NOT NULL,
    PRIMARY KEY (agent_id, revision)
);
