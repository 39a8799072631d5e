-- The task that all failures since the last success belong to, a UUID; NULL when they belong to several, or the reporter
-- knew none. A single task never opens the circuit.
ALTER TABLE agent_health ADD COLUMN failing_task TEXT;
