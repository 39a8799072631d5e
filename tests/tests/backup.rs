//! Backups taken while the stack runs, and restores from them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use phoenix_domain::{
    CorrelationId, PlanId,
    plan::{Plan, PlanKind, PlanStatus},
};
use phoenix_planner::store::{self, BatchId, Entry};
use phoenix_testkit::{http::Rest, phoenix_bin, stack::Stack};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Runs `phoenix` with `arguments` in `dir`.
async fn phoenix(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(phoenix_bin());
    command.args(arguments).current_dir(dir);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Submits a plan for `agent` and returns its id.
async fn submit(rest: &Rest, agent: &str) -> String {
    let task = json!({"key": "t", "agent": agent, "action": "chat", "input": {"message": "kept"}});
    rest.submit("/api/v1/plans", json!({"tasks": [task]})).await
}

#[tokio::test]
async fn backup_contains_acknowledged_plans_and_resumes_them() {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let hang = json!([SCRIPTED, "hang", dir.join("hang.starts")]);
    let mut stack =
        builder.config(&format!("[agents.later]\ncommand = {hang}\ntimeout_secs = 600\n")).start().await;
    let rest = stack.rest();
    let finished = submit(&rest, "echo_agent").await;
    assert_eq!(rest.wait_for_end(&finished).await["status"], "succeeded");
    let unfinished = submit(&rest, "later").await;

    // Under load.
    let enough = AtomicBool::new(false);
    let load = async {
        while !enough.load(Ordering::Relaxed) {
            assert_eq!(rest.chat_with("echo_agent", "load").await.str("output"), "load");
        }
    };
    let backup = async {
        let backup = phoenix(&dir, &["backup", "--data-dir", "data", "--to", "copy"]).await;
        let again = phoenix(&dir, &["backup", "--data-dir", "data", "--to", "copy"]).await;
        enough.store(true, Ordering::Relaxed);
        (backup, again)
    };
    let ((backup, again), ()) = tokio::join!(backup, load);
    assert!(backup.status.success(), "{}", text(&backup));
    assert!(text(&backup).contains("wrote"), "{}", text(&backup));
    assert_eq!(again.status.code(), Some(1), "an earlier backup is not overwritten: {}", text(&again));
    assert!(text(&again).contains("--force"), "{}", text(&again));
    stack.signal(Signal::SIGKILL);
    assert_eq!(stack.wait().await, None);

    // A stack with only the copy, and an agent that now answers.
    let builder = Stack::builder();
    let echo = json!([SCRIPTED, "echo", builder.dir().join("echo.starts")]);
    let copy = dir.join("copy");
    let restore =
        phoenix(builder.dir(), &["restore", "--from", copy.to_str().unwrap(), "--data-dir", "data"]).await;
    assert!(restore.status.success(), "{}", text(&restore));
    let mut restored = builder.config(&format!("[agents.later]\ncommand = {echo}\n")).start().await;
    let rest = restored.rest();
    assert_eq!(rest.wait_for_end(&finished).await["status"], "succeeded");
    let plan = rest.wait_for_end(&unfinished).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("kept")), "{plan:#}");
    let again = ["restore", "--from", copy.to_str().unwrap(), "--data-dir", "data", "--force"];
    let busy = phoenix(&restored.dir(), &again).await;
    assert_eq!(busy.status.code(), Some(1), "not while a stack runs: {}", text(&busy));
    assert_eq!(restored.stop().await, Some(0));
}

/// Creates a data folder with one plan, a note, and the files that a killed planner leaves. Returns the id of the plan.
async fn data(folder: &Path) -> String {
    std::fs::create_dir_all(folder.join("vault/deep")).unwrap();
    std::fs::write(folder.join("vault/deep/note.md"), "a note").unwrap();
    let journal = store::open(&format!("sqlite://{}", folder.join("live.db").display())).await.unwrap();
    journal.register("gone").await.unwrap();
    let plan = plan();
    let plan_id = plan.plan_id.to_string();
    let batch = BatchId { planner: "gone".into(), writer: 0, sequence: 1 };
    journal.append(&batch, &[[Entry::PlanAccepted { plan: plan.into(), trace: None }].into()]).await.unwrap();
    // A copy of the current state, with the last commit still in the write-ahead log.
    for suffix in ["", "-wal"] {
        let (from, to) = (format!("live.db{suffix}"), format!("planner.db{suffix}"));
        std::fs::copy(folder.join(from), folder.join(to)).unwrap();
    }
    assert!(std::fs::metadata(folder.join("planner.db-wal")).unwrap().len() > 0);
    drop(journal);
    for file in std::fs::read_dir(folder).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("live.db") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    plan_id
}

fn plan() -> Plan {
    Plan {
        plan_id: PlanId::generate(),
        correlation_id: CorrelationId::generate(),
        kind: PlanKind::Graph,
        status: PlanStatus::Pending,
        created_at: Timestamp::now(),
        deadline_at: None,
        ended_at: None,
        context: "something to fill pages with ".repeat(3_000),
        output: None,
        error: None,
        redrive_of: None,
        redriven_as: None,
        budget: phoenix_domain::budget::Limits::NONE,
        tasks: Vec::new(),
    }
}

async fn contains_plan(database: &Path, plan_id: &str) -> bool {
    let journal = store::open(&format!("sqlite://{}", database.display())).await.unwrap();
    journal.plan(plan_id.parse().unwrap()).await.unwrap().is_some()
}

/// The entries of a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn backup_replaces_only_an_earlier_backup_and_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let plan_id = data(&dir.join("data")).await;
    let code = async |arguments: &[&str]| phoenix(dir, arguments).await.status.code().unwrap();
    let backup = async |to: &str, more: &[&str]| code(&[&["backup", "--to", to], more].concat()).await;
    assert_eq!(backup("deep/er/copy", &[]).await, 0, "folders are created");
    let copy = dir.join("deep/er/copy");
    assert_eq!(names(&copy), ["planner.db", "vault"], "one file, without the companions of the source");
    assert_eq!(std::fs::read_to_string(copy.join("vault/deep/note.md")).unwrap(), "a note");

    std::fs::write(copy.join("vault/deep/note.md"), "an old note").unwrap();
    assert_eq!(backup("deep/er/copy", &[]).await, 1);
    assert_eq!(std::fs::read_to_string(copy.join("vault/deep/note.md")).unwrap(), "an old note");
    assert_eq!(backup("deep/er/copy", &["--force"]).await, 0);
    assert_eq!(std::fs::read_to_string(copy.join("vault/deep/note.md")).unwrap(), "a note");
    assert_eq!(names(&dir.join("deep/er")), ["copy"], "no other file is left");

    std::fs::create_dir(dir.join("mine")).unwrap();
    std::fs::write(dir.join("mine/precious"), "").unwrap();
    for to in ["mine", "data", "mine/precious", "/", ".."] {
        assert_ne!(backup(to, &["--force"]).await, 0, "{to}");
    }
    assert_eq!(names(&dir.join("mine")), ["precious"]);

    let url = "sqlite://data/planner.db";
    assert_eq!(backup("one.db", &["--database-url", url]).await, 0);
    assert_eq!(backup("one.db", &["--database-url", url]).await, 1);
    assert!(contains_plan(&dir.join("one.db"), &plan_id).await);
    assert_eq!(backup("x", &["--database-url", "postgres://elsewhere"]).await, 64);
    assert_eq!(backup("x", &["--data-dir", "nowhere"]).await, 1);
    assert_eq!(code(&["backup"]).await, 64);
    assert_eq!(
        code(&["restore", "--from", "one.db", "--data-dir", "new"]).await,
        64,
        "the target is missing"
    );
    assert_eq!(code(&["restore", "--from", "one.db", "--database-url", "sqlite://new/planner.db"]).await, 0);
    assert!(contains_plan(&dir.join("new/planner.db"), &plan_id).await);
}

#[tokio::test]
async fn restore_renames_existing_files_with_their_companions() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (kept, lost) = (data(&dir.join("good")).await, data(&dir.join("data")).await);
    assert!(phoenix(dir, &["backup", "--data-dir", "good", "--to", "copy"]).await.status.success());
    let refused = phoenix(dir, &["restore", "--from", "copy"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("--force"), "{}", text(&refused));
    // The write-ahead log of the replaced database must not be applied to the restored one.
    let restored = phoenix(dir, &["restore", "--from", "copy", "--force"]).await;
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(text(&restored).contains(".replaced-"), "{}", text(&restored));
    let database = dir.join("data/planner.db");
    assert!(contains_plan(&database, &kept).await && !contains_plan(&database, &lost).await);
    let before = names(&dir.join("data")).into_iter().find(|name| name.starts_with("planner.db.replaced-"));
    assert!(
        contains_plan(&dir.join("data").join(before.unwrap()), &lost).await,
        "the replaced database is kept"
    );
}

#[tokio::test]
async fn damaged_database_is_neither_backed_up_nor_restored() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    data(&dir.join("data")).await;
    assert!(phoenix(dir, &["backup", "--to", "copy"]).await.status.success());
    // Damages a page in the middle of the plan's context, which also links to the next page.
    let damage = |file: &Path| {
        let mut bytes = std::fs::read(file).unwrap();
        let text = b"something to fill pages with ";
        let first = bytes.windows(text.len()).position(|window| window == text).unwrap();
        let page = first.next_multiple_of(4096);
        bytes[page..page + 4096].fill(0xa5);
        std::fs::write(file, bytes).unwrap();
    };
    damage(&dir.join("copy/planner.db"));
    let restored = phoenix(dir, &["restore", "--from", "copy", "--data-dir", "new"]).await;
    assert_eq!(restored.status.code(), Some(1), "{}", text(&restored));
    assert!(text(&restored).contains("nothing was restored"), "{}", text(&restored));
    assert_eq!(names(&dir.join("new")), [""; 0]);

    std::fs::rename(dir.join("copy"), dir.join("damaged")).unwrap();
    let backup = phoenix(dir, &["backup", "--data-dir", "damaged", "--to", "other"]).await;
    assert_eq!(backup.status.code(), Some(1), "{}", text(&backup));
    assert!(text(&backup).contains("planner.db") && text(&backup).contains("malformed"), "{}", text(&backup));
    assert!(!dir.join("other").exists());
}
