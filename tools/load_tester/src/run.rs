//! The program: validates the arguments, serves `/metrics`, warms up, measures, reports.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use phoenix_platform::{init_metrics, listener, shutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{DEFAULT_METRICS_ADDR, MetricsAddr, RunArgs},
    engine::Engine,
    live::Live,
    load::Load,
    metrics::METRICS,
    progress::{Progress, print_line},
    report::Report,
    tally::Tally,
    target::{Gateway, InvalidTarget},
};

/// The exit code of wrong usage, as `sysexits.h` has it.
pub const USAGE: u8 = 64;
const LIMIT_MISSED: u8 = 1;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    #[error(transparent)]
    Bind(#[from] listener::BindError),
    #[error("cannot record metrics: {0}")]
    Metrics(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the load test that `args` describe against `gateway`, for the program of that name. Ctrl-C ends it early, with the result
/// so far.
pub async fn run(program: &str, gateway: Gateway<'_>, args: RunArgs) -> ExitCode {
    let code = match measure(&gateway, &args).await {
        Ok(report) => print(program, &args, &report),
        Err(failure) => {
            print_line(&format!("{program}: {failure}"));
            USAGE
        }
    };
    ExitCode::from(code)
}

async fn measure(gateway: &Gateway<'_>, args: &RunArgs) -> Result<Report, Failure> {
    let target = args.target(gateway)?;
    let url = target.url().to_owned();
    let load = args.load();
    let metrics = bind_metrics(args.metrics_addr).await?;
    let interrupted = shutdown::on_signal()?;
    let serving = CancellationToken::new();
    // Stops the exporter on every return.
    let _serving = serving.clone().drop_guard();
    if let Some(listener) = metrics {
        let exporter = init_metrics(METRICS).map_err(|problem| Failure::Metrics(problem.to_string()))?;
        print_line(&format!("Metrics exporter listening on {}", listener.local_addr()?));
        tokio::spawn(exporter.serve(listener, args.metrics_token.clone().map(Into::into), serving));
    }
    let mut engine = Engine::new(target);
    if !args.warmup_secs.is_zero() {
        print_line(&format!("warming up for {} s", args.warmup_secs.as_secs_f64()));
        let warmup = Load { duration: Some(args.warmup_secs), requests: None, ..load.clone() };
        drive(&mut engine, &warmup, &interrupted).await?;
    }
    print_line(&format!("sending chats to {url} over {} connections", load.connections));
    let tally = drive(&mut engine, &load, &interrupted).await?;
    Ok(Report::new(&url, &load, &tally, args.limits()))
}

async fn drive(engine: &mut Engine, load: &Load, stop: &CancellationToken) -> io::Result<Tally> {
    let live = Arc::new(Live::default());
    let mut progress = Progress::start(load);
    let tally = tokio::select! {
        tally = engine.run(load, &live, stop) => tally,
        never = progress.follow(&live) => match never {},
    };
    progress.finish(&live);
    tally
}

/// Binds the metrics port. The default port may be in use by another load tester; the run then has no metrics. A port that
/// the command line names must be free.
async fn bind_metrics(addr: Option<MetricsAddr>) -> Result<Option<TcpListener>, listener::BindError> {
    match addr {
        Some(MetricsAddr::Off) => Ok(None),
        Some(MetricsAddr::At(addr)) => listener::bind("--metrics-addr", addr).await.map(Some),
        None => Ok(match listener::bind("--metrics-addr", DEFAULT_METRICS_ADDR).await {
            Ok(listener) => Some(listener),
            Err(problem) => {
                print_line(&format!("continuing without /metrics: {problem}"));
                None
            }
        }),
    }
}

fn print(program: &str, args: &RunArgs, report: &Report) -> u8 {
    let text = if args.json {
        // Numbers and strings are always representable; a quantile is never NaN.
        serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
    } else {
        report.to_string()
    };
    // A reader that closed the pipe needs no further output.
    let _ = io::stdout().write_all(text.as_bytes());
    for missed in &report.missed {
        print_line(&format!("{program}: {missed}"));
    }
    if report.missed.is_empty() { 0 } else { LIMIT_MISSED }
}
