-- The journal. Times are microseconds since 1970 UTC, by the clock of the planner that wrote them. Plan ids are UUIDs of version
-- 7: rows of one time lie together, and newest-first is the order of the key. JSON is text, kept digit for digit. Free text
-- holds U+0000 as the two characters U+2400 and `0`, and U+2400 twice.
--
-- No table refers to another one by a foreign key: only `append_batch` writes rows, and only retention deletes them, those of
-- one plan together. Each reference would cost a lookup and a row lock per row.

-- Planners that live. `beat` grows with every heartbeat; a planner that sees it unchanged for a while, on its own clock, takes
-- the other one for dead and deletes its row.
CREATE TABLE phoenix_planner.planners (
    instance text COLLATE "C" PRIMARY KEY,
    beat     bigint NOT NULL DEFAULT 0,
    seen_at  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Writers of the planners. The row of a writer is its fence and the number of its last batch: every batch updates it, in the
-- transaction that writes the batch. Deleting it waits for the batch that is being written, and no other batch follows. A batch
-- that is sent twice finds its own number and changes nothing. Writer -1 takes plans over.
CREATE TABLE phoenix_planner.writers (
    planner  text COLLATE "C" NOT NULL,
    writer   integer NOT NULL,
    sequence bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (planner, writer)
) WITH (fillfactor = 20);

-- Planners that died, as opposed to those that gave their plans up in order, for as long as they own unfinished plans.
CREATE TABLE phoenix_planner.dead_planners (
    instance text COLLATE "C" PRIMARY KEY,
    seen_at  bigint NOT NULL
);

CREATE TABLE phoenix_planner.plans (
    plan_id        uuid PRIMARY KEY,
    correlation_id uuid NOT NULL,
    kind           text NOT NULL, -- chat or graph
    status         text NOT NULL,
    owner          text COLLATE "C" NOT NULL, -- the planner that runs it
    created_at     bigint NOT NULL,
    deadline_at    bigint,
    ended_at       bigint,
    context        text NOT NULL,
    error          text, -- JSON: code, message, details, retry_after_ms
    redrive_of     uuid, -- the plan that this one redrives
    takeovers      integer NOT NULL DEFAULT 0,
    crashes        integer NOT NULL DEFAULT 0,
    taken_over_at  bigint
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE INDEX plans_by_correlation ON phoenix_planner.plans (correlation_id);
CREATE INDEX plans_by_status ON phoenix_planner.plans (status, plan_id);
CREATE INDEX plans_unfinished ON phoenix_planner.plans (owner, plan_id) WHERE status IN ('pending', 'running');
CREATE UNIQUE INDEX plans_by_redrive ON phoenix_planner.plans (redrive_of) WHERE redrive_of IS NOT NULL;

CREATE TABLE phoenix_planner.tasks (
    plan_id       uuid NOT NULL,
    ordinal       integer NOT NULL, -- of the task in its plan, from 0
    task_id       uuid NOT NULL,
    key           text NOT NULL,
    agent         text NOT NULL,
    action        text NOT NULL,
    payload       text NOT NULL, -- JSON object
    depends_on    text NOT NULL, -- JSON array of keys
    on_failure    text NOT NULL, -- fail or continue
    status        text NOT NULL,
    queued_at     bigint NOT NULL,
    dispatched_at bigint,
    ended_at      bigint,
    output        text, -- JSON: output_type, data, metadata
    error         text,
    PRIMARY KEY (plan_id, ordinal)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE INDEX tasks_by_agent ON phoenix_planner.tasks (agent, plan_id);

CREATE TABLE phoenix_planner.attempts (
    plan_id     uuid NOT NULL,
    ordinal     integer NOT NULL,
    number      bigint NOT NULL, -- from 1
    started_at  bigint NOT NULL,
    ended_at    bigint,
    outcome     text, -- succeeded, failed or cancelled; NULL while it runs
    error_class text,
    message     text,
    stderr_tail text,
    worker      text NOT NULL,
    PRIMARY KEY (plan_id, ordinal, number)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_insert_scale_factor = 0.1);

-- Events in rows of up to 64, which follow each other without a gap; so positions are taken 64 at a time. Transactions become
-- visible in another order than that of positions; `xid` tells which ones a reader may have missed.
CREATE SEQUENCE phoenix_planner.event_positions INCREMENT BY 64;

CREATE TABLE phoenix_planner.events (
    plan_id  uuid NOT NULL,
    position bigint NOT NULL, -- of the first event of the row
    xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),
    events   text NOT NULL, -- JSON array of [ordinal of the task or null, kind, time, facts]
    PRIMARY KEY (plan_id, position)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE TABLE phoenix_planner.idempotency_keys (
    key            text COLLATE "C" PRIMARY KEY,
    digest         text NOT NULL,
    subject        uuid NOT NULL, -- what the first request created or changed
    created_at     bigint NOT NULL,
    correlation_id uuid
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX idempotency_keys_by_age ON phoenix_planner.idempotency_keys (created_at);

-- Plans that are to be cancelled by whichever planner owns them.
CREATE TABLE phoenix_planner.cancel_requests (
    plan_id uuid PRIMARY KEY,
    reason  text NOT NULL,
    at      bigint NOT NULL
);

-- Tasks that failed for good.
CREATE TABLE phoenix_planner.dead_letters (
    plan_id     uuid NOT NULL,
    ordinal     integer NOT NULL,
    at          bigint NOT NULL, -- when the task failed for good
    agent       text NOT NULL,
    code        text NOT NULL, -- of its error
    error_class text, -- of its last attempt
    state       text NOT NULL DEFAULT 'open', -- open, redriven or discarded
    settled_at  bigint, -- NULL while it is open, as the next two
    settled_by  uuid, -- the correlation id of the request that redrove or discarded it
    reason      text,
    sweep_id    uuid, -- the last bulk operation that has selected it
    PRIMARY KEY (plan_id, ordinal)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- In the order of listings, with everything else that they are filtered by.
CREATE INDEX dead_letters_by_state ON phoenix_planner.dead_letters (state, at, plan_id, ordinal, code, error_class);
CREATE INDEX dead_letters_by_agent ON phoenix_planner.dead_letters (agent, state, at, plan_id, ordinal, code, error_class);
CREATE INDEX dead_letters_by_sweep ON phoenix_planner.dead_letters (sweep_id) WHERE sweep_id IS NOT NULL;

-- Bulk operations.
CREATE TABLE phoenix_planner.sweeps (
    sweep_id      uuid PRIMARY KEY,
    action        text NOT NULL, -- redrive or discard
    rate          double precision, -- plans per second, of a redrive
    reason        text NOT NULL,
    by            uuid NOT NULL, -- the correlation id of the request
    at            bigint NOT NULL,
    owner         text COLLATE "C" NOT NULL, -- the planner that runs it
    selected      bigint NOT NULL, -- dead letters
    ended_at      bigint,
    taken_over_at bigint
);

CREATE INDEX sweeps_unfinished ON phoenix_planner.sweeps (owner) WHERE ended_at IS NULL;

-- How many dead letters are open, counted as they come and go. In several rows, so that concurrent transactions seldom wait for
-- each other; the sum counts.
CREATE TABLE phoenix_planner.open_dead_letters (
    part  integer PRIMARY KEY,
    count bigint NOT NULL
) WITH (fillfactor = 20);

INSERT INTO phoenix_planner.open_dead_letters SELECT part, 0 FROM generate_series(0, 15) AS part;

CREATE FUNCTION phoenix_planner.count_dead_letters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change bigint := 0;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        change := change + (SELECT count(*) FROM after_rows WHERE state = 'open');
    END IF;
    IF TG_OP <> 'INSERT' THEN
        change := change - (SELECT count(*) FROM before_rows WHERE state = 'open');
    END IF;
    IF change <> 0 THEN
        UPDATE phoenix_planner.open_dead_letters SET count = count + change WHERE part = pg_backend_pid() % 16;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER dead_letters_added AFTER INSERT ON phoenix_planner.dead_letters
    REFERENCING NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION phoenix_planner.count_dead_letters();
CREATE TRIGGER dead_letters_changed AFTER UPDATE ON phoenix_planner.dead_letters
    REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION phoenix_planner.count_dead_letters();
CREATE TRIGGER dead_letters_deleted AFTER DELETE ON phoenix_planner.dead_letters
    REFERENCING OLD TABLE AS before_rows
    FOR EACH STATEMENT EXECUTE FUNCTION phoenix_planner.count_dead_letters();
