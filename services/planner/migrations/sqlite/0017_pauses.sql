-- Decisions about budgets that are used up, for which tasks wait or waited: the last one of each task. As approvals; a table of its
-- own, so that planners of the version before can share the journal.
CREATE TABLE pauses (
    plan_id         TEXT NOT NULL,
    ordinal         INTEGER NOT NULL,
    requested_at    INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    reason          TEXT NOT NULL,
    approver        TEXT NOT NULL,
    on_expiry       TEXT NOT NULL,
    input           TEXT NOT NULL, -- JSON object: which limit is reached
    input_hash      TEXT NOT NULL,
    state           TEXT NOT NULL, -- waiting, approved, rejected, expired or withdrawn
    is_open         INTEGER NOT NULL, -- 1 until the task takes notice of the decision, or ends
    decided_at      INTEGER, -- NULL without a decision, as the next four
    actor           TEXT,
    decision_reason TEXT,
    decided_by      TEXT, -- the correlation id of the request; NULL for an expiry
    new_input       TEXT, -- JSON object with new limits of the plan; NULL for none
    PRIMARY KEY (plan_id, ordinal),
    FOREIGN KEY (plan_id, ordinal) REFERENCES tasks (plan_id, ordinal) ON DELETE CASCADE
) WITHOUT ROWID, STRICT;

-- In the order of listings.
CREATE INDEX pauses_open ON pauses (state, requested_at, plan_id, ordinal) WHERE is_open;

CREATE TRIGGER pause_closed AFTER UPDATE OF status ON tasks
WHEN OLD.status = 'awaiting_budget' AND NEW.status <> 'awaiting_budget' BEGIN
    UPDATE pauses SET is_open = 0, state = CASE state WHEN 'waiting' THEN 'withdrawn' ELSE state END
    WHERE plan_id = NEW.plan_id AND ordinal = NEW.ordinal;
END;

-- What is decided about: inputs of tasks, and budgets.
CREATE VIEW decisions AS
SELECT 'input' AS kind, approvals.* FROM approvals UNION ALL SELECT 'budget', pauses.* FROM pauses;
