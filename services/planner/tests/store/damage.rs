//! Damaged records: readable plans are read and continue.

use phoenix_domain::{
    OrchestratorError,
    json::Json,
    plan::{Plan, PlanStatus},
};
use phoenix_planner::store::{self, Entry, JournalError, PlanFilter};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{Fresh, accepted, at, life, new_plan, plan_ended, plan_ids, sqlite, take_over, write};

impl Fresh {
    async fn alter(&self, sql: String) {
        let mut file = SqliteConnection::connect(&self.url).await.unwrap();
        let altered = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut file).await.unwrap();
        assert_ne!(altered.rows_affected(), 0);
    }

    async fn lives(&self, plans: usize) -> Vec<Plan> {
        let plans: Vec<_> = (0..plans).map(|_| new_plan(&["a", "b"])).collect();
        for plan in &plans {
            write(&*self.store, "me", &life(plan)).await.unwrap();
        }
        // The rows that are altered below are applied by now.
        self.store.plan(plans[0].plan_id).await.unwrap();
        plans
    }
}

#[tokio::test]
async fn damaged_row_error_names_the_column_only() {
    for (table, column, value) in [
        ("plans", "status", "'?'"),
        ("plans", "correlation_id", "'?'"),
        ("plans", "error", "'?'"),
        ("plans", "created_at", "9223372036854775807"),
        ("plans", "context", "CAST(x'ff' AS TEXT)"),
        ("tasks", "payload", "'{\"a secret\": '"),
        ("tasks", "payload", "'[\"a secret\"]'"),
        ("tasks", "status", "'?'"),
        ("tasks", "agent", "'../?'"),
        ("attempts", "outcome", "'?'"),
        ("attempts", "ordinal", "ordinal + 9"),
        ("events", "events", "'?'"),
    ] {
        let fresh = sqlite().await;
        let plan_id = fresh.lives(1).await[0].plan_id;
        // The check of foreign keys is off for this connection.
        fresh.alter(format!("PRAGMA foreign_keys = OFF; UPDATE {table} SET {column} = {value}")).await;
        let error = match table {
            "events" => fresh.store.events(plan_id, 0, 10).await.unwrap_err(),
            _ => fresh.store.plan(plan_id).await.unwrap_err(),
        };
        assert!(matches!(error, JournalError::Damaged(_)), "{table}.{column}: {error:?}");
        let error = error.to_string();
        assert!(error.contains(column) || column == "created_at", "{table}.{column}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn damaged_row_does_not_end_a_listing() {
    let fresh = sqlite().await;
    let plans = fresh.lives(7).await;
    let damaged = [plans[4].plan_id, plans[2].plan_id];
    let [one, other] = damaged;
    fresh.alter(format!("UPDATE plans SET status = '?' WHERE plan_id IN ('{one}', '{other}')")).await;
    let (mut listed, mut unreadable, mut before) = (Vec::new(), Vec::new(), None);
    loop {
        let filter = PlanFilter { before, limit: 3, ..PlanFilter::default() };
        let page = fresh.store.plans(&filter).await.unwrap();
        assert_eq!(
            page.items.len() + page.unreadable.len(),
            if before == Some(plans[1].plan_id) { 1 } else { 3 }
        );
        listed.extend(page.items.into_iter().map(|plan| plan.plan_id));
        unreadable.extend(page.unreadable.into_iter().map(|record| record.id));
        before = page.last;
        if before.is_none() {
            break;
        }
    }
    let readable = [6, 5, 3, 1, 0].map(|n| plans[n].plan_id);
    assert_eq!(listed, readable);
    assert_eq!(unreadable, damaged.map(|id| id.to_string()));
}

#[tokio::test]
async fn unreadable_id_does_not_block_takeover_of_others() {
    let fresh = sqlite().await;
    let plans = [new_plan(&["a"]), new_plan(&["a"])];
    write(&*fresh.store, "me", &[accepted(&plans[0]), accepted(&plans[1])]).await.unwrap();
    fresh.store.plan(plans[0].plan_id).await.unwrap();
    fresh
        .alter(format!(
            "PRAGMA foreign_keys = OFF; UPDATE plans SET plan_id = '?' WHERE plan_id = '{}';
             INSERT INTO sweeps VALUES ('?', '?', NULL, '', '?', 0, 'gone', 0, NULL)",
            plans[0].plan_id
        ))
        .await;
    fresh.store.register("heir").await.unwrap();
    fresh.store.release("me").await.unwrap();
    let taken = take_over(&*fresh.store, "heir", &[]).await;
    assert_eq!((plan_ids(&taken), taken.bulk), (vec![plans[1].plan_id], Vec::new()));
    assert_eq!(taken.unreadable.iter().map(|record| &*record.id).collect::<Vec<_>>(), ["?", "?"]);
    assert!(take_over(&*fresh.store, "heir", &[]).await.unreadable.is_empty(), "reported once");
}

/// Adds a row to the log between two intact plans, reopens the journal, and reads both. Returns whether they are intact, and
/// the number of records in quarantine.
async fn between_two_plans(row: &[u8]) -> (Fresh, [Option<Plan>; 2], i64) {
    let mut fresh = sqlite().await;
    let plans = [new_plan(&["a"]), new_plan(&["a"])];
    write(&*fresh.store, "me", &[accepted(&plans[0])]).await.unwrap();
    fresh.append(row).await;
    write(&*fresh.store, "me", &[accepted(&plans[1]), plan_ended(&plans[1], 1)]).await.unwrap();
    // As after a restart: nothing is remembered.
    fresh.store = store::open(&fresh.url).await.unwrap();
    let mut found = [None, None];
    for (plan, found) in plans.iter().zip(&mut found) {
        *found = fresh.store.plan(plan.plan_id).await.ok().flatten();
    }
    let quarantined = fresh.quarantined().await;
    (fresh, found, quarantined)
}

impl Fresh {
    /// Adds a row to the log.
    async fn append(&self, row: &[u8]) {
        let mut file = SqliteConnection::connect(&self.url).await.unwrap();
        let insert = sqlx::query("INSERT INTO log (planner, entries) VALUES ('me', CAST(? AS TEXT))");
        insert.bind(row).execute(&mut file).await.unwrap();
    }

    /// Records in quarantine.
    async fn quarantined(&self) -> i64 {
        let mut file = SqliteConnection::connect(&self.url).await.unwrap();
        let counts: (i64, i64) =
            sqlx::query_as("SELECT count(*), (SELECT quarantined FROM journal) FROM quarantined_records")
                .fetch_one(&mut file)
                .await
                .unwrap();
        assert_eq!(counts.0, counts.1);
        counts.0
    }
}

#[tokio::test]
async fn damaged_record_goes_into_quarantine_alone() {
    let lost = new_plan(&["a"]).plan_id;
    let missing_plan = format!(
        r#"[{{"attempt_started":{{"task":{{"plan_id":"{lost}","ordinal":0}},"number":1,"at":"2026-01-31T12:00:00Z","worker":"w"}}}}]"#
    );
    let envelope = format!(r#"{{"v":1,"plan_id":"{lost}","record":{{"plan_ended":{{"plan_id":7}}}}}}"#);
    for damaged in [
        b"no JSON".as_slice(),
        b"[{",
        b"[\"\xff\"]",
        br#"{"v":1,"record":"#,
        lost.to_string().as_bytes(),
        missing_plan.as_bytes(),
        envelope.as_bytes(),
    ] {
        let (_, found, quarantined) = between_two_plans(damaged).await;
        let shown = String::from_utf8_lossy(damaged);
        assert!(found.iter().all(Option::is_some), "{shown}: {found:?}");
        assert_eq!(quarantined, 1, "{shown}");
    }
}

#[tokio::test]
async fn record_of_newer_version_affects_only_its_plan() {
    let own = new_plan(&["a"]).plan_id;
    let in_envelope = format!(r#"{{"v":1,"plan_id":"{own}","record":{{"from_the_future":{{}}}}}}"#);
    let of_version = format!(r#"{{"v":2,"plan_id":"{own}","record":[1]}}"#);
    let of_status = format!(
        r#"[{{"plan_ended":{{"plan_id":"{own}","status":"paused","at":"2026-01-31T12:00:00Z","result":{{"Ok":""}}}}}}]"#
    );
    for row in [r#"[{"from_the_future":{}}]"#, &in_envelope, &of_version, &of_status] {
        let (fresh, found, quarantined) = between_two_plans(row.as_bytes()).await;
        assert!(found.iter().all(Option::is_some), "{row}: {found:?}");
        assert_eq!(quarantined, 1, "{row}");
        if row.contains(&own.to_string()) {
            let unreadable = fresh.store.plan(own).await;
            assert!(matches!(unreadable, Err(JournalError::Damaged(_))), "{row}: {unreadable:?}");
        }
    }
}

#[tokio::test]
async fn unusable_record_in_shared_commit_affects_only_its_plan() {
    for unusable in [
        r#""plan_id":"{}","record":{"from_the_future":{}}"#,
        r#""plan_id":"{}","record":{"attempt_started":{"task":{"plan_id":"{}","ordinal":9},"number":1,"at":"2026-01-31T12:00:00Z","worker":"w"}}"#,
    ] {
        let mut fresh = sqlite().await;
        let plans: Vec<_> = (0..32).map(|_| new_plan(&["a", "b"])).collect();
        for plan in &plans {
            write(&*fresh.store, "me", &[accepted(plan)]).await.unwrap();
        }
        fresh.store.plan(plans[0].plan_id).await.unwrap();
        let bad = plans[7].plan_id.to_string();
        fresh.append(format!("{{\"v\":1,{}}}\n", unusable.replace("{}", &bad)).as_bytes()).await;
        fresh.store = store::open(&fresh.url).await.unwrap();
        // One commit for all of them, including the damaged one.
        let lives: Vec<_> = plans.iter().map(|plan| life(plan)[1..].into()).collect();
        assert!(crate::append(&*fresh.store, "me", &lives).await.unwrap().is_empty());
        for (n, plan) in plans.iter().enumerate() {
            let read = fresh.store.plan(plan.plan_id).await;
            let events = fresh.store.events(plan.plan_id, 0, 100).await;
            if n == 7 {
                assert!(matches!(read, Err(JournalError::Damaged(_))), "{read:?}");
                assert!(matches!(events, Err(JournalError::Damaged(_))), "{events:?}");
            } else {
                assert_eq!(read.unwrap().unwrap().status, PlanStatus::Succeeded);
                assert_eq!(events.unwrap().len(), 12);
            }
        }
        let own = life(&plans[7]).len() as i64 - 1;
        assert_eq!(fresh.quarantined().await, 1 + own, "its later records follow it");
        assert_eq!(
            fresh.store.plans(&PlanFilter { limit: 100, ..PlanFilter::default() }).await.unwrap().items.len(),
            32
        );
    }
}

#[tokio::test]
async fn quarantined_plan_is_readmitted_by_a_version_that_knows_it() {
    let fresh = sqlite().await;
    let plan = new_plan(&["a", "b"]);
    let (plan_id, correlation_id, task_id) = (plan.plan_id, plan.correlation_id, plan.tasks[0].task_id);
    let record = format!(
        r#"{{"v":1,"plan_id":"{plan_id}","record":{{"plan_accepted":{{"plan":{{"plan_id":"{plan_id}","correlation_id":"{correlation_id}","kind":"graph","status":"pending","created_at":"2026-01-31T12:00:00Z","context":"","tasks":[{{"task_id":"{task_id}","spec":{{"key":"t0","agent":"a","action":"do","payload":{{}},"depends_on":[],"on_failure":"fail"}},"status":"queued","queued_at":"2026-01-31T12:00:00Z"}}]}}}}}}}}"#
    );
    fresh
        .alter(format!(
            "INSERT INTO quarantined_records (plan_id, at, reason, is_unknown, planner, record)
             VALUES ('{plan_id}', 0, 'a kind of this version', 1, 'me', '{record}')"
        ))
        .await;
    assert!(fresh.store.plan(plan_id).await.is_err());
    let newer = store::open(&fresh.url).await.unwrap();
    assert_eq!(newer.plan(plan_id).await.unwrap().unwrap().plan_id, plan_id);
    assert_eq!(fresh.quarantined().await, 0);
}

#[tokio::test]
async fn records_of_every_version_are_read() {
    for records in [&include_bytes!("records/0.1.0.json")[..], include_bytes!("records/1.jsonl")] {
        let fresh = sqlite().await;
        fresh.append(records).await;
        let read = async |id: &str| fresh.store.plan(id.parse().unwrap()).await.unwrap().unwrap();
        let plan = read("01a21740-b794-71a6-8e39-000000000001").await;
        assert_eq!(fresh.quarantined().await, 0);
        let redriven = read("01a21740-b794-71a6-8e39-000000000002").await;
        assert_eq!((plan.status, plan.redriven_as), (PlanStatus::Failed, Some(redriven.plan_id)));
        assert_eq!((redriven.status, redriven.output.as_deref()), (PlanStatus::Succeeded, Some("hello")));
        let [a, b] = &plan.tasks[..] else { panic!("{plan:?}") };
        assert_eq!(
            a.spec.payload.to_string(),
            r#"{"n":12345678901234567890123,"$serde_json::private::RawValue":"[1,2]"}"#
        );
        let output = a.output.as_ref().unwrap();
        assert_eq!(output.data.to_string(), r#"{"n":12345678901234567890123}"#);
        assert_eq!((output.metadata.to_string().as_str(), a.attempts.len()), (r#"{"m":1}"#, 2));
        let error = b.error.as_ref().unwrap();
        assert_eq!((&*error.message, error.retry_after.unwrap().as_millis()), ("no", 1500));
        assert_eq!(fresh.store.events(plan.plan_id, 0, 100).await.unwrap().len(), 12);
        let recorded = "01a21740-b794-71a6-8e39-000000000003".parse().unwrap();
        // Version 0.1.0 had no such plans.
        if let Some(event) = fresh.store.events(recorded, 0, 100).await.unwrap().get(1) {
            let parts =
                r#"{"attempt":1,"parts":[{"text":"hel"},{"text":"","delta":{"reasoning_content":"hm"}}]}"#;
            assert_eq!((event.kind.as_str(), event.data.as_str()), ("task_output", parts));
        }
    }
}

#[tokio::test]
async fn records_of_approvals_are_read() {
    let fresh = sqlite().await;
    fresh.append(include_bytes!("records/1-approvals.jsonl")).await;
    let plan_id = "01a21740-b794-71a6-8e39-000000000003".parse().unwrap();
    let plan = fresh.store.plan(plan_id).await.unwrap().unwrap();
    assert_eq!(fresh.quarantined().await, 0);
    let terms = plan.tasks[0].spec.start.approval.as_ref().unwrap();
    assert_eq!(
        (&*terms.reason, &*terms.approver, terms.timeout.unwrap().as_secs()),
        ("it writes", "ops", 60)
    );
    let approval = plan.tasks[0].approval.as_ref().unwrap();
    assert_eq!((approval.state.as_str(), approval.on_expiry.as_str()), ("waiting", "reject"));
    assert_eq!(approval.input.to_string(), r#"{"n":12345678901234567890123}"#);
    assert_eq!(plan.tasks[0].status.as_str(), "awaiting_approval");
    let events = fresh.store.events(plan_id, 0, 10).await.unwrap();
    assert_eq!((events.len(), &*events[2].kind, &*events[2].task_key), (3, "rejected", "t1"));
    assert_eq!(events[2].data, r#"{"input_hash":"3bd6","actor":"ann","reason":"no"}"#);
}

#[tokio::test]
async fn records_of_waits_are_read() {
    let fresh = sqlite().await;
    fresh.append(include_bytes!("records/1-waits.jsonl")).await;
    let plan_id = "01a21740-b794-71a6-8e39-000000000004".parse().unwrap();
    let plan = fresh.store.plan(plan_id).await.unwrap().unwrap();
    assert_eq!(fresh.quarantined().await, 0);
    let states: Vec<_> = plan.tasks.iter().map(|task| task.status.as_str()).collect();
    assert_eq!(states, ["awaiting_time", "queued"]);
    let start = plan.tasks[0].spec.start.not_before.unwrap();
    assert_eq!(start.to_string(), "2026-02-01T03:00:00.5Z");
    let events = fresh.store.events(plan_id, 0, 10).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| &*event.kind).collect();
    let waits = ["wait_started", "wait_started", "wait_ended", "wait_started", "wait_ended"];
    assert_eq!((kinds[0], &kinds[1..]), ("plan_accepted", &waits[..]));
    assert_eq!(plan.tasks[1].spec.start.on_budget.as_str(), "pause");
    assert_eq!(plan.budget.values(), [None, None, Some(2), None]);
    let pause = plan.tasks[1].pause.as_ref().unwrap();
    assert_eq!(
        (pause.kind.as_str(), pause.state.as_str()),
        ("budget", "withdrawn"),
        "it was decided in the same batch"
    );
}

#[tokio::test]
async fn record_of_a_plan_with_its_trace_is_read() {
    let fresh = sqlite().await;
    fresh.append(include_bytes!("records/1-traced.jsonl")).await;
    let plan_id = "01a21740-b794-71a6-8e39-000000000006".parse().unwrap();
    let events = fresh.store.events(plan_id, 0, 10).await.unwrap();
    let traceparent = r#""traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01""#;
    assert!(events[0].data.contains(traceparent), "{}", events[0].data);
    assert_eq!(fresh.quarantined().await, 0);
}

#[tokio::test]
async fn record_of_a_lost_attempt_has_its_reason() {
    let fresh = sqlite().await;
    fresh.append(include_bytes!("records/1-lost.jsonl")).await;
    let plan_id = "01a21740-b794-71a6-8e39-000000000007".parse().unwrap();
    let plan = fresh.store.plan(plan_id).await.unwrap().unwrap();
    assert_eq!(fresh.quarantined().await, 0);
    let reasons: Vec<_> =
        plan.tasks[0].attempts.iter().map(|attempt| attempt.outcome.as_ref()?.reason()).collect();
    assert_eq!(reasons, [Some("its executor was lost while it ran"), None]);
    let events = fresh.store.events(plan_id, 0, 10).await.unwrap();
    let ended: Vec<_> = events.iter().filter(|event| event.kind == "attempt_ended").collect();
    assert!(ended[0].data.contains(r#""reason":"its executor was lost while it ran""#), "{}", ended[0].data);
    assert!(!ended[1].data.contains("reason"), "{}", ended[1].data);
}

#[tokio::test]
async fn records_of_added_tasks_are_read() {
    let fresh = sqlite().await;
    fresh.append(include_bytes!("records/1-planned.jsonl")).await;
    let plan_id = "01a21740-b794-71a6-8e39-000000000005".parse().unwrap();
    let plan = fresh.store.plan(plan_id).await.unwrap().unwrap();
    assert_eq!(fresh.quarantined().await, 0);
    let keys: Vec<_> = plan.tasks.iter().map(|task| (&*task.spec.key, task.status.as_str())).collect();
    assert_eq!(keys, [("planning-1", "succeeded"), ("status", "queued"), ("commit", "queued")]);
    assert_eq!(plan.kind.as_str(), "planned");
    assert_eq!(plan.tasks[2].spec.start.approval.as_ref().unwrap().reason, "it writes");
    let events = fresh.store.events(plan_id, 0, 10).await.unwrap();
    assert_eq!(events[2].data, r#"{"tasks":2,"keys":["status","commit"]}"#);
}

#[tokio::test]
async fn deep_json_of_older_version_is_read() {
    let fresh = sqlite().await;
    let mut deep = new_plan(&["a", "b"]);
    let nested = format!("{{\"x\":{}{}}}", "[".repeat(123), "]".repeat(123));
    deep.tasks[0].spec.payload = Json::parse_stored(&nested).unwrap().try_into().unwrap();
    let others: Vec<_> = (0..31).map(|_| new_plan(&["a"])).collect();
    let groups: Vec<_> =
        std::iter::once(&deep).chain(&others).map(|plan| [accepted(plan)][..].into()).collect();
    crate::append(&*fresh.store, "me", &groups).await.unwrap();
    let reopened = store::open(&fresh.url).await.unwrap();
    for plan in others.iter().chain([&deep]) {
        assert_eq!(reopened.plan(plan.plan_id).await.unwrap().as_ref(), Some(plan));
    }
}

#[tokio::test]
async fn page_with_large_rows_ends_early() {
    let fresh = sqlite().await;
    let mut plans = Vec::new();
    for second in 0..24 {
        let plan = new_plan(&["a"]);
        let error = OrchestratorError::internal("x".repeat(900_000));
        let (plan_id, status) = (plan.plan_id, PlanStatus::Failed);
        let ended = Entry::PlanEnded { plan_id, status, at: at(second), result: Err(error) };
        write(&*fresh.store, "me", &[accepted(&plan), ended]).await.unwrap();
        plans.insert(0, plan_id);
    }
    let (mut listed, mut pages, mut before) = (Vec::new(), 0, None);
    loop {
        let page =
            fresh.store.plans(&PlanFilter { before, limit: 500, ..PlanFilter::default() }).await.unwrap();
        listed.extend(page.items.iter().map(|plan| plan.plan_id));
        pages += 1;
        before = page.last;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(listed, plans);
    assert_eq!(pages, 6, "four to a page");
}
