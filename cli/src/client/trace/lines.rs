//! Log lines of a request, in the files that `phoenix up` keeps in its data folder.

use phoenix_domain::json::Json;
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use phoenix_platform::logging::file::{EXTENSION, FOLDER};

use crate::client::output::{cell, plain, text};

/// Most lines that are shown: the last ones.
const MAX_LINES: usize = 1_000;

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 256 * 1024;

/// Members that every line has, or that all lines of a request have in common.
const COMMON: [&str; 9] = [
    "correlation_id",
    "level",
    "message",
    "plan_id",
    "service",
    "span_id",
    "target",
    "timestamp",
    "trace_id",
];

/// Log lines of one request.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The lines in order, as they were logged.
    pub(super) lines: Vec<Json>,
    /// Earlier lines that are not among them.
    pub(super) omitted: usize,
}

impl Lines {
    /// Reads the lines in the data folder `dir` that have one of `ids` as correlation id or plan id. A folder without logs has
    /// none.
    pub(super) fn read(dir: &Path, ids: &[&str]) -> io::Result<Self> {
        let mut found = VecDeque::new();
        let mut omitted = 0;
        for path in files(&dir.join(FOLDER))? {
            let file = match File::open(path) {
                Ok(file) => file,
                // A rotation may just have moved it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut of_file = VecDeque::new();
            each_line(BufReader::new(file), |line| {
                if let Some(line) = matching(line, ids) {
                    of_file.push_back(line);
                    if of_file.len() > MAX_LINES {
                        of_file.pop_front();
                        omitted += 1;
                    }
                }
            })?;
            found.extend(of_file);
        }
        let mut lines: Vec<_> = found.into();
        // Text order is time order; lines of the same moment keep the order of their file.
        lines.sort_by(|one, other| text(one, "timestamp").cmp(text(other, "timestamp")));
        let excess = lines.len().saturating_sub(MAX_LINES);
        lines.drain(..excess);
        Ok(Self { lines, omitted: omitted + excess })
    }

    /// The lines for people, without a line break at the end.
    pub(super) fn story(&self) -> String {
        let omitted = match self.omitted {
            0 => String::new(),
            count => format!("\n  … {count} earlier lines"),
        };
        let lines = self.lines.iter().map(|line| {
            let time = text(line, "timestamp");
            let time = time.split_once('T').map_or(time, |(_, time)| time.trim_end_matches('Z'));
            let (level, service) = (text(line, "level"), text(line, "service"));
            let fields = line.as_object().into_iter().flatten();
            let fields = fields.filter(|(name, _)| !COMMON.contains(&name.as_str())).map(|(name, value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), cell);
                format!("  {}={value}", plain(name))
            });
            let fields: String = fields.collect();
            format!("\n  {time}  {level:<5}  {service:<8}  {}{}", cell(text(line, "message")), plain(&fields))
        });
        format!("log{omitted}{}", lines.collect::<String>())
    }
}

/// The log files, of each process the oldest first.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == EXTENSION)).collect();
    // `planner.4.jsonl` is older than `planner.jsonl`.
    let number = |path: &PathBuf| {
        let stem = path.file_stem()?.to_str()?;
        stem.rsplit_once('.')?.1.parse::<u32>().ok()
    };
    paths.sort_by_key(|path| std::cmp::Reverse(number(path)));
    Ok(paths)
}

/// Calls `use_line` for each line that is not too long.
fn each_line(mut reader: impl BufRead, mut use_line: impl FnMut(&[u8])) -> io::Result<()> {
    let mut line = Vec::new();
    let mut is_rest = false;
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n");
        if is_whole && !is_rest {
            use_line(&line);
        }
        is_rest = !is_whole;
    }
}

/// The line as JSON, if it is of one of `ids`.
fn matching(line: &[u8], ids: &[&str]) -> Option<Json> {
    let line = std::str::from_utf8(line).ok()?;
    // Much cheaper than to parse every line.
    let is_candidate = ids.iter().any(|id| line.contains(id));
    let line = is_candidate.then(|| Json::parse_stored(line).ok())??;
    ["correlation_id", "plan_id"].iter().any(|name| ids.contains(&text(&line, name))).then_some(line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    fn line(second: u32, service: &str, id: &str, rest: &str) -> String {
        format!(
            r#"{{"timestamp":"2026-11-27T08:00:{second:02}.000000Z","level":"INFO","service":"{service}","target":"t","message":"m{second}","correlation_id":"{id}"{rest}}}"#
        ) + "\n"
    }

    #[test]
    fn lines_of_rotated_files_are_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join(FOLDER);
        assert!(Lines::read(dir.path(), &[ID]).unwrap().lines.is_empty(), "no folder, no lines");
        fs::create_dir(&logs).unwrap();
        let other = "99999999-2222-4333-8444-555555555555";
        fs::write(
            logs.join("planner.1.jsonl"),
            line(1, "planner", ID, "") + &line(4, "planner", ID, r#","code":"x""#),
        )
        .unwrap();
        let mentioned = line(6, "planner", other, &format!(r#","of":"{ID}""#));
        fs::write(logs.join("planner.jsonl"), mentioned + "{torn\n" + &line(5, "planner", ID, "")).unwrap();
        let long = line(2, "gateway", ID, &format!(r#","long":"{}""#, "x".repeat(600_000)));
        fs::write(logs.join("gateway.jsonl"), long + &line(3, "gateway", ID, r#","attempt":2"#)).unwrap();
        let found = Lines::read(dir.path(), &[ID]).unwrap();
        let messages: Vec<_> = found.lines.iter().map(|line| text(line, "message")).collect();
        assert_eq!(messages, ["m1", "m3", "m4", "m5"]);
        assert_eq!(
            found.story(),
            "log\n  08:00:01.000000  INFO   planner   m1\n  08:00:03.000000  INFO   gateway   m3  attempt=2\n  \
             08:00:04.000000  INFO   planner   m4  code=x\n  08:00:05.000000  INFO   planner   m5"
        );
    }

    #[test]
    fn most_lines_are_the_last_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let many: String = (0..1_005).map(|number| line(number % 60, "planner", ID, "")).collect();
        fs::write(dir.path().join(FOLDER).join("planner.jsonl"), many).unwrap();
        let found = Lines::read(dir.path(), &[ID]).unwrap();
        assert_eq!((found.lines.len(), found.omitted), (MAX_LINES, 5));
        assert!(found.story().starts_with("log\n  … 5 earlier lines\n"));
    }
}
