//! Resources and prompts of MCP servers, which are listed, and their faults, which have no effect.

use std::time::Duration;

use phoenix_domain::AgentSpec;
use phoenix_proto::{common::McpListing, health_v1::Outcome};
use prost::Message;
use serde_json::json;

use crate::{
    mcp::{call, outcomes, published, server, starts, watch},
    sandbox::Sandbox,
};

fn prompts(listing: &McpListing) -> Vec<&str> {
    listing.prompts.iter().map(|prompt| prompt.name.as_str()).collect()
}

#[tokio::test]
async fn resources_and_prompts_are_listed_and_change() {
    for era in ["old", "modern"] {
        let sandbox = Sandbox::start(server(&["--era", era, "--lists", "some"])).await;
        let mut catalogs = watch(&sandbox).await;
        let agent = published(&mut catalogs, |agent| agent.listing.is_some()).await;
        let listing = agent.listing.unwrap();
        let resources: Vec<_> = listing
            .resources
            .iter()
            .map(|one| (one.uri.as_str(), one.name.as_str(), one.is_template))
            .collect();
        assert_eq!(
            resources,
            [
                ("note:///1", "first", false),
                ("note:///2", "second", false),
                ("note:///{number}", "notes", true)
            ],
            "{era}"
        );
        assert_eq!(listing.resources[0].mime_type, "text/plain");
        let greet = &listing.prompts[0];
        let arguments: Vec<_> =
            greet.arguments.iter().map(|one| (one.name.as_str(), one.is_required)).collect();
        assert_eq!((greet.description.as_str(), arguments), ("Greets", vec![("who", true), ("how", false)]));
        assert!(!listing.is_truncated);

        assert_eq!(call(&sandbox, "add_prompt", json!({})).await.data(), "added");
        let changed = published(&mut catalogs, |agent| {
            agent.listing.as_ref().is_some_and(|listing| listing.prompts.len() == 2)
        });
        assert_eq!(prompts(&changed.await.listing.unwrap()), ["greet", "part"], "{era}");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn server_without_resources_and_prompts_is_not_asked_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let sandbox = Sandbox::start(server(&["--log", log.to_str().unwrap()])).await;
    let agent = published(&mut watch(&sandbox).await, |agent| agent.listing.is_some()).await;
    assert_eq!(agent.listing, Some(McpListing::default()));
    assert_eq!(call(&sandbox, "echo", json!({"text": "works"})).await.data(), "works");
    let received = std::fs::read_to_string(&log).unwrap();
    assert!(!received.contains("resources/") && !received.contains("prompts/"), "{received}");
    sandbox.stop().await;
}

#[tokio::test]
async fn faults_of_lists_are_bounded_and_disturb_nothing() {
    for (lists, expected) in [
        // Resources, prompts, and whether there are more.
        ("endless", (512, 1, true)),
        ("many", (171, 1, true)),
        // A message of 20 MB is none.
        ("huge", (0, 1, false)),
        ("malformed", (0, 0, false)),
        ("silent", (2, 0, false)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let starts_file = folder.path().join("starts");
        let options = ["--lists", lists, "--starts", starts_file.to_str().unwrap()];
        // A silent list is given up after this time.
        let timeout = Duration::from_secs(if lists == "silent" { 1 } else { 20 });
        let sandbox = Sandbox::start(AgentSpec { timeout, ..server(&options) }).await;
        let mut catalogs = watch(&sandbox).await;
        published(&mut catalogs, |agent| !agent.actions.is_empty()).await;
        assert_eq!(call(&sandbox, "echo", json!({"text": lists})).await.data(), lists);
        let agent = published(&mut catalogs, |agent| agent.listing.is_some()).await;
        let listing = agent.listing.unwrap();
        let found = (listing.resources.len(), listing.prompts.len(), listing.is_truncated);
        assert_eq!(found, expected, "{lists}");
        assert!(listing.encoded_len() < 256 * 1024, "{lists}: {} bytes", listing.encoded_len());
        assert_eq!(call(&sandbox, "echo", json!({"text": "still"})).await.data(), "still");
        assert_eq!(starts(&starts_file), 1, "{lists}: no restart");
        assert!(outcomes(&sandbox).iter().all(|outcome| *outcome == Outcome::Success), "{lists}");
        sandbox.stop().await;
    }
}
