//! Calls that one planner forwards to another on the same journal.

use std::{path::Path, sync::Arc};

use phoenix_domain::{CorrelationId, OrchestratorErrorCode as Code};
use phoenix_planner::store::{self, PlanOwner, Store};
use phoenix_platform::{RequestContext, propagation::ForwardedTo};
use phoenix_proto::planner::{CancelPlanRequest, PlanStatus as Status};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tonic::Request;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, error_of, eventually, graph, status_of, task,
};

/// Two planners on one journal, and the store for a look at it.
pub(super) struct Pair {
    pub(super) owner: TestPlanner,
    pub(super) other: TestPlanner,
    pub(super) store: Arc<dyn Store>,
    dir: Arc<tempfile::TempDir>,
}

fn url(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("planner.db").display())
}

impl Pair {
    pub(super) async fn new() -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().unwrap()), FakeExecutor::default()).await
    }

    /// As [`Self::new`], in this folder, with this executor of the other planner.
    pub(super) async fn in_folder(dir: Arc<tempfile::TempDir>, executor: FakeExecutor) -> Self {
        let start = |executor| TestPlanner::on(Arc::clone(&dir), executor, FakeHealth::default(), ALL_PEERS);
        let (owner, other) = (start(FakeExecutor::default()).await, start(executor).await);
        owner.script("model", Script::Hangs);
        let store = store::open(&url(dir.path())).await.unwrap();
        Self { owner, other, store, dir }
    }

    /// A plan whose task runs at the owner.
    pub(super) async fn running(&self) -> String {
        let request = graph(vec![task("a", "model", "{}", &[])]);
        let plan_id = self.owner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
        // Its start is journaled after the executor has it.
        eventually(async || status_of(&self.owner.plan(&plan_id).await) == Status::Running).await;
        plan_id
    }

    pub(super) async fn owner_of(&self, plan_id: &str) -> PlanOwner {
        self.store.owner(plan_id.parse().unwrap()).await.unwrap().unwrap()
    }

    pub(super) async fn execute(&self, sql: String) {
        let mut file = SqliteConnection::connect(&url(self.dir.path())).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut file).await.unwrap();
    }
}

fn cancel(plan_id: &str) -> CancelPlanRequest {
    CancelPlanRequest { plan_id: plan_id.into(), reason: "enough".into(), ..Default::default() }
}

/// The call as a planner forwards it to `instance`.
fn forwarded(plan_id: &str, instance: &str) -> Request<CancelPlanRequest> {
    let request = RequestContext::new(CorrelationId::generate()).request(cancel(plan_id));
    ForwardedTo(instance.into()).mark(request)
}

#[tokio::test]
async fn cancel_is_forwarded_to_the_planner_that_runs_the_plan() {
    let pair = Pair::new().await;
    // Journaled requests are lost, so only a forwarded call can cancel.
    let lost = "CREATE TRIGGER lost AFTER INSERT ON cancel_requests BEGIN DELETE FROM cancel_requests; END";
    pair.execute(lost.into()).await;
    let plan_id = pair.running().await;
    pair.other.client.clone().cancel_plan(cancel(&plan_id)).await.unwrap();
    let plan = pair.other.plan(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (Status::Cancelled, "enough"));
    eventually(async || pair.owner.executor.log.lock().unwrap().abandoned == 1).await;
}

#[tokio::test]
async fn forwarded_cancel_is_answered_by_the_named_planner_only() {
    let pair = Pair::new().await;
    let plan_id = pair.running().await;
    let owner = pair.owner_of(&plan_id).await.planner;
    for planner in [&pair.owner, &pair.other] {
        for instance in ["another", ""] {
            let refused = planner.client.clone().cancel_plan(forwarded(&plan_id, instance)).await;
            let error = phoenix_proto::error_from_status(&refused.unwrap_err());
            assert_eq!(error.code, Code::Unavailable, "{error:?}");
        }
    }
    // Not even when it knows who runs the plan: a call is forwarded once.
    let others = pair.store.planners().await.unwrap();
    let other = others.iter().find(|known| known.planner != owner).unwrap();
    let refused = pair.other.client.clone().cancel_plan(forwarded(&plan_id, &other.planner)).await;
    assert_eq!(phoenix_proto::error_from_status(&refused.unwrap_err()).code, Code::Unavailable);
    assert_eq!(status_of(&pair.other.plan(&plan_id).await), Status::Running);

    pair.owner.client.clone().cancel_plan(forwarded(&plan_id, &owner)).await.unwrap();
    assert_eq!(status_of(&pair.other.plan(&plan_id).await), Status::Cancelled);
    assert!(pair.store.cancel_requests().await.unwrap().is_empty(), "a forwarded cancel is journaled before");
}

#[tokio::test]
async fn cancel_holds_when_its_owner_cannot_be_reached() {
    let pair = Pair::new().await;
    // No listener, another planner, no URL at all.
    let own = pair.owner_of(&pair.running().await).await;
    let wrong = ["'http://127.0.0.1:1'", "'nonsense'", "NULL"];
    for url in wrong {
        let plan_id = pair.running().await;
        pair.execute(format!("UPDATE planners SET url = {url} WHERE instance = '{}'", own.planner)).await;
        pair.other.client.clone().cancel_plan(cancel(&plan_id)).await.unwrap();
        let plan = pair.other.plan(&plan_id).await;
        assert_eq!(
            (status_of(&plan), error_of(&plan).message.as_str()),
            (Status::Cancelled, "enough"),
            "{url}"
        );
    }
}

#[tokio::test]
async fn advertised_url_is_the_setting_or_the_served_address() {
    let pair = Pair::new().await;
    let own = pair.owner_of(&pair.running().await).await;
    assert!(own.url.starts_with("http://127.0.0.1:"), "{own:?}");
    let named = TestPlanner::configured(
        Arc::new(tempfile::tempdir().unwrap()),
        FakeExecutor::default(),
        FakeHealth::default(),
        ALL_PEERS,
        |config| config.advertise_url = Some("http://planner-7:50051".into()),
    )
    .await;
    named.script("model", Script::Hangs);
    let request = graph(vec![task("a", "model", "{}", &[])]);
    let plan_id = named.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    let store = store::open(&named.database_url).await.unwrap();
    let owner = store.owner(plan_id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(owner.url, "http://planner-7:50051");
}
