-- The way in for a writer: one statement, so one round trip, for a whole batch. Every kind of change is one statement on arrays,
-- one array for each column. Returns FALSE when this batch is there already.
--
-- Errors: PX001, the planner is fenced; PX002, a plan cannot be redriven (any more); a unique violation, something is reserved
-- already. Nothing is written then.
--
-- The settings hold while the statements are planned: the plans of a session outlive the minute in which the tables grow from
-- empty to large, and must use the keys from the start.
--
-- A version with other parameters adds a function under another name: two versions may run side by side.
CREATE FUNCTION phoenix_planner.append_batch(
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
    events_plan_id uuid[], events_events text[]
) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    found_rows bigint;
    missing bigint;
BEGIN
    UPDATE phoenix_planner.writers SET sequence = batch_sequence
    WHERE planner = by_planner AND writer = by_writer AND sequence < batch_sequence;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM phoenix_planner.writers WHERE planner = by_planner AND writer = by_writer) THEN
            RETURN FALSE;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'PX001', MESSAGE = 'the planner is fenced';
    END IF;

    IF cardinality(keys_key) > 0 THEN
        INSERT INTO phoenix_planner.idempotency_keys (key, digest, subject, created_at, correlation_id)
        SELECT * FROM UNNEST(keys_key, keys_digest, keys_subject, keys_created_at, keys_correlation_id);
    END IF;

    IF cardinality(redrives_plan_id) > 0 THEN
        -- Retention may have deleted a plan; it deletes none that is locked here.
        PERFORM FROM phoenix_planner.plans WHERE plan_id = ANY (redrives_plan_id) FOR KEY SHARE;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        IF found_rows < cardinality(redrives_plan_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'PX002', MESSAGE = 'a plan to redrive is gone';
        END IF;
        WITH redriven AS (
            UPDATE phoenix_planner.dead_letters
            SET state = 'redriven', settled_at = new.at, settled_by = new.by, reason = new.reason
            FROM UNNEST(redrives_plan_id, redrives_at, redrives_by, redrives_reason) AS new (plan_id, at, by, reason)
            WHERE dead_letters.plan_id = new.plan_id AND dead_letters.state = 'open'
            RETURNING dead_letters.plan_id
        )
        SELECT count(*) INTO missing FROM UNNEST(redrives_plan_id, redrives_is_bulk) AS wanted (plan_id, is_bulk)
        WHERE is_bulk AND NOT EXISTS (SELECT FROM redriven WHERE redriven.plan_id = wanted.plan_id);
        IF missing > 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'PX002', MESSAGE = 'no dead letter of a plan to redrive is open';
        END IF;
    END IF;

    IF cardinality(plans_plan_id) > 0 THEN
        INSERT INTO phoenix_planner.plans (plan_id, correlation_id, kind, status, created_at, deadline_at, ended_at, context,
                                           error, redrive_of, owner)
        SELECT *, by_planner
        FROM UNNEST(plans_plan_id, plans_correlation_id, plans_kind, plans_status, plans_created_at, plans_deadline_at,
                    plans_ended_at, plans_context, plans_error, plans_redrive_of);
    END IF;

    IF cardinality(tasks_plan_id) > 0 THEN
        INSERT INTO phoenix_planner.tasks (plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure,
                                           status, queued_at, dispatched_at, ended_at, output, error)
        SELECT * FROM UNNEST(tasks_plan_id, tasks_ordinal, tasks_task_id, tasks_key, tasks_agent, tasks_action, tasks_payload,
                             tasks_depends_on, tasks_on_failure, tasks_status, tasks_queued_at, tasks_dispatched_at,
                             tasks_ended_at, tasks_output, tasks_error);
    END IF;

    IF cardinality(failed_plan_id) > 0 THEN
        INSERT INTO phoenix_planner.dead_letters (plan_id, ordinal, at, agent, code, error_class)
        SELECT * FROM UNNEST(failed_plan_id, failed_ordinal, failed_at, failed_agent, failed_code, failed_error_class);
    END IF;

    IF cardinality(attempts_plan_id) > 0 THEN
        -- An executor that repeats a number must not stop the journal, nor one that reports on a plan that ended before.
        INSERT INTO phoenix_planner.attempts (plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class,
                                              message, stderr_tail)
        SELECT * FROM UNNEST(attempts_plan_id, attempts_ordinal, attempts_number, attempts_started_at, attempts_worker,
                             attempts_ended_at, attempts_outcome, attempts_error_class, attempts_message,
                             attempts_stderr_tail)
            AS new (plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class, message, stderr_tail)
        WHERE NOT EXISTS (SELECT FROM phoenix_planner.plans
                          WHERE plans.plan_id = new.plan_id AND plans.status IN ('succeeded', 'failed', 'cancelled')
                              AND NOT plans.plan_id = ANY (plans_plan_id))
        ON CONFLICT (plan_id, ordinal, number) DO NOTHING;
    END IF;

    IF cardinality(ends_plan_id) > 0 THEN
        UPDATE phoenix_planner.attempts
        SET ended_at = new.ended_at, outcome = new.outcome, error_class = new.error_class, message = new.message,
            stderr_tail = new.stderr_tail
        FROM UNNEST(ends_plan_id, ends_ordinal, ends_number, ends_ended_at, ends_outcome, ends_error_class, ends_message,
                    ends_stderr_tail)
            AS new (plan_id, ordinal, number, ended_at, outcome, error_class, message, stderr_tail)
        WHERE attempts.plan_id = new.plan_id AND attempts.ordinal = new.ordinal AND attempts.number = new.number
            AND attempts.outcome IS NULL;
    END IF;

    IF cardinality(steps_plan_id) > 0 THEN
        -- A terminal state never changes.
        UPDATE phoenix_planner.tasks
        SET status = new.status, dispatched_at = coalesce(tasks.dispatched_at, new.dispatched_at),
            ended_at = new.ended_at, output = new.output, error = new.error
        FROM UNNEST(steps_plan_id, steps_ordinal, steps_status, steps_dispatched_at, steps_ended_at, steps_output, steps_error)
            AS new (plan_id, ordinal, status, dispatched_at, ended_at, output, error)
        WHERE tasks.plan_id = new.plan_id AND tasks.ordinal = new.ordinal
            AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled');
        IF 'dead_lettered' = ANY (steps_status) THEN
            -- A task that ended otherwise before is no dead letter, whatever later entries say.
            INSERT INTO phoenix_planner.dead_letters (plan_id, ordinal, at, agent, code, error_class)
            SELECT plan_id, ordinal, tasks.ended_at, tasks.agent, new.code, new.error_class
            FROM UNNEST(steps_plan_id, steps_ordinal, steps_status, steps_code, steps_error_class)
                AS new (plan_id, ordinal, status, code, error_class)
            JOIN phoenix_planner.tasks USING (plan_id, ordinal)
            WHERE new.status = 'dead_lettered' AND tasks.status = 'dead_lettered'
            ON CONFLICT (plan_id, ordinal) DO NOTHING;
        END IF;
    END IF;

    IF cardinality(states_plan_id) > 0 THEN
        UPDATE phoenix_planner.plans
        SET status = new.status, ended_at = new.ended_at, error = new.error
        FROM UNNEST(states_plan_id, states_status, states_ended_at, states_error) AS new (plan_id, status, ended_at, error)
        WHERE plans.plan_id = new.plan_id AND plans.status NOT IN ('succeeded', 'failed', 'cancelled')
            AND plans.status <> new.status;
    END IF;

    IF cardinality(events_plan_id) > 0 THEN
        -- After every row lock: positions of one plan grow in the order in which its transactions are committed.
        INSERT INTO phoenix_planner.events (plan_id, position, events)
        SELECT plan_id, nextval('phoenix_planner.event_positions'), events
        FROM UNNEST(events_plan_id, events_events) AS new (plan_id, events);
    END IF;

    RETURN TRUE;
END $$;
