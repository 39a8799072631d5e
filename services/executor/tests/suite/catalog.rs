//! The catalog that the executor publishes.

use phoenix_domain::{ActionSpec, AgentSpec, schema::InputSchema};
use phoenix_proto::executor::{AgentLoad, Catalog, WatchCatalogRequest};
use tokio::time::timeout;
use tonic::Streaming;

use crate::sandbox::{Sandbox, TIMEOUT, agent};

async fn watch(sandbox: &Sandbox, with_load: bool) -> Streaming<Catalog> {
    let request = WatchCatalogRequest { with_load };
    sandbox.client.clone().watch_catalog(request).await.unwrap().into_inner()
}

async fn next(catalogs: &mut Streaming<Catalog>) -> Option<Catalog> {
    timeout(TIMEOUT, catalogs.message()).await.expect("a message").unwrap()
}

/// Waits until the load is this.
async fn until_load(catalogs: &mut Streaming<Catalog>, running: u32, free: u32) {
    let expected = AgentLoad { agent: "test_agent".into(), running, free };
    loop {
        let Catalog { agents, loads, .. } = next(catalogs).await.unwrap();
        assert!(agents.is_none(), "they have not changed");
        if loads == [expected.clone()] {
            return;
        }
    }
}

#[tokio::test]
async fn catalog_holds_agents_labels_and_the_changing_load() {
    let schema = InputSchema::new(serde_json::json!({"required": ["title"]})).unwrap();
    let write =
        ActionSpec { description: "Writes".into(), input_schema: Some(schema), ..ActionSpec::default() };
    let spec = AgentSpec {
        max_concurrency: 1,
        max_queue: 2,
        actions: [("write".to_owned(), write)].into(),
        ..agent(&["hang"])
    };
    let published = AgentSpec { command: Vec::new(), env: Vec::new(), ..spec.clone() };
    let sandbox = Sandbox::start_with(spec, |config| {
        config.labels.insert("gpu".into(), "true".into());
    })
    .await;
    let mut catalogs = watch(&sandbox, true).await;
    let Catalog { instance_id, labels, agents, loads } = next(&mut catalogs).await.unwrap();
    assert_eq!((instance_id.is_empty(), labels["gpu"].as_str()), (false, "true"));
    let agents = agents.unwrap().agents.into_iter().map(|agent| AgentSpec::try_from(agent).unwrap());
    assert_eq!(agents.collect::<Vec<_>>(), [published]);
    assert_eq!(loads, [AgentLoad { agent: "test_agent".into(), running: 0, free: 3 }]);

    let running = sandbox.start_running(sandbox.request()).await;
    until_load(&mut catalogs, 1, 2).await;
    drop(running);
    until_load(&mut catalogs, 0, 3).await;
    let again = next(&mut watch(&sandbox, true).await).await.unwrap();
    assert_eq!(again.instance_id, instance_id);
    sandbox.stop().await;
}

#[tokio::test]
async fn shutdown_ends_catalog_streams_at_once() {
    let sandbox = Sandbox::start(agent(&["hang"])).await;
    let mut catalogs = watch(&sandbox, false).await;
    let first = next(&mut catalogs).await.unwrap();
    assert!(first.agents.is_some() && first.loads.is_empty());
    sandbox.shutdown.cancel();
    assert_eq!(next(&mut catalogs).await, None);
    sandbox.stop().await;
}

#[tokio::test]
async fn catalog_beyond_the_limit_stops_the_start() {
    let sandbox = Sandbox::start(AgentSpec { description: "x".repeat(5 << 20), ..agent(&["hang"]) }).await;
    let error = timeout(TIMEOUT, sandbox.served).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("bytes long; at most 4194304 are allowed"), "{error}");
}
