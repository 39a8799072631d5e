//! Metrics at `/metrics`.

use phoenix_domain::health::Outcome;
use phoenix_health::metrics::METRICS;
use phoenix_platform::init_metrics;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{LONG, Place, Service, agent};

async fn scrape(addr: std::net::SocketAddr) -> String {
    let mut connection = TcpStream::connect(addr).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_start_at_zero_and_survive_a_restart() {
    let exporter = init_metrics(METRICS).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let exporting = tokio::spawn(exporter.serve(listener, None, stop.clone()));

    // The recorder is global: a name that no other test uses separates the numbers.
    let place = Place::file();
    let service = Service::start([agent("metered", LONG)], &place).await;
    service.list().await;
    let text = scrape(addr).await;
    for zero in [
        "phoenix_agent_health_reports_total{agent=\"metered\",outcome=\"neutral\"} 0",
        "phoenix_agent_circuit_open{agent=\"metered\"} 0",
        "phoenix_agent_circuit_opened_total{agent=\"metered\"} 0",
        "phoenix_agent_probes_total{agent=\"metered\",answer=\"refused\"} 0",
    ] {
        assert!(text.contains(zero), "{zero} is missing from:\n{text}");
    }

    service.open_long_ago("metered").await;
    let lease = service.probe("metered", 0).await.unwrap().lease;
    service.probe("metered", 0).await.unwrap();
    service.report("metered", Outcome::Failure, crate::harness::now(), &lease).await.unwrap();
    // An attempt from before the opening: its failure counts, but the circuit is open already.
    service.ended("metered", Outcome::Failure).await;
    service.stop().await;
    let service = Service::start([agent("metered", LONG)], &place).await;
    service.list().await;
    let text = scrape(addr).await;
    for counted in [
        "phoenix_agent_health_reports_total{agent=\"metered\",outcome=\"failure\"} 5",
        "phoenix_agent_health_reports_total{agent=\"metered\",outcome=\"success\"} 0",
        "phoenix_agent_circuit_open{agent=\"metered\"} 1",
        "phoenix_agent_circuit_opened_total{agent=\"metered\"} 2",
        "phoenix_agent_probes_total{agent=\"metered\",answer=\"granted\"} 1",
        "phoenix_agent_probes_total{agent=\"metered\",answer=\"refused\"} 1",
    ] {
        assert!(text.contains(counted), "{counted} is missing from:\n{text}");
    }

    service.ended("metered", Outcome::Success).await;
    assert!(scrape(addr).await.contains("phoenix_agent_circuit_open{agent=\"metered\"} 0"));
    service.stop().await;
    stop.cancel();
    exporting.await.unwrap().unwrap();
}
