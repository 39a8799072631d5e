//! How a git ends: by itself, with a refusal, at the deadline; and what it leaves behind, which is nothing.

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
    git::{Place, environment},
    request, text,
};

/// Waits for a condition, and fails when it does not come true.
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

/// An attempt to add `a` that has this long.
fn add_within(agent: &mut GitAgent, deadline_ms: u64) -> Result<String, ActionError> {
    let mut add = request("git_add", json!({"paths": ["a"]}));
    add.meta.deadline_ms = deadline_ms;
    agent.handle(&add).map(|result| result.to_text())
}

/// A clean filter for `a` that starts two processes, one of which leaves its session, and never ends.
fn slow_filter(place: &Place) {
    let pids = place.file("pids");
    let filter = format!("setsid sleep 600 & echo $! >> '{0}'; echo $$ >> '{0}'; sleep 600", pids.display());
    place.git(&["config", "filter.slow.clean", &filter]);
    place.write(".gitattributes", "a filter=slow\n");
    place.write("a", "1\n");
}

fn nothing_is_left(place: &Place) {
    let pids = fs::read_to_string(place.file("pids")).unwrap();
    assert!(pids.lines().count() >= 2, "the filter ran");
    for pid in pids.lines() {
        assert!(!is_alive(pid), "{pid} of the filter lives");
    }
    assert!(!place.file("root/repo/.git/index.lock").exists());
}

#[test]
fn add_past_its_deadline_leaves_no_lock_and_no_filter() {
    let mut place = Place::new();
    slow_filter(&place);
    for _ in 0..2 {
        let error = add_within(&mut place.agent, 3000).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (504, "git did not finish in time"));
        nothing_is_left(&place);
    }
    place.git(&["config", "--unset", "filter.slow.clean"]);
    assert_eq!(add_within(&mut place.agent, 60_000).unwrap(), "add 'a'");
}

#[test]
fn git_that_ignores_sigterm_leaves_no_lock() {
    let place = Place::new();
    slow_filter(&place);
    let mut agent = place.agent_with("trap '' TERM\n\"$GIT\" \"$@\"");
    let error = add_within(&mut agent, 3000).unwrap_err();
    assert_eq!(error.code, 504, "{error}");
    nothing_is_left(&place);
}

#[test]
fn filter_that_leaves_a_process_does_not_delay_the_answer() {
    let mut place = Place::new();
    let pids = place.file("pids");
    place.git(&[
        "config",
        "filter.bg.clean",
        &format!("setsid sleep 600 >&2 & echo $! > '{}'; cat", pids.display()),
    ]);
    place.write(".gitattributes", "a filter=bg\n");
    place.write("a", "1\n");
    assert_eq!(add_within(&mut place.agent, 60_000).unwrap(), "add 'a'");
    assert!(!is_alive(&fs::read_to_string(pids).unwrap()), "it is gone with the attempt");
}

#[test]
fn lock_of_another_git_is_waited_for() {
    let place = Place::new();
    place.write("a", "1\n");
    let (lock, called) = (place.file("root/repo/.git/index.lock"), place.file("called"));
    fs::write(&lock, "").unwrap();
    let script =
        format!("case \"$*\" in *' add '*) echo >> '{}';; esac\nexec \"$GIT\" \"$@\"", called.display());
    let mut agent = place.agent_with(&script);
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("git add was called", || called.exists());
            fs::remove_file(&lock).unwrap();
        });
        assert_eq!(add_within(&mut agent, 60_000).unwrap(), "add 'a'");
    });
}

#[test]
fn agents_that_write_at_once_wait_for_each_other() {
    let place = Place::new();
    let writers = 4;
    for writer in 0..writers {
        place.write(&format!("f{writer}"), "1\n");
    }
    thread::scope(|scope| {
        for writer in 0..writers {
            let (root, home) = (place.file("root/repo"), place.place.path());
            scope.spawn(move || {
                let mut agent = GitAgent::new(root, environment(home));
                call(&mut agent, "git_add", json!({"paths": [format!("f{writer}")]})).unwrap();
            });
        }
    });
    assert_eq!(place.git(&["diff", "--cached", "--name-only"]).lines().count(), writers);
}

#[test]
fn refusal_of_git_is_a_4xx_with_its_reason() {
    let mut place = Place::new();
    place.write("a.txt", "1\n");
    place.commit("First");
    place.add_submodule();
    place.git(&["submodule", "--quiet", "deinit", "--force", "sub"]);
    let mut refused = |action: &str, payload, words: &str| {
        let error = call(&mut place.agent, action, payload).unwrap_err();
        assert!(error.code == 400 && error.message.contains(words), "{action}: {} {error}", error.code);
    };
    refused("git_add", json!({"paths": ["sub/n"]}), "in submodule 'sub'");
    refused("git_status", json!({"repo": "a.txt"}), "not a directory");
    refused("git_status", json!({"repo": "a.txt/x"}), "not a directory");
    let config = fs::read(place.file("root/repo/.git/config")).unwrap();
    for (broken, words) in [
        ("[core", "bad config line"),
        ("[color]\nui = banana\n", "banana"),
        ("[extensions]\nodd = 1\n[core]\nrepositoryformatversion = 1\n", "odd"),
    ] {
        fs::write(place.file("root/repo/.git/config"), broken).unwrap();
        let error = call(&mut place.agent, "git_status", json!({})).unwrap_err();
        assert!((400..500).contains(&error.code) && error.message.contains(words), "{} {error}", error.code);
    }
    fs::write(place.file("root/repo/.git/config"), config).unwrap();
    fs::write(place.file("root/repo/.git/index"), "garbage").unwrap();
    for (action, payload) in
        [("git_status", json!({})), ("git_diff", json!({})), ("git_add", json!({"paths": ["a.txt"]}))]
    {
        let error = call(&mut place.agent, action, payload).unwrap_err();
        assert!(error.code == 400 && error.message.contains("index file"), "{action}: {error}");
    }
}

#[test]
fn git_that_cannot_run_is_a_500() {
    let place = Place::new();
    for (script, words) in [
        ("kill -SEGV $$", "signal 11"),
        ("echo 'fatal: Out of memory, malloc failed' >&2; exit 128", "git can't run"),
        ("echo 'error: unable to write file: No space left on device' >&2; exit 128", "No space left"),
    ] {
        let error = call(&mut place.agent_with(script), "git_status", json!({})).unwrap_err();
        assert!(error.code == 500 && error.message.contains(words), "{error}");
    }
}

#[test]
fn repository_without_write_permission_is_403() {
    let place = Place::new();
    place.write("a", "1\n");
    let environment_file = place.file("config");
    fs::write(&environment_file, "[safe]\ndirectory = *\n").unwrap();
    // Root may write everywhere, so there git runs as another user.
    let as_user = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$GIT\" \"$@\"";
    place.agent_with(if Uid::effective().is_root() { as_user } else { "exec \"$GIT\" \"$@\"" });
    let mut environment = environment(place.place.path());
    for (name, value) in &mut environment {
        match name.to_str() {
            Some("PATH") => {
                *value = format!("{}:{}", place.file("bin").display(), value.to_str().unwrap()).into();
            }
            Some("GIT_CONFIG_GLOBAL") => *value = environment_file.clone().into(),
            _ => {}
        }
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(place.place.path(), 0o755);
    mode(&place.file("root/repo/.git"), 0o555);
    let mut agent = GitAgent::new(place.file("root/repo"), environment);
    let error = call(&mut agent, "git_add", json!({"paths": ["a"]})).unwrap_err();
    mode(&place.file("root/repo/.git"), 0o755);
    assert!(error.code == 403 && error.message.contains("permission"), "{} {error}", error.code);
    assert!(!error.message.contains("another git"), "{error}");
}

#[test]
fn wrong_root_is_named_with_both_settings() {
    let place = Place::new();
    place.write("file", "");
    for (root, code) in [("nowhere", 400), ("root/repo/file", 400), ("outside", 404)] {
        let root = place.file(root);
        let error = call(&mut GitAgent::new(&root, environment(place.place.path())), "git_status", json!({}))
            .unwrap_err();
        assert_eq!(error.code, code, "{error}");
        for words in [root.to_str().unwrap(), "GIT_AGENT_REPO_ROOT", "PHOENIX_REPO"] {
            assert!(error.message.contains(words), "{words}: {error}");
        }
    }
    let mut agent = GitAgent::new(place.file("root"), environment(place.place.path()));
    fs::create_dir(place.file("root/empty")).unwrap();
    let error = call(&mut agent, "git_status", json!({"repo": "empty"})).unwrap_err();
    assert!(error.code == 404 && error.message.contains("`empty` below `"), "{error}");
    assert!(text(&mut agent, "git_status", json!({"repo": "repo"})).contains("On branch main"));
}
