-- Decisions about budgets that are used up, for which tasks wait or waited: the last one of each task. As approvals; a table of its
-- own, so that planners of the version before can share the journal.
CREATE TABLE phoenix_planner.pauses (
    plan_id         uuid NOT NULL,
    ordinal         integer NOT NULL,
    requested_at    bigint NOT NULL,
    expires_at      bigint NOT NULL,
    reason          text NOT NULL,
    approver        text NOT NULL,
    on_expiry       text NOT NULL,
    input           text NOT NULL, -- JSON object: which limit is reached
    input_hash      text NOT NULL,
    state           text NOT NULL, -- waiting, approved, rejected, expired or withdrawn
    is_open         boolean NOT NULL, -- until the task takes notice of the decision, or ends
    decided_at      bigint, -- NULL without a decision, as the next four
    actor           text,
    decision_reason text,
    decided_by      uuid, -- the correlation id of the request; NULL for an expiry
    new_input       text, -- JSON object with new limits of the plan; NULL for none
    PRIMARY KEY (plan_id, ordinal)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- In the order of listings.
CREATE INDEX pauses_open ON phoenix_planner.pauses (state, requested_at, plan_id, ordinal) WHERE is_open;

CREATE FUNCTION phoenix_planner.close_pause() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE phoenix_planner.pauses
    SET is_open = FALSE, state = CASE state WHEN 'waiting' THEN 'withdrawn' ELSE state END
    WHERE plan_id = NEW.plan_id AND ordinal = NEW.ordinal;
    RETURN NULL;
END $$;

CREATE TRIGGER pause_closed AFTER UPDATE OF status ON phoenix_planner.tasks
FOR EACH ROW WHEN (OLD.status = 'awaiting_budget' AND NEW.status <> 'awaiting_budget')
EXECUTE FUNCTION phoenix_planner.close_pause();

-- What is decided about: inputs of tasks, and budgets.
CREATE VIEW phoenix_planner.decisions AS
SELECT 'input'::text AS kind, approvals.* FROM phoenix_planner.approvals
UNION ALL SELECT 'budget', pauses.* FROM phoenix_planner.pauses;
