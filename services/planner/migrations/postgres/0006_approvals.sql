-- Conditions on which a task starts, beside its dependencies, as JSON; NULL without any.
ALTER TABLE phoenix_planner.tasks ADD COLUMN conditions text;

-- Approvals that tasks wait or waited for. The first decision is written here, by any planner; the planner of the plan applies it.
CREATE TABLE phoenix_planner.approvals (
    plan_id         uuid NOT NULL,
    ordinal         integer NOT NULL,
    requested_at    bigint NOT NULL,
    expires_at      bigint NOT NULL,
    reason          text NOT NULL,
    approver        text NOT NULL,
    on_expiry       text NOT NULL, -- fail, reject or approve
    input           text NOT NULL, -- JSON object
    input_hash      text NOT NULL,
    state           text NOT NULL, -- waiting, approved, rejected, expired or withdrawn
    is_open         boolean NOT NULL, -- until the task takes notice of the decision, or ends
    decided_at      bigint, -- NULL without a decision, as the next four
    actor           text,
    decision_reason text,
    decided_by      uuid, -- the correlation id of the request; NULL for an expiry
    new_input       text, -- JSON object with which the task runs instead; NULL for none
    PRIMARY KEY (plan_id, ordinal)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- In the order of listings.
CREATE INDEX approvals_open ON phoenix_planner.approvals (state, requested_at, plan_id, ordinal) WHERE is_open;

CREATE FUNCTION phoenix_planner.close_approval() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE phoenix_planner.approvals
    SET is_open = FALSE, state = CASE state WHEN 'waiting' THEN 'withdrawn' ELSE state END
    WHERE plan_id = NEW.plan_id AND ordinal = NEW.ordinal;
    RETURN NULL;
END $$;

CREATE TRIGGER approval_closed AFTER UPDATE OF status ON phoenix_planner.tasks
FOR EACH ROW WHEN (OLD.status = 'awaiting_approval' AND NEW.status <> 'awaiting_approval')
EXECUTE FUNCTION phoenix_planner.close_approval();
