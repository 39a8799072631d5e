//! Damaged journals: readable plans are served, unreadable ones are errors, and nothing panics.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use phoenix_domain::{CorrelationId, OrchestratorErrorCode as Code, plan::PlanStatus};
use phoenix_planner::store::{self, Entry, Store};
use phoenix_platform::RequestContext;
use phoenix_proto::planner::{
    ListPlansRequest, PlanAndExecuteRequest, PlanStatus as WireStatus, TaskStatus as WireTask,
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Peers, Script, TestPlanner, answers, batch, eventually, new_plan,
    status_of,
};

const PAGE: u64 = 4096;

/// Files of a planner's journal.
fn files(planner: &TestPlanner) -> [PathBuf; 3] {
    let path = planner.database_url.strip_prefix("sqlite://").unwrap();
    ["", "-wal", "-shm"].map(|suffix| format!("{path}{suffix}").into())
}

async fn is_refused(planner: &TestPlanner) {
    eventually(async || !planner.is_serving().await).await;
    let error = planner.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(!error.message.contains(".db"), "{error}");
}

#[tokio::test]
async fn removed_journal_file_makes_the_planner_unready() {
    for (removed, replaced) in [(&[0, 1, 2][..], false), (&[0], false), (&[1], false), (&[0], true)] {
        let planner = TestPlanner::new().await;
        planner.chat("before").await.unwrap();
        let files = files(&planner);
        for file in removed {
            std::fs::remove_file(&files[*file]).unwrap();
        }
        if replaced {
            std::fs::write(&files[0], "").unwrap();
        }
        is_refused(&planner).await;
        assert_eq!(files[0].exists(), replaced || !removed.contains(&0), "no file is created in its place");
    }
}

#[tokio::test]
async fn answer_that_the_database_rejects_fails_only_its_plan() {
    let planner = TestPlanner::new().await;
    let mut file = SqliteConnection::connect(&planner.database_url).await.unwrap();
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON log WHEN CAST(NEW.entries AS TEXT) LIKE '%poison%'
                   BEGIN SELECT RAISE(ABORT, 'this is not allowed'); END";
    sqlx::raw_sql(trigger).execute(&mut file).await.unwrap();
    planner.script("notes", Script::Says(answers("poison")));
    let (bad, good) = tokio::join!(
        planner.send(RequestContext::new(CorrelationId::generate()), "hello", Some("notes")),
        planner.chat("hello"),
    );
    good.unwrap();
    let error = bad.unwrap_err();
    assert_eq!(error.code, Code::Internal, "{error}");
    assert!(error.message.contains("this is not allowed"), "{error}");
    let plan = planner.plan(&error.details["plan_id"]).await;
    assert_eq!((status_of(&plan), plan.tasks[0].status()), (WireStatus::Failed, WireTask::DeadLettered));
    assert!(planner.is_serving().await);
    planner.chat("another").await.unwrap();
}

#[tokio::test]
async fn restored_journal_file_is_used_again() {
    let planner = TestPlanner::new().await;
    let files = files(&planner);
    let away = files.clone().map(|file| file.with_extension("away"));
    std::fs::rename(&files[0], &away[0]).unwrap();
    is_refused(&planner).await;
    std::fs::rename(&away[0], &files[0]).unwrap();
    eventually(async || planner.is_serving().await && planner.chat("after").await.is_ok()).await;
}

/// Creates the journal of an earlier planner with `plans` plans, every other one terminal. Returns their ids.
async fn journal(dir: &Path, plans: usize) -> Vec<String> {
    let url = format!("sqlite://{}", dir.join("planner.db").display());
    let journal = store::open(&url).await.unwrap();
    journal.register("earlier").await.unwrap();
    let mut ids = Vec::new();
    for n in 0..plans {
        let mut plan = new_plan(Timestamp::now(), &["model"]);
        plan.context = "something to fill pages with ".repeat(20);
        let (plan_id, status, at) = (plan.plan_id, PlanStatus::Succeeded, plan.created_at);
        let mut entries = vec![Entry::PlanAccepted { trace: None, plan: plan.into() }];
        if n % 2 == 0 {
            entries.push(Entry::PlanEnded { plan_id, status, at, result: Ok(()) });
        }
        journal.append(&batch("earlier"), &[entries.into()]).await.unwrap();
        ids.push(plan_id.to_string());
    }
    journal.release("earlier").await.unwrap();
    drop::<Arc<dyn Store>>(journal);
    // Moves everything into the file that is damaged below, once the last reader has closed.
    eventually(async || {
        let mut file = SqliteConnection::connect(&url).await.unwrap();
        let folded: (i64, i64, i64) =
            sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut file).await.unwrap();
        file.close().await.unwrap();
        folded.0 == 0
    })
    .await;
    ids
}

async fn alter(dir: &Path, sql: String) {
    let url = format!("sqlite://{}", dir.join("planner.db").display());
    let mut file = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
}

#[tokio::test]
async fn damaged_row_affects_only_its_own_plan() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let ids = journal(dir.path(), 8).await;
    // A terminal plan and an unfinished one.
    for id in [&ids[2], &ids[3]] {
        alter(dir.path(), format!("UPDATE tasks SET payload = '{{\"a secret\": ' WHERE plan_id = '{id}'"))
            .await;
    }
    alter(dir.path(), format!("UPDATE plans SET kind = '?' WHERE plan_id = '{}'", ids[6])).await;
    let planner = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    for (n, id) in ids.iter().enumerate() {
        if [2, 3, 6].contains(&n) {
            let error = planner.find_plan(id).await.unwrap_err();
            assert_eq!(error.code, Code::Internal, "{error}");
            assert!(error.message.contains(if n == 6 { "plans.kind" } else { "tasks.payload" }), "{error}");
            assert!(!error.message.contains("secret"), "{error}");
        } else {
            eventually(async || status_of(&planner.plan(id).await) == WireStatus::Succeeded).await;
        }
    }
    let mut listed = Vec::new();
    let mut request = ListPlansRequest { page_size: 3, ..ListPlansRequest::default() };
    loop {
        let page = planner.client.clone().list_plans(request.clone()).await.unwrap().into_inner();
        listed.extend(page.plans.into_iter().map(|plan| plan.plan_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    listed.sort_unstable();
    let mut readable: Vec<_> = (0..8).filter(|n| *n != 6).map(|n| ids[n].clone()).collect();
    readable.sort_unstable();
    assert_eq!(listed, readable, "a listing reads only the plan's own row");
    planner.chat("hello").await.unwrap();
}

/// Overwrites every `step`th page of the journal from page `first` on, both from 0; the first page is the header's.
fn overwrite(dir: &Path, first: u64, step: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("planner.db")).unwrap();
    let pages = file.metadata().unwrap().len() / PAGE;
    assert!(pages > 40, "there is a middle: {pages} pages");
    for page in (first..pages).step_by(step) {
        file.write_all_at(&[0xa5; PAGE as usize], page * PAGE).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_file_is_rejected_or_served_without_panic() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(panic);
    }));
    let (mut refused, mut read) = (0, 0);
    for (first, step) in [(0, 10_000), (1, 10_000), (1, 1), (10, 2), (11, 3), (20, 7), (30, 10_000), (35, 11)]
    {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let ids = journal(dir.path(), 60).await;
        overwrite(dir.path(), first, step);
        let peers = Peers { executor: true, health: false };
        let mut planner = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), peers).await;
        let server = planner.server.take().unwrap();
        // Needs no journal.
        let answers = async || {
            let request =
                PlanAndExecuteRequest { message: "hello".into(), ..PlanAndExecuteRequest::default() };
            planner.client.clone().dry_run_plan(request).await.is_ok()
        };
        eventually(async || server.is_finished() || answers().await).await;
        if server.is_finished() {
            let problem = server.await.expect("it does not panic").unwrap_err();
            assert!(problem.contains("malformed") || problem.contains("not a database"), "{problem}");
            assert!(problem.contains("planner.db"), "the file is named: {problem}");
            refused += 1;
            continue;
        }
        for id in &ids {
            match planner.find_plan(id).await {
                Ok(_) => read += 1,
                Err(error) => assert_eq!(error.code, Code::Internal, "{first} {step}: {error}"),
            }
        }
        if let Err(error) = planner.chat("hello").await {
            assert!(matches!(error.code, Code::Internal | Code::Unavailable), "{error}");
            eventually(async || !planner.is_serving().await).await;
        }
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    assert!(refused > 1 && read > 0, "{refused} were refused, {read} plans read");
}
