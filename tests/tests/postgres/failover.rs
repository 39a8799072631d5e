//! A primary that dies, and a standby that takes its place.

use phoenix_testkit::services::Services;
use phoenix_testkit_postgres::{Proxy, Server};

use crate::{Fixture, load::Load, log_of};

#[tokio::test]
async fn promoted_standby_has_every_acknowledged_plan() {
    let Some(primary) = Server::start().await else { return };
    let (database, standby) = (primary.database().await, primary.standby().await);
    let (proxy, log) = (Proxy::start(primary.port()).await, log_of("failover"));
    let services = Services::start_on(&proxy.url(&database), "", "MARK", &log).await;
    let load = Load::start(&services.rest());
    load.until_more().await;
    let fixture = Fixture { server: standby.clone(), database, proxy, services, load, log };
    // The name leads to the standby at once, which accepts no writes until it is promoted.
    let begin = async || {
        fixture.proxy.redirect(standby.port());
        primary.kill().await;
    };
    let said = fixture.outage("failed over", begin, async || standby.promote().await).await;
    assert_eq!(said, 1, "one line says what happened");
    let log = std::fs::read_to_string(&fixture.log).unwrap();
    assert!(log.contains("read-only transaction"), "the standby was recognised as one");
    fixture.check().await;
}
