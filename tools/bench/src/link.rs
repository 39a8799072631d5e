//! The network between services and PostgreSQL: a proxy on a thread of its own, which the load does not slow down.

use std::time::Duration;

use phoenix_testkit_postgres::Proxy;
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Doing, Result};

/// A running proxy. Dropping it ends it.
pub(crate) struct Link {
    proxy: Proxy,
    /// Present until the drop.
    runtime: Option<Runtime>,
}

impl Link {
    /// Starts a proxy of the server on `port`.
    pub(crate) async fn start(port: u16) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let proxy = runtime.spawn(Proxy::start(port)).await.doing("the proxy cannot be started")?;
        Ok(Self { proxy, runtime: Some(runtime) })
    }

    /// The URL of a database, through this proxy.
    pub(crate) fn url(&self, database: &str) -> String {
        self.proxy.url(database)
    }

    /// Delays each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        self.proxy.delay(delay);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Its thread must not be waited for in a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
