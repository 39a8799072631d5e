//! Metrics beside a foreign recorder. In a process of its own, because a process has one recorder.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{sync::mpsc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use phoenix_platform::{init_metrics, metrics::MetricsError};

#[test]
fn init_metrics_beside_foreign_recorder_is_an_error() {
    #[expect(clippy::disallowed_methods, reason = "the case that the function detects")]
    metrics::set_global_recorder(PrometheusBuilder::new().build_recorder()).unwrap();
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..2 {
            done.send(init_metrics(&[]).err()).unwrap();
        }
    });
    for _ in 0..2 {
        let error = result.recv_timeout(Duration::from_secs(10)).expect("it does not block");
        assert_eq!(error, Some(MetricsError::ForeignRecorder));
    }
}
