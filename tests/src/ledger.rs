//! A ledger of executions: which attempts of a task ran, and whether two of them ran at once.
//!
//! A task has a file in the folder `LEDGER`, which an execution locks until its end, however that comes. Lines:
//!
//! | line | meaning |
//! |---|---|
//! | `start ATTEMPT PID EXECUTOR` | an execution has begun |
//! | `says MESSAGE` | … of this message; only messages that begin with `signed ` |
//! | `overlap ATTEMPT by PID, held by PID of EXECUTOR` | … while another one ran whose executor lived |

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::process::parent_id,
    path::Path,
};

use phoenix_domain::{action::ActionRequest, json::Json};

/// Flag of a process that is ending (`include/linux/sched.h` of the kernel).
const PF_EXITING: u64 = 4;

/// An execution that is entered. It ends with this value.
pub(crate) struct Execution(#[allow(dead_code, reason = "its lock")] File);

/// Enters an execution, if the variable `LEDGER` names a folder.
pub(crate) fn enter(request: &ActionRequest) -> Option<Execution> {
    let folder = std::env::var_os("LEDGER")?;
    let path = Path::new(&folder).join(request.task_id.to_string());
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (attempt, own) = (request.meta.attempt, std::process::id());
    if file.try_lock().is_err() {
        let text = fs::read_to_string(&path).unwrap();
        if let Some((pid, executor)) = holder(&text)
            && parent_of(&pid).as_deref() == Some(&*executor)
        {
            writeln!(file, "overlap {attempt} by {own}, held by {pid} of {executor}").unwrap();
        } else {
            // An orphan, which the guard of its executor kills at this moment.
            file.lock().unwrap();
        }
    }
    writeln!(file, "start {attempt} {own} {}", parent_id()).unwrap();
    let message = request.payload.get("message").and_then(Json::as_str);
    if let Some(message) = message.filter(|message| message.starts_with("signed ")) {
        writeln!(file, "says {message}").unwrap();
    }
    Some(Execution(file))
}

/// Process and executor of the last execution.
fn holder(text: &str) -> Option<(String, String)> {
    let line = text.lines().rfind(|line| line.starts_with("start "))?;
    let mut words = line.split(' ').skip(2);
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

/// The parent of a process that runs.
fn parent_of(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    let parent_runs = fs::read_to_string(format!("/proc/{parent}/stat")).is_ok_and(|stat| !is_dead(&stat));
    (!is_dead(&stat) && parent_runs).then(|| parent.to_owned())
}

/// Whether a line of `/proc/PID/stat` is that of a process that has ended, or that was killed and is ending: its connections are
/// closed a moment before it becomes a zombie.
fn is_dead(stat: &str) -> bool {
    let fields: Vec<_> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let is_exiting = |flags: &&str| flags.parse::<u64>().is_ok_and(|flags| flags & PF_EXITING != 0);
    fields.first().is_none_or(|state| "ZX".contains(state)) || fields.get(6).is_some_and(is_exiting)
}
