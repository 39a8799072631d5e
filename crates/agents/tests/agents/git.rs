//! The git agent against real repositories, friendly and hostile.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use phoenix_agents::{Agent, git::GitAgent};
use serde_json::json;
use tempfile::TempDir;

use crate::{call, code, request, text};

/// A root directory with a repository in it, and a directory outside.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) agent: GitAgent,
}

/// The environment of every git: no configuration except the repository's.
pub(crate) fn environment(home: &Path) -> Vec<(OsString, OsString)> {
    let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
    vec![
        (OsString::from("PATH"), std::env::var_os("PATH").unwrap()),
        (OsString::from("HOME"), home.into()),
        pair("GIT_CONFIG_GLOBAL", "/dev/null"),
        pair("GIT_CONFIG_NOSYSTEM", "1"),
        pair("GIT_AUTHOR_NAME", "Ann"),
        pair("GIT_AUTHOR_EMAIL", "ann@example.com"),
        pair("GIT_COMMITTER_NAME", "Ann"),
        pair("GIT_COMMITTER_EMAIL", "ann@example.com"),
    ]
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("root/repo")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        let agent = GitAgent::new(dir.path().join("root/repo"), environment(dir.path()));
        let fixture = Self { dir, agent };
        fixture.git(&["init", "--quiet", "--initial-branch=main"]);
        fixture
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        fs::write(self.file("root/repo").join(path), content).unwrap();
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.env_clear()
            .envs(environment(self.dir.path()))
            .current_dir(self.file("root/repo"))
            .args(arguments);
        let output = git.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A program that creates a file when it runs.
    pub(crate) fn program(&self) -> (PathBuf, PathBuf) {
        let (program, marker) = (self.file("program"), self.file("marker"));
        let script = format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\n", marker.display());
        self.script(&program, &script);
        (program, marker)
    }

    pub(crate) fn script(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// An agent that runs `script` as git, in which `"$GIT"` is the installed git.
    pub(crate) fn agent_with(&self, script: &str) -> GitAgent {
        let path = std::env::var_os("PATH").unwrap();
        let git =
            std::env::split_paths(&path).map(|folder| folder.join("git")).find(|git| git.exists()).unwrap();
        let script = format!("#!/bin/sh\nGIT='{}'\n{script}\n", git.display());
        self.script(&self.file("bin/git"), &script);
        let mut environment = environment(self.dir.path());
        let path =
            std::env::join_paths([self.file("bin")].into_iter().chain(std::env::split_paths(&path))).unwrap();
        environment[0].1 = path;
        GitAgent::new(self.file("root/repo"), environment)
    }

    /// A submodule `sub` with a file `n` in it.
    pub(crate) fn add_submodule(&self) {
        let inner = self.file("inner");
        fs::create_dir(&inner).unwrap();
        let at_inner = ["-C", inner.to_str().unwrap()];
        self.git(&[&at_inner[..], &["init", "--quiet"]].concat());
        fs::write(inner.join("n"), "1\n").unwrap();
        self.git(&[&at_inner[..], &["add", "n"]].concat());
        self.git(&[&at_inner[..], &["commit", "--quiet", "-m", "Inner"]].concat());
        let add = [
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            inner.to_str().unwrap(),
            "sub",
        ];
        self.git(&add);
        self.commit("Submodule");
    }

    pub(crate) fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
    }
}

#[test]
fn change_is_shown_added_committed_and_logged() {
    let mut fixture = Fixture::new();
    let status = text(&mut fixture.agent, "git_status", json!({}));
    assert!(status.contains("On branch main") && status.contains("No commits yet"), "{status}");
    assert_eq!(text(&mut fixture.agent, "git_log", json!({})), "No commits yet.");
    fixture.write("größe.txt", "one\n");
    assert!(text(&mut fixture.agent, "git_status", json!({})).contains("größe.txt"));
    assert_eq!(text(&mut fixture.agent, "git_add", json!({"paths": ["größe.txt"]})), "add 'größe.txt'");
    assert!(text(&mut fixture.agent, "git_diff", json!({"staged": true})).contains("+one"));
    let committed =
        call(&mut fixture.agent, "git_commit", json!({"message": "First\n\n# not a comment"})).unwrap();
    assert_eq!(committed.metadata["commit"], fixture.git(&["rev-parse", "HEAD"]).trim());
    assert_eq!(fixture.git(&["log", "-1", "--format=%B"]).trim(), "First\n\n# not a comment");
    fixture.write("größe.txt", "two\n");
    assert!(text(&mut fixture.agent, "git_diff", json!({"path": "größe.txt"})).contains("-one\n+two"));
    assert_eq!(text(&mut fixture.agent, "git_diff", json!({"staged": true})), "Nothing is staged.");
    let log = text(&mut fixture.agent, "git_log", json!({"limit": 1}));
    assert!(log.ends_with("Ann: First") && log.lines().count() == 1, "{log}");
}

#[test]
fn chats_read_and_never_write() {
    let mut fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.commit("First");
    fixture.commit("Second");
    fixture.write("a", "2\n");
    let mut chat = |message: &str| text(&mut fixture.agent, "chat", json!({"message": message}));
    assert!(chat("git status").contains("modified:   a"));
    assert!(chat("What is in the git diff?").contains("+2"));
    assert_eq!(chat("git diff staged"), "Nothing is staged.");
    assert_eq!(chat("show me the git log").lines().count(), 2);
    assert_eq!(chat("git log, last 1").lines().count(), 1);
    for message in ["git commit everything", "git push", "hello", "git log, last 0"] {
        let refusal = call(&mut fixture.agent, "chat", json!({"message": message})).unwrap_err();
        assert!(refusal.code == 400 && refusal.message.contains("git status"), "{refusal}");
    }
}

#[test]
fn repeated_commit_attempt_finds_its_own_commit() {
    let mut fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.git(&["add", "a"]);
    let mut commit = request("git_commit", json!({"message": "Once"}));
    let first = fixture.agent.handle(&commit).unwrap();
    assert_eq!(fixture.agent.handle(&commit).unwrap_err().code, 409, "a new request has nothing to commit");
    commit.meta.attempt = 2;
    let again = fixture.agent.handle(&commit).unwrap();
    assert_eq!(again.metadata["commit"], first.metadata["commit"]);
    commit.payload.insert("message".into(), "Another".into());
    assert_eq!(fixture.agent.handle(&commit).unwrap_err().code, 409);
    assert_eq!(fixture.git(&["rev-list", "--count", "HEAD"]).trim(), "1");
}

#[test]
fn arguments_are_never_options_or_patterns() {
    let mut fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.commit("First");
    fixture.write("b", "1\n");
    let before = fixture.git(&["status", "--porcelain"]);
    for path in ["-A", "--all", "--help", "*", ":/", ":(top)b"] {
        assert_eq!(code(&mut fixture.agent, "git_add", json!({"paths": [path]})), 404, "{path}");
        let diff = call(&mut fixture.agent, "git_diff", json!({"path": path})).unwrap();
        assert_eq!(diff.to_text(), "No unstaged changes to tracked files.", "{path}");
    }
    let marker = fixture.file("marker");
    let output = format!("--output={}", marker.display());
    call(&mut fixture.agent, "git_diff", json!({"path": output.trim_start_matches('/')})).unwrap();
    assert!(!marker.exists());
    assert_eq!(fixture.git(&["status", "--porcelain"]), before);
    fixture.write("-x", "1\n");
    assert_eq!(text(&mut fixture.agent, "git_add", json!({"paths": ["-x"]})), "add '-x'");
    let message = json!({"message": "--amend"});
    call(&mut fixture.agent, "git_commit", message).unwrap();
    assert_eq!(fixture.git(&["log", "--format=%s"]), "--amend\nFirst\n");
}

#[test]
fn no_path_and_no_link_leaves_the_root() {
    let mut fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.commit("First");
    fs::write(fixture.file("outside/secret"), "secret").unwrap();
    symlink(fixture.file("outside"), fixture.file("root/repo/link")).unwrap();
    symlink(fixture.file("outside/secret"), fixture.file("root/repo/file")).unwrap();
    let absolute = fixture.file("outside/secret").to_str().unwrap().to_owned();
    for (path, refused) in [("../../outside/secret", 400), (&*absolute, 400), ("", 400), ("link/secret", 403)]
    {
        for (action, payload) in [
            ("git_diff", json!({"path": path})),
            ("git_log", json!({"path": path})),
            ("git_add", json!({"paths": ["a", path]})),
        ] {
            assert_eq!(code(&mut fixture.agent, action, payload), refused, "{action} {path}");
        }
    }
    for (repo, refused) in [("..", 400), ("link", 403), (&*absolute, 400), ("missing", 404), (".git", 404)] {
        assert_eq!(code(&mut fixture.agent, "git_status", json!({"repo": repo})), refused, "{repo}");
    }
    // A link is stored as a link; its target is not read.
    call(&mut fixture.agent, "git_add", json!({"paths": ["file"]})).unwrap();
    assert!(!text(&mut fixture.agent, "git_diff", json!({"staged": true})).contains("+secret\n"));
}

#[test]
fn repository_above_or_beside_the_root_is_unreachable() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.file("root/repo/sub")).unwrap();
    let mut agent = GitAgent::new(fixture.file("root/repo/sub"), environment(fixture.dir.path()));
    assert_eq!(code(&mut agent, "git_status", json!({})), 404);
    let mut agent = GitAgent::new(fixture.file("root"), environment(fixture.dir.path()));
    assert_eq!(code(&mut agent, "git_status", json!({})), 404);
    assert!(text(&mut agent, "git_status", json!({"repo": "repo"})).contains("On branch main"));
    assert!(text(&mut agent, "git_status", json!({"repo": "repo/sub"})).contains("On branch main"));
    fixture.git(&["config", "core.worktree", fixture.file("outside").to_str().unwrap()]);
    assert_eq!(code(&mut agent, "git_status", json!({"repo": "repo"})), 403);
    let mut agent = GitAgent::new(fixture.file("nowhere"), environment(fixture.dir.path()));
    let error = call(&mut agent, "git_status", json!({})).unwrap_err();
    assert!(error.code == 400 && error.message.contains("GIT_AGENT_REPO_ROOT"), "{error}");
}

#[test]
fn variables_that_redirect_git_are_not_passed_on() {
    let fixture = Fixture::new();
    let mut environment = environment(fixture.dir.path());
    for (name, value) in [("GIT_DIR", "/nonexistent"), ("GIT_EXTERNAL_DIFF", "false"), ("GIT_TRACE", "1")] {
        environment.push((name.into(), value.into()));
    }
    let mut agent = GitAgent::new(fixture.file("root/repo"), environment);
    assert!(text(&mut agent, "git_status", json!({})).contains("On branch main"));
}

#[test]
fn long_output_is_truncated_with_a_note() {
    let mut fixture = Fixture::new();
    fixture.write("a", "");
    fixture.commit("First");
    fixture.write("a", &"a line of text\n".repeat(100_000));
    let diff = call(&mut fixture.agent, "git_diff", json!({})).unwrap();
    assert_eq!(diff.metadata["truncated"], true);
    let diff = diff.to_text();
    assert!(diff.len() < 300 * 1024 && diff.ends_with("[truncated: only the first 262144 bytes are shown]"));
}

#[test]
fn failures_contain_no_path_of_this_machine() {
    let mut fixture = Fixture::new();
    let home = fixture.dir.path().to_str().unwrap().to_owned();
    assert_eq!(code(&mut fixture.agent, "git_add", json!({"paths": ["missing"]})), 404);
    assert_eq!(code(&mut fixture.agent, "git_commit", json!({"message": "x"})), 409);
    assert_eq!(code(&mut fixture.agent, "git_commit", json!({"message": " "})), 400);
    assert_eq!(code(&mut fixture.agent, "git_status", json!({"path": "a"})), 400);
    assert_eq!(code(&mut fixture.agent, "git_push", json!({})), 501);
    fixture.write(".gitignore", "ignored\n");
    fixture.write("ignored", "");
    assert_eq!(code(&mut fixture.agent, "git_add", json!({"paths": ["ignored"]})), 400);
    fs::write(fixture.file("root/repo/.git/index.lock"), "").unwrap();
    let error = call(&mut fixture.agent, "git_add", json!({"paths": [".gitignore"]})).unwrap_err();
    assert!(error.code == 409 && error.message.contains("index.lock"), "{error}");
    assert!(fixture.file("root/repo/.git/index.lock").exists(), "the lock may belong to another git");
    fs::remove_file(fixture.file("root/repo/.git/index.lock")).unwrap();
    fs::write(fixture.file("root/repo/.git/index"), "garbage").unwrap();
    let error = call(&mut fixture.agent, "git_status", json!({})).unwrap_err();
    assert!(
        error.code == 400 && error.message.starts_with("git refused: ") && !error.message.contains(&home),
        "{error}"
    );
}

#[test]
fn missing_git_and_missing_author_are_explained() {
    let fixture = Fixture::new();
    let no_author = [("PATH".into(), fixture.file("outside").into())];
    let error =
        call(&mut GitAgent::new(fixture.file("root/repo"), no_author), "git_status", json!({})).unwrap_err();
    assert!(error.code == 500 && error.message.contains("not installed"), "{error}");

    fixture.write("a", "1\n");
    fixture.git(&["add", "a"]);
    fixture.git(&["config", "user.useConfigOnly", "true"]);
    let anonymous = environment(fixture.dir.path()).into_iter().filter(|(name, _)| {
        let name = name.to_str().unwrap();
        !name.starts_with("GIT_AUTHOR") && !name.starts_with("GIT_COMMITTER")
    });
    let error =
        call(&mut GitAgent::new(fixture.file("root/repo"), anonymous), "git_commit", json!({"message": "x"}))
            .unwrap_err();
    assert!(error.code == 400 && error.message.contains("user.name"), "{error}");
}
