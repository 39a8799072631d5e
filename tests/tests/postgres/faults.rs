//! Faults of the server, and how long they last.

use std::time::Duration;

use phoenix_testkit_postgres::Server;
use sqlx::{Connection, PgConnection};

/// Time after a fault's end in which the service is back.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

/// Duration of an outage that is longer than the lease of a planner.
pub(crate) const SHORT_OUTAGE: Duration = Duration::from_secs(5);

/// Duration of an outage: longer in the runs before a merge, which `cargo xtask test --soak` starts.
pub(crate) fn outage() -> Duration {
    match std::env::var_os("PHOENIX_SOAK_ROUNDS") {
        Some(_) => Duration::from_secs(30),
        None => SHORT_OUTAGE,
    }
}

/// Occupies every connection of `server`, those of the services included, until the result is dropped.
pub(crate) async fn fill(server: &Server) -> Vec<PgConnection> {
    let url = server.url("postgres");
    let mut held = Vec::new();
    let mut ended = PgConnection::connect(&url).await.unwrap();
    // The services connect again and again, and get what is left.
    for _ in 0..3 {
        let end =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'phoenix-%'";
        sqlx::raw_sql(end).execute(&mut ended).await.unwrap();
        while let Ok(connection) = PgConnection::connect(&url).await {
            held.push(connection);
        }
    }
    held.push(ended);
    held
}
