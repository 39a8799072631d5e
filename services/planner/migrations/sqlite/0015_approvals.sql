-- Conditions on which a task starts, beside its dependencies, as JSON; NULL without any. A plan with such a task is never
-- compacted.
ALTER TABLE tasks ADD COLUMN conditions TEXT;

-- Approvals that tasks wait or waited for. The first decision is written here, by any planner; the planner of the plan applies it.
CREATE TABLE approvals (
    plan_id         TEXT NOT NULL,
    ordinal         INTEGER NOT NULL,
    requested_at    INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    reason          TEXT NOT NULL,
    approver        TEXT NOT NULL,
    on_expiry       TEXT NOT NULL, -- fail, reject or approve
    input           TEXT NOT NULL, -- JSON object
    input_hash      TEXT NOT NULL,
    state           TEXT NOT NULL, -- waiting, approved, rejected, expired or withdrawn
    is_open         INTEGER NOT NULL, -- 1 until the task takes notice of the decision, or ends
    decided_at      INTEGER, -- NULL without a decision, as the next four
    actor           TEXT,
    decision_reason TEXT,
    decided_by      TEXT, -- the correlation id of the request; NULL for an expiry
    new_input       TEXT, -- JSON object with which the task runs instead; NULL for none
    PRIMARY KEY (plan_id, ordinal),
    FOREIGN KEY (plan_id, ordinal) REFERENCES tasks (plan_id, ordinal) ON DELETE CASCADE
) WITHOUT ROWID, STRICT;

-- In the order of listings.
CREATE INDEX approvals_open ON approvals (state, requested_at, plan_id, ordinal) WHERE is_open;

CREATE TRIGGER approval_closed AFTER UPDATE OF status ON tasks
WHEN OLD.status = 'awaiting_approval' AND NEW.status <> 'awaiting_approval' BEGIN
    UPDATE approvals SET is_open = 0, state = CASE state WHEN 'waiting' THEN 'withdrawn' ELSE state END
    WHERE plan_id = NEW.plan_id AND ordinal = NEW.ordinal;
END;
