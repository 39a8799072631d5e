-- The request that used a key first: whoever sends it again is answered with its correlation id. Keys from before have none.
ALTER TABLE idempotency_keys ADD COLUMN correlation_id TEXT;

DROP TRIGGER log_write;

CREATE TRIGGER log_write INSTEAD OF INSERT ON log_append BEGIN
    SELECT raise(ABORT, 'fenced') WHERE NOT EXISTS (SELECT 1 FROM planners WHERE instance = NEW.planner);
    INSERT INTO log (planner, entries) VALUES (NEW.planner, NEW.entries);
    -- A key that is there already stays with its plan.
    INSERT INTO idempotency_keys (key, digest, subject, created_at, correlation_id)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(NEW.keys)
    WHERE TRUE ON CONFLICT (key) DO NOTHING;
END;
