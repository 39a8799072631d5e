//! A process that ends a program when the test process is gone, however it ended.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Waits for the end of its standard input, which comes with that of the test process. Then ends the program with files in the
/// folder `$1` whose process id is in the file `$1/$2`, even if it is frozen, and removes the folder.
const SCRIPT: &str = r#"
cat > /dev/null
pid=$(head -n 1 "$1/$2" 2> /dev/null)
if [ -n "$pid" ] && grep -q -- "$1/" "/proc/$pid/cmdline" 2> /dev/null; then
  kill -CONT "$pid" $(cat /proc/"$pid"/task/*/children 2> /dev/null)
  kill -QUIT "$pid"
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -e "/proc/$pid" ] || break
    sleep 0.2
  done
  kill -KILL "$pid"
fi
rm -rf -- "$1"
"#;

/// The guard of one program. Dropping it ends the program and removes its folder.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Guards the program in `folder` whose process id is in `pid_file` there.
    pub(crate) fn of(folder: &Path, pid_file: &str) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT, "guard"])
            .arg(folder)
            .arg(pid_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not interrupted together with the tests.
            .process_group(0);
        Self(command.spawn().expect("a shell can be started"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
