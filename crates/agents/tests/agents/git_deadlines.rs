//! The end of a git: its exit, its rejection, its deadline; it leaves no process and no lock behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::Uid;
use phoenix_agents::{ActionError, Agent, git::GitAgent};
use serde_json::json;

use crate::{
    call,
    git::{Fixture, environment},
    request, text,
};

/// Waits for a condition, and fails when it does not become true.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Adds `a` within this deadline.
fn add_within(agent: &mut GitAgent, deadline_ms: u64) -> Result<String, ActionError> {
    let mut add = request("git_add", json!({"paths": ["a"]}));
    add.meta.deadline_ms = deadline_ms;
    agent.handle(&add).map(|result| result.to_text())
}

/// A clean filter for `a` that never ends, and starts two processes, one of which leaves its session.
fn slow_filter(fixture: &Fixture) {
    let pids = fixture.file("pids");
    let filter = format!("setsid sleep 600 & echo $! >> '{0}'; echo $$ >> '{0}'; sleep 600", pids.display());
    fixture.git(&["config", "filter.slow.clean", &filter]);
    fixture.write(".gitattributes", "a filter=slow\n");
    fixture.write("a", "1\n");
}

fn assert_nothing_is_left(fixture: &Fixture) {
    let pids = fs::read_to_string(fixture.file("pids")).unwrap();
    assert!(pids.lines().count() >= 2, "the filter ran");
    for pid in pids.lines() {
        assert!(!is_alive(pid), "{pid} of the filter lives");
    }
    assert!(!fixture.file("root/repo/.git/index.lock").exists());
}

#[test]
fn add_past_its_deadline_leaves_no_lock_and_no_filter() {
    let mut fixture = Fixture::new();
    slow_filter(&fixture);
    for _ in 0..2 {
        let error = add_within(&mut fixture.agent, 3000).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (504, "git did not finish in time"));
        assert_nothing_is_left(&fixture);
    }
    fixture.git(&["config", "--unset", "filter.slow.clean"]);
    assert_eq!(add_within(&mut fixture.agent, 60_000).unwrap(), "add 'a'");
}

#[test]
fn git_that_ignores_sigterm_leaves_no_lock() {
    let fixture = Fixture::new();
    slow_filter(&fixture);
    let mut agent = fixture.agent_with("trap '' TERM\n\"$GIT\" \"$@\"");
    let error = add_within(&mut agent, 3000).unwrap_err();
    assert_eq!(error.code, 504, "{error}");
    assert_nothing_is_left(&fixture);
}

#[test]
fn filter_with_a_background_process_delays_no_answer() {
    let mut fixture = Fixture::new();
    let pids = fixture.file("pids");
    fixture.git(&[
        "config",
        "filter.bg.clean",
        &format!("setsid sleep 600 >&2 & echo $! > '{}'; cat", pids.display()),
    ]);
    fixture.write(".gitattributes", "a filter=bg\n");
    fixture.write("a", "1\n");
    assert_eq!(add_within(&mut fixture.agent, 60_000).unwrap(), "add 'a'");
    assert!(!is_alive(&fs::read_to_string(pids).unwrap()), "it ends with the attempt");
}

#[test]
fn add_waits_for_the_lock_of_another_git() {
    let fixture = Fixture::new();
    fixture.write("a", "1\n");
    let (lock, called) = (fixture.file("root/repo/.git/index.lock"), fixture.file("called"));
    fs::write(&lock, "").unwrap();
    let script =
        format!("case \"$*\" in *' add '*) echo >> '{}';; esac\nexec \"$GIT\" \"$@\"", called.display());
    let mut agent = fixture.agent_with(&script);
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("git add was called", || called.exists());
            fs::remove_file(&lock).unwrap();
        });
        assert_eq!(add_within(&mut agent, 60_000).unwrap(), "add 'a'");
    });
}

#[test]
fn concurrent_writers_wait_for_each_other() {
    let fixture = Fixture::new();
    let writers = 4;
    for writer in 0..writers {
        fixture.write(&format!("f{writer}"), "1\n");
    }
    thread::scope(|scope| {
        for writer in 0..writers {
            let (root, home) = (fixture.file("root/repo"), fixture.dir.path());
            scope.spawn(move || {
                let mut agent = GitAgent::new(root, environment(home));
                call(&mut agent, "git_add", json!({"paths": [format!("f{writer}")]})).unwrap();
            });
        }
    });
    assert_eq!(fixture.git(&["diff", "--cached", "--name-only"]).lines().count(), writers);
}

#[test]
fn rejection_by_git_is_a_4xx_with_its_reason() {
    let mut fixture = Fixture::new();
    fixture.write("a.txt", "1\n");
    fixture.commit("First");
    fixture.add_submodule();
    fixture.git(&["submodule", "--quiet", "deinit", "--force", "sub"]);
    let mut refused = |action: &str, payload, words: &str| {
        let error = call(&mut fixture.agent, action, payload).unwrap_err();
        assert!(error.code == 400 && error.message.contains(words), "{action}: {} {error}", error.code);
    };
    refused("git_add", json!({"paths": ["sub/n"]}), "in submodule 'sub'");
    refused("git_status", json!({"repo": "a.txt"}), "not a directory");
    refused("git_status", json!({"repo": "a.txt/x"}), "not a directory");
    let config = fs::read(fixture.file("root/repo/.git/config")).unwrap();
    for (broken, words) in [
        ("[core", "bad config line"),
        ("[color]\nui = banana\n", "banana"),
        ("[extensions]\nodd = 1\n[core]\nrepositoryformatversion = 1\n", "odd"),
    ] {
        fs::write(fixture.file("root/repo/.git/config"), broken).unwrap();
        let error = call(&mut fixture.agent, "git_status", json!({})).unwrap_err();
        assert!((400..500).contains(&error.code) && error.message.contains(words), "{} {error}", error.code);
    }
    fs::write(fixture.file("root/repo/.git/config"), config).unwrap();
    fs::write(fixture.file("root/repo/.git/index"), "garbage").unwrap();
    for (action, payload) in
        [("git_status", json!({})), ("git_diff", json!({})), ("git_add", json!({"paths": ["a.txt"]}))]
    {
        let error = call(&mut fixture.agent, action, payload).unwrap_err();
        assert!(error.code == 400 && error.message.contains("index file"), "{action}: {error}");
    }
}

#[test]
fn git_that_cannot_run_is_a_500() {
    let fixture = Fixture::new();
    for (script, words) in [
        ("kill -SEGV $$", "signal 11"),
        ("echo 'fatal: Out of memory, malloc failed' >&2; exit 128", "git cannot run"),
        ("echo 'error: unable to write file: No space left on device' >&2; exit 128", "No space left"),
    ] {
        let error = call(&mut fixture.agent_with(script), "git_status", json!({})).unwrap_err();
        assert!(error.code == 500 && error.message.contains(words), "{error}");
    }
}

#[test]
fn repository_without_write_permission_is_403() {
    let fixture = Fixture::new();
    fixture.write("a", "1\n");
    let environment_file = fixture.file("config");
    fs::write(&environment_file, "[safe]\ndirectory = *\n").unwrap();
    // Root may write everywhere, so as root git runs as another user.
    let as_user = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$GIT\" \"$@\"";
    fixture.agent_with(if Uid::effective().is_root() { as_user } else { "exec \"$GIT\" \"$@\"" });
    let mut environment = environment(fixture.dir.path());
    for (name, value) in &mut environment {
        match name.to_str() {
            Some("PATH") => {
                *value = format!("{}:{}", fixture.file("bin").display(), value.to_str().unwrap()).into();
            }
            Some("GIT_CONFIG_GLOBAL") => *value = environment_file.clone().into(),
            _ => {}
        }
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(fixture.dir.path(), 0o755);
    mode(&fixture.file("root/repo/.git"), 0o555);
    let mut agent = GitAgent::new(fixture.file("root/repo"), environment);
    let error = call(&mut agent, "git_add", json!({"paths": ["a"]})).unwrap_err();
    mode(&fixture.file("root/repo/.git"), 0o755);
    assert!(error.code == 403 && error.message.contains("permission"), "{} {error}", error.code);
    assert!(!error.message.contains("another git"), "{error}");
}

#[test]
fn wrong_root_is_named_with_both_settings() {
    let fixture = Fixture::new();
    fixture.write("file", "");
    for (root, code) in [("nowhere", 400), ("root/repo/file", 400), ("outside", 404)] {
        let root = fixture.file(root);
        let error = call(&mut GitAgent::new(&root, environment(fixture.dir.path())), "git_status", json!({}))
            .unwrap_err();
        assert_eq!(error.code, code, "{error}");
        for words in [root.to_str().unwrap(), "GIT_AGENT_REPO_ROOT", "PHOENIX_REPO"] {
            assert!(error.message.contains(words), "{words}: {error}");
        }
    }
    let mut agent = GitAgent::new(fixture.file("root"), environment(fixture.dir.path()));
    fs::create_dir(fixture.file("root/empty")).unwrap();
    let error = call(&mut agent, "git_status", json!({"repo": "empty"})).unwrap_err();
    assert!(error.code == 404 && error.message.contains("`empty` below `"), "{error}");
    assert!(text(&mut agent, "git_status", json!({"repo": "repo"})).contains("On branch main"));
}
