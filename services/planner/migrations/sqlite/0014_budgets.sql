-- Accounts of budgets. Amounts are JSON arrays of integers: billionths of a dollar, tokens, calls, milliseconds.
CREATE TABLE budgets (
    account   TEXT PRIMARY KEY,                     -- such as agent/NAME/2026-11-27, or plan/ID
    resets_at INTEGER,                              -- NULL for the account of a plan
    used      TEXT NOT NULL DEFAULT '[0,0,0,0]',
    reserved  TEXT NOT NULL DEFAULT '[0,0,0,0]'     -- by the calls in budget_reservations
) STRICT, WITHOUT ROWID;

-- What is reserved for attempts that run.
CREATE TABLE budget_reservations (
    plan_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    number  INTEGER NOT NULL,  -- of the attempt
    account TEXT NOT NULL,
    planner TEXT NOT NULL,     -- that runs the attempt
    at      INTEGER NOT NULL,
    amounts TEXT NOT NULL,
    PRIMARY KEY (plan_id, ordinal, number, account)
) STRICT, WITHOUT ROWID;

ALTER TABLE plans ADD COLUMN budget TEXT; -- JSON array of limits, NULL for none; NULL without any

CREATE TRIGGER plan_with_budget_deleted AFTER DELETE ON plans WHEN OLD.budget IS NOT NULL BEGIN
    DELETE FROM budgets WHERE account = 'plan/' || OLD.plan_id;
END;
