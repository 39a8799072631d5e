//! `phoenix config`: the settings that a start would use, and what is wrong with them.

use std::process::ExitCode;

use phoenix_platform::config::{EXIT_CONFIG, SettingValue};
use serde_json::{json, value::to_raw_value};

use crate::{
    client::{
        error::ClientError,
        output::{json_lines, line, table, text},
    },
    settings::Resolved,
    settings_args::{ConfigArgs, ConfigCommand, SettingsArgs},
    terminal::print_error,
};

/// Runs the command, and returns its exit code.
pub(crate) fn run(args: ConfigArgs) -> ExitCode {
    let done = match args.command {
        ConfigCommand::Check(settings) => check(&settings),
        ConfigCommand::Show { prefix, settings } => show(&settings, prefix.as_deref().unwrap_or_default()),
    };
    match done {
        Ok(code) => code,
        Err(ClientError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn check(args: &SettingsArgs) -> Result<ExitCode, ClientError> {
    let resolved = Resolved::new(args)?;
    let warnings = warnings(&resolved);
    let is_valid = resolved.problems.is_empty();
    let file = file(&resolved);
    if args.json {
        let problems: Vec<_> = resolved.problems.iter().collect();
        let report = json!({ "valid": is_valid, "file": file, "problems": problems, "warnings": warnings });
        line(report.to_string())?;
    } else {
        for warning in &warnings {
            print_error(format_args!("warning: {warning}"));
        }
        if is_valid {
            let file = file.as_deref().unwrap_or("without a file");
            line(format!("the settings are valid ({file})"))?;
        } else {
            print_error(&resolved.problems);
        }
    }
    Ok(if is_valid { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

fn show(args: &SettingsArgs, prefix: &str) -> Result<ExitCode, ClientError> {
    let resolved = Resolved::new(args)?;
    let rows = resolved.inventory();
    let shown: Vec<_> = rows.iter().filter(|row| row.name.starts_with(prefix)).map(document).collect();
    let shown: Vec<_> = shown.into_iter().filter_map(|row| to_raw_value(&row).ok()).collect();
    if args.json {
        json_lines(&shown)?;
    } else if !shown.is_empty() {
        table(&["SETTING", "VALUE", "SOURCE"], &shown, |row| {
            let source = text(row, "detail");
            let value = crate::client::output::cell(text(row, "value"));
            vec![text(row, "name").to_owned(), value, source.to_owned()]
        })?;
    }
    if !resolved.problems.is_empty() {
        print_error(&resolved.problems);
        return Ok(ExitCode::from(EXIT_CONFIG));
    }
    if shown.is_empty() {
        return Err(ClientError::Usage(format!("no setting begins with `{prefix}`")));
    }
    Ok(ExitCode::SUCCESS)
}

fn document(row: &SettingValue) -> serde_json::Value {
    json!({
        "name": row.name,
        "value": row.value,
        "source": row.origin.kind(),
        "key": Some(row.origin.detail()).filter(|detail| !detail.is_empty()),
        "detail": row.origin.to_string(),
    })
}

/// The configuration file in use.
pub(crate) fn file(resolved: &Resolved) -> Option<String> {
    let config = &resolved.services.first()?.settings.config;
    config.path().map(|path| path.display().to_string())
}

/// What a start would only warn about.
fn warnings(resolved: &Resolved) -> Vec<String> {
    let ignored = resolved.ignored.iter().map(|names| format!("`phoenix up` ignores {names}"));
    let models = resolved.services.first().into_iter().flat_map(|service| {
        let retired = service.settings.config.llm.retired_models();
        retired.map(|(provider, model)| {
            format!("{} ends on {}; {} succeeds it", provider.target(), model.end, model.successor)
        })
    });
    ignored.chain(models).collect()
}
