-- Calls of models that a failed attempt used all the same, as JSON; NULL when it reported none. What an attempt used that
-- succeeded is in the metadata of its task's output.
ALTER TABLE phoenix_planner.attempts ADD COLUMN model_calls text;

-- As append_batch, for the few batches with failed attempts that called models. The first end of an attempt counts.
CREATE FUNCTION phoenix_planner.append_batch_with_calls(
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
    calls_plan_id uuid[], calls_ordinal integer[], calls_number bigint[], calls_model_calls text[]
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
    RETURN TRUE;
END $$;
