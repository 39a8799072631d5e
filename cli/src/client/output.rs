//! Forms in which results are printed.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp};
use phoenix_domain::json::Json;
use serde_json::value::RawValue;

use super::error::ClientError;

/// Longest text in a cell, in characters.
const LONGEST_CELL: usize = 72;

/// Writes `text` and a line break to standard output.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), ClientError> {
    part(format!("{}\n", text.as_ref()))
}

/// Writes `text` to standard output, at once.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn part(text: impl AsRef<str>) -> Result<(), ClientError> {
    let mut out = stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    Ok(out.flush()?)
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Prints each document on a line of its own.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn json_lines(documents: &[Box<RawValue>]) -> Result<(), ClientError> {
    documents.iter().try_for_each(|document| line(document.get()))
}

/// Prints a row for each document under a header. Rows are not wrapped, so that each stays one line.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn table(
    header: &[&str],
    documents: &[Box<RawValue>],
    row: impl Fn(&Json) -> Vec<String>,
) -> Result<(), ClientError> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for document in documents {
        table.add_row(row(&parsed(document)));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    line(table.trim_fmt())
}

/// A document of a response, in which all JSON is valid.
pub(crate) fn parsed(document: &RawValue) -> Json {
    Json::parse_stored(document.get()).unwrap_or_default()
}

/// `text` on one line of bounded length, for a cell.
pub(crate) fn cell(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = plain(&words);
    match text.char_indices().nth(LONGEST_CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `text` without control characters other than line breaks and tabs, which could change a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), "\u{fffd}")
}

/// `text` with every line behind `indent`.
pub(crate) fn indented(text: &str, indent: &str) -> String {
    plain(text).lines().map(|line| format!("{indent}{line}")).collect::<Vec<_>>().join("\n")
}

/// The text of a member; empty when there is none.
pub(crate) fn text<'a>(value: &'a Json, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The time in a member.
pub(crate) fn time(value: &Json, name: &str) -> Option<Timestamp> {
    text(value, name).parse().ok()
}

/// A duration in at most four characters and a unit: `12ms`, `3.4s`, `5m`, `2h`, `9d`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The time from `start` to `end`, in the form of [`short`]; empty when one is missing.
pub(crate) fn between(start: Option<Timestamp>, end: Option<Timestamp>) -> String {
    let duration = start.zip(end).map(|(start, end)| end.duration_since(start).max(SignedDuration::ZERO));
    duration.map(|duration| short(duration.unsigned_abs())).unwrap_or_default()
}

/// The state of an agent's circuit in a list.
pub(crate) fn circuit(agent: &Json, now: Timestamp) -> String {
    match time(agent, "circuit_open_until") {
        Some(until) if until <= now => "half open".to_owned(),
        Some(until) => format!("open for {}", between(Some(now), Some(until))),
        // Unhealthy without a time of the next probe.
        None if text(agent, "health") == "unhealthy" => "isolated".to_owned(),
        None => "closed".to_owned(),
    }
}

/// A point in time from `text`: a timestamp, or a duration until now.
///
/// # Errors
/// When it is neither.
pub(crate) fn since(text: &str) -> Result<String, ClientError> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_string());
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = number.parse::<i64>().ok().zip(seconds).and_then(|(number, unit)| number.checked_mul(unit));
    let at =
        seconds.and_then(|seconds| Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok());
    at.map(|at| at.to_string()).ok_or_else(|| {
        ClientError::Usage(format!(
            "`{text}` is no time; write 2026-11-27T08:00:00Z, or a time until now as 30s, 90m, 2h or 1d"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let shown = |millis| short(Duration::from_millis(millis));
        let all = [0, 999, 1_000, 9_949, 119_000, 120_000, 7_200_000, 172_800_000].map(shown);
        assert_eq!(all, ["0ms", "999ms", "1.0s", "9.9s", "119s", "2m", "2h", "2d"]);
    }

    #[test]
    fn escapes_of_a_terminal_are_replaced() {
        assert_eq!(plain("a\u{1b}[31mb\r\n\tc\u{7}"), "a\u{fffd}[31mb\u{fffd}\n\tc\u{fffd}");
        assert_eq!(cell("two\n lines"), "two lines");
        assert_eq!(cell(&"é".repeat(100)).chars().count(), LONGEST_CELL + 1);
    }

    #[test]
    fn circuit_of_a_list_is_that_of_now() {
        let now: Timestamp = "2026-11-27T08:00:00Z".parse().unwrap();
        let agent = |health: &str, until: Option<&str>| {
            circuit(&serde_json::json!({"health": health, "circuit_open_until": until}).into(), now)
        };
        assert_eq!(agent("healthy", None), "closed");
        assert_eq!(agent("unhealthy", None), "isolated");
        assert_eq!(agent("unhealthy", Some("2026-11-27T08:00:09Z")), "open for 9.0s");
        assert_eq!(agent("unhealthy", Some("2026-11-27T07:59:59Z")), "half open");
    }

    #[test]
    fn since_takes_times_and_durations() {
        assert_eq!(since("2026-11-27T08:00:00+01:00").unwrap(), "2026-11-27T07:00:00Z");
        let hour: Timestamp = since("60m").unwrap().parse().unwrap();
        let ago = Timestamp::now().duration_since(hour).as_secs();
        assert!((3_600..3_610).contains(&ago), "{ago}");
        for wrong in ["", "h", "5", "5w", "-1h", "99999999999999999999d", "9223372036854775807d", "yesterday"]
        {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
