//! `phoenix doctor`: what would keep a stack from running well on this machine, each finding with what to do.
//!
//! Nothing is started or changed, except for a short-lived file in the data folder. No finding contains a secret: a key is sent to
//! its own provider only.

mod agents;
mod data;
mod finding;
mod kernel;
mod network;
mod providers;
mod server;

use std::process::ExitCode;

use serde_json::value::to_raw_value;

use self::finding::{Finding, Severity};
use crate::{
    client::{
        error::ClientError,
        output::{json_lines, line},
    },
    config,
    settings::Resolved,
    settings_args::DoctorArgs,
    terminal::print_error,
};

/// Examines this machine, and returns 1 when a finding is an error.
pub(crate) fn run(args: DoctorArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        let resolved = Resolved::new(&args.settings)?;
        let findings = examine(&resolved, args.offline).await;
        report(&findings, args.settings.json)?;
        Ok(findings)
    });
    // A blocking lookup of a name may still run.
    runtime.shutdown_background();
    match done {
        Ok(findings) if findings.iter().any(|finding| finding.severity == Severity::Error) => {
            ExitCode::FAILURE
        }
        Ok(_) | Err(ClientError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn examine(resolved: &Resolved, is_offline: bool) -> Vec<Finding> {
    let mut findings = settings(resolved);
    findings.extend(network::ports(resolved, is_offline).await);
    findings.extend(network::certificates(resolved));
    findings.extend(data::folder(resolved));
    findings.extend(data::databases(resolved, is_offline).await);
    findings.extend(agents::programs(resolved));
    findings.extend(providers::models(resolved));
    let mut clocks = Vec::new();
    if !is_offline {
        let (reached, dates) = providers::reach(resolved).await;
        findings.extend(reached);
        clocks = dates;
    }
    findings.extend(data::clock(resolved, &clocks));
    findings.extend(kernel::features());
    findings
}

fn settings(resolved: &Resolved) -> Vec<Finding> {
    let problem = |problem: &str| {
        Finding::error(
            "settings",
            problem,
            "correct the setting; `phoenix config show` shows the values in effect",
        )
    };
    let mut findings: Vec<_> = resolved.problems.iter().map(problem).collect();
    if findings.is_empty() {
        let file = config::file(resolved).unwrap_or_else(|| "no configuration file".into());
        findings.push(Finding::ok("settings", format!("valid ({file})")));
    }
    if let Some(names) = &resolved.ignored {
        let problem = format!("`phoenix up` ignores {names}");
        findings.push(Finding::warning("settings", problem, "remove the variables"));
    }
    findings
}

fn report(findings: &[Finding], is_json: bool) -> Result<(), ClientError> {
    if is_json {
        let documents: Vec<_> =
            findings.iter().filter_map(|finding| to_raw_value(&finding.document()).ok()).collect();
        return json_lines(&documents);
    }
    for finding in findings {
        line(finding.to_string())?;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    line(format!("{} findings: {errors} errors, {warnings} warnings", findings.len()))
}
