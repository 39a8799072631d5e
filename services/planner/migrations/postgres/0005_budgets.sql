-- Accounts of budgets. Amounts are arrays of four: billionths of a dollar, tokens, calls, milliseconds.
CREATE TABLE phoenix_planner.budgets (
    account   text COLLATE "C" PRIMARY KEY, -- such as agent/NAME/2026-11-27, or plan/ID
    resets_at bigint,                       -- NULL for the account of a plan
    used      bigint[] NOT NULL DEFAULT '{0,0,0,0}',
    reserved  bigint[] NOT NULL DEFAULT '{0,0,0,0}' -- by the calls in budget_reservations
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- What is reserved for attempts that run.
CREATE TABLE phoenix_planner.budget_reservations (
    plan_id uuid NOT NULL,
    ordinal integer NOT NULL,
    number  bigint NOT NULL, -- of the attempt
    account text COLLATE "C" NOT NULL,
    planner text NOT NULL,   -- that runs the attempt
    at      bigint NOT NULL,
    amounts bigint[] NOT NULL,
    PRIMARY KEY (plan_id, ordinal, number, account)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

ALTER TABLE phoenix_planner.plans ADD COLUMN budget text; -- JSON array of limits, null for none; NULL without any

CREATE FUNCTION phoenix_planner.delete_budget_of_plan() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM phoenix_planner.budgets WHERE account = 'plan/' || OLD.plan_id::text;
    RETURN NULL;
END $$;

CREATE TRIGGER plan_with_budget_deleted AFTER DELETE ON phoenix_planner.plans
FOR EACH ROW WHEN (OLD.budget IS NOT NULL) EXECUTE FUNCTION phoenix_planner.delete_budget_of_plan();

-- a + factor * b
CREATE FUNCTION phoenix_planner.each_sum(a bigint[], b bigint[], factor bigint) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY[a[1] + factor * b[1], a[2] + factor * b[2], a[3] + factor * b[3], a[4] + factor * b[4]]
$$;

-- Reserves amounts for a call in several accounts: in all, or in none. Amounts and limits (NULL for none) have four items for each
-- account. Returns what each account held before, and what is granted there: the amounts, with less time if less is left, or
-- NULL. Nothing is reserved when an account grants NULL. A repeated call returns what it was granted before. Error PX001: the
-- planner is fenced.
CREATE FUNCTION phoenix_planner.reserve_budget(
    by_planner text, of_plan uuid, of_ordinal integer, of_number bigint, reserved_at bigint,
    accounts text[], resets bigint[], wanted bigint[], limits bigint[]
) RETURNS TABLE (was_used bigint[], was_reserved bigint[], granted bigint[]) LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
DECLARE
    is_repeated boolean;
    is_refused boolean := FALSE;
    free bigint;
    all_granted bigint[] := '{}';
BEGIN
    PERFORM FROM phoenix_planner.planners WHERE instance = by_planner FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PX001', MESSAGE = 'the planner is fenced';
    END IF;
    -- Always in the same order, so that no two callers wait for each other.
    INSERT INTO phoenix_planner.budgets (account, resets_at)
    SELECT * FROM UNNEST(accounts, resets) AS new (account, resets_at) ORDER BY new.account
    ON CONFLICT (account) DO NOTHING;
    PERFORM FROM phoenix_planner.budgets WHERE account = ANY (accounts) ORDER BY account FOR UPDATE;
    is_repeated := EXISTS (SELECT FROM phoenix_planner.budget_reservations
                           WHERE plan_id = of_plan AND ordinal = of_ordinal AND number = of_number);
    FOR i IN 1 .. cardinality(accounts) LOOP
        SELECT used, reserved INTO was_used, was_reserved FROM phoenix_planner.budgets WHERE account = accounts[i];
        IF is_repeated THEN
            granted := (SELECT amounts FROM phoenix_planner.budget_reservations
                        WHERE plan_id = of_plan AND ordinal = of_ordinal AND number = of_number AND account = accounts[i]);
        ELSE
            granted := wanted[4 * i - 3 : 4 * i];
            FOR k IN 1 .. 4 LOOP
                CONTINUE WHEN limits[4 * i - 4 + k] IS NULL;
                free := limits[4 * i - 4 + k] - was_used[k] - was_reserved[k];
                IF free < (CASE k WHEN 4 THEN 1 ELSE greatest(granted[k], 1) END) THEN
                    granted := NULL;
                    EXIT;
                END IF;
                granted[k] := least(granted[k], free);
            END LOOP;
            is_refused := is_refused OR granted IS NULL;
            all_granted := all_granted || granted;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF NOT is_refused AND NOT is_repeated THEN
        FOR i IN 1 .. cardinality(accounts) LOOP
            INSERT INTO phoenix_planner.budget_reservations (plan_id, ordinal, number, account, planner, at, amounts)
            VALUES (of_plan, of_ordinal, of_number, accounts[i], by_planner, reserved_at, all_granted[4 * i - 3 : 4 * i]);
            UPDATE phoenix_planner.budgets
            SET reserved = phoenix_planner.each_sum(reserved, all_granted[4 * i - 3 : 4 * i], 1) WHERE account = accounts[i];
        END LOOP;
    END IF;
END $$;

-- Ends the reservations of a call, and counts what it used. Without a reservation, nothing changes. Error PX001: the planner is
-- fenced.
CREATE FUNCTION phoenix_planner.settle_budget(
    by_planner text, of_plan uuid, of_ordinal integer, of_number bigint, accounts text[], resets bigint[], amounts_used bigint[]
) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
DECLARE
    freed record;
BEGIN
    PERFORM FROM phoenix_planner.planners WHERE instance = by_planner FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PX001', MESSAGE = 'the planner is fenced';
    END IF;
    IF NOT EXISTS (SELECT FROM phoenix_planner.budget_reservations
                   WHERE plan_id = of_plan AND ordinal = of_ordinal AND number = of_number) THEN
        RETURN;
    END IF;
    INSERT INTO phoenix_planner.budgets (account, resets_at)
    SELECT * FROM UNNEST(accounts, resets) AS new (account, resets_at) ORDER BY new.account
    ON CONFLICT (account) DO NOTHING;
    PERFORM FROM phoenix_planner.budgets
    WHERE account = ANY (accounts) OR account IN (
        SELECT account FROM phoenix_planner.budget_reservations
        WHERE plan_id = of_plan AND ordinal = of_ordinal AND number = of_number)
    ORDER BY account FOR UPDATE;
    FOR freed IN
        DELETE FROM phoenix_planner.budget_reservations
        WHERE plan_id = of_plan AND ordinal = of_ordinal AND number = of_number RETURNING account, amounts
    LOOP
        UPDATE phoenix_planner.budgets SET reserved = phoenix_planner.each_sum(reserved, freed.amounts, -1)
        WHERE account = freed.account;
    END LOOP;
    FOR i IN 1 .. cardinality(accounts) LOOP
        UPDATE phoenix_planner.budgets
        SET used = phoenix_planner.each_sum(used, amounts_used[4 * i - 3 : 4 * i], 1) WHERE account = accounts[i];
    END LOOP;
END $$;

-- As append_batch, for the few batches with calls of models of failed attempts, or with budgets of plans. The first end of an
-- attempt counts.
CREATE FUNCTION phoenix_planner.append_more(
    by_planner text, by_writer integer, batch_sequence bigint,
    keys_key text[], keys_digest text[], keys_subject uuid[], keys_created_at bigint[], keys_correlation_id uuid[],
    plans_plan_id uuid[], plans_correlation_id uuid[], plans_kind text[], plans_status text[], plans_created_at bigint[],
    plans_deadline_at bigint[], plans_ended_at bigint[], plans_context text[], plans_error text[], plans_redrive_of uuid[],
    tasks_plan_id uuid[], tasks_ordinal integer[], tasks_task_id uuid[], tasks_key text[], tasks_agent text[],
    tasks_action text[], tasks_payload text[], tasks_depends_on text[], tasks_on_failure text[], tasks_status text[],
    tasks_queued_at bigint[], tasks_dispatched_at bigint[], tasks_ended_at bigint[], tasks_output text[], tasks_error text[],
    failed_plan_id uuid[], failed_ordinal integer[], failed_at bigint[], failed_agent text[], failed_code text[],
    failed_error_class text[],
    attempts_plan_id uuid[], attempts_ordinal integer[], attempts_number bigint[], attempts_started_at bigint[],
    attempts_worker text[], attempts_ended_at bigint[], attempts_outcome text[], attempts_error_class text[],
    attempts_message text[], attempts_stderr_tail text[],
    ends_plan_id uuid[], ends_ordinal integer[], ends_number bigint[], ends_ended_at bigint[], ends_outcome text[],
    ends_error_class text[], ends_message text[], ends_stderr_tail text[],
    steps_plan_id uuid[], steps_ordinal integer[], steps_status text[], steps_dispatched_at bigint[], steps_ended_at bigint[],
    steps_output text[], steps_error text[], steps_code text[], steps_error_class text[],
    states_plan_id uuid[], states_status text[], states_ended_at bigint[], states_error text[],
    redrives_plan_id uuid[], redrives_at bigint[], redrives_by uuid[], redrives_reason text[], redrives_is_bulk boolean[],
    events_plan_id uuid[], events_events text[],
    calls_plan_id uuid[], calls_ordinal integer[], calls_number bigint[], calls_model_calls text[],
    budgets_plan_id uuid[], budgets_budget text[]
) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
BEGIN
    IF NOT phoenix_planner.append_batch(
        by_planner, by_writer, batch_sequence, keys_key, keys_digest, keys_subject, keys_created_at, keys_correlation_id,
        plans_plan_id, plans_correlation_id, plans_kind, plans_status, plans_created_at, plans_deadline_at, plans_ended_at,
        plans_context, plans_error, plans_redrive_of, tasks_plan_id, tasks_ordinal, tasks_task_id, tasks_key, tasks_agent,
        tasks_action, tasks_payload, tasks_depends_on, tasks_on_failure, tasks_status, tasks_queued_at,
        tasks_dispatched_at, tasks_ended_at, tasks_output, tasks_error, failed_plan_id, failed_ordinal, failed_at,
        failed_agent, failed_code, failed_error_class, attempts_plan_id, attempts_ordinal, attempts_number,
        attempts_started_at, attempts_worker, attempts_ended_at, attempts_outcome, attempts_error_class, attempts_message,
        attempts_stderr_tail, ends_plan_id, ends_ordinal, ends_number, ends_ended_at, ends_outcome, ends_error_class,
        ends_message, ends_stderr_tail, steps_plan_id, steps_ordinal, steps_status, steps_dispatched_at, steps_ended_at,
        steps_output, steps_error, steps_code, steps_error_class, states_plan_id, states_status, states_ended_at,
        states_error, redrives_plan_id, redrives_at, redrives_by, redrives_reason, redrives_is_bulk, events_plan_id,
        events_events
    ) THEN
        RETURN FALSE;
    END IF;
    UPDATE phoenix_planner.attempts SET model_calls = used.model_calls
    FROM UNNEST(calls_plan_id, calls_ordinal, calls_number, calls_model_calls) AS used (plan_id, ordinal, number, model_calls)
    WHERE attempts.plan_id = used.plan_id AND attempts.ordinal = used.ordinal AND attempts.number = used.number
        AND attempts.outcome = 'failed' AND attempts.model_calls IS NULL;
    UPDATE phoenix_planner.plans SET budget = new.budget
    FROM UNNEST(budgets_plan_id, budgets_budget) AS new (plan_id, budget) WHERE plans.plan_id = new.plan_id;
    RETURN TRUE;
END $$;
