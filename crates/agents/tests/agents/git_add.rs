//! `git_add` and chats: requests are executed exactly, or rejected by name.

use std::{fs, os::unix::fs::symlink};

use proptest::prelude::*;
use serde_json::json;

use crate::{call, code, git::Fixture, text};

/// Asserts that the paths are rejected with this code and message, and that nothing is staged.
fn assert_rejected(fixture: &mut Fixture, paths: &[&str], expected: u16, words: &str) {
    let error = call(&mut fixture.agent, "git_add", json!({"paths": paths})).unwrap_err();
    assert!(
        error.code == expected && error.message.contains(words),
        "{}: {} {error}",
        &paths.join(" ")[..40.min(paths.join(" ").len())],
        error.code
    );
    assert_eq!(fixture.git(&["diff", "--cached", "--name-only"]), "", "{paths:?}");
}

#[test]
fn chat_with_unknown_words_is_rejected() {
    let mut fixture = Fixture::new();
    fixture.write("a.txt", "1\n");
    fixture.commit("First");
    for message in ["git log a.txt", "git diff HEAD~1", "git log --oneline", "git status in src", "git log 0"]
    {
        let error = call(&mut fixture.agent, "chat", json!({"message": message})).unwrap_err();
        assert!(error.code == 400 && error.message.contains("git_log {path}"), "{message}: {error}");
    }
}

#[test]
fn add_inside_a_git_directory_is_rejected_by_name() {
    let mut fixture = Fixture::new();
    fixture.write("ok", "1\n");
    fs::create_dir(fixture.file("root/repo/d")).unwrap();
    for path in [".git/config", "./.git/HEAD", ".git", "d/.git/x", ".GIT/config", ".git/no/such/file"] {
        assert_rejected(&mut fixture, &["ok", path], 400, path);
        for action in ["git_diff", "git_log"] {
            assert_eq!(code(&mut fixture.agent, action, json!({"path": path})), 400, "{action} {path}");
        }
    }
}

#[test]
fn add_inside_a_nested_repository_is_rejected_by_name() {
    let mut fixture = Fixture::new();
    fixture.write("ok", "1\n");
    fixture.commit("First");
    fixture.add_submodule();
    fs::create_dir_all(fixture.file("root/repo/nested/deep")).unwrap();
    fixture.git(&["init", "--quiet", "nested"]);
    fixture.write("nested/deep/n", "1\n");
    fixture.write("sub/n", "2\n");
    fixture.write("ok", "2\n");
    assert_rejected(&mut fixture, &["ok", "nested/deep/n"], 400, "`nested/deep/n`");
    assert_rejected(&mut fixture, &["nested/deep/n"], 400, "nested repository `nested`");
    assert_rejected(&mut fixture, &["ok", "sub/n"], 400, "submodule `sub`");
    // A folder with a `.git` entry that is no repository is an ordinary folder.
    fs::create_dir_all(fixture.file("root/repo/plain/.git")).unwrap();
    fixture.write("plain/n", "1\n");
    assert_eq!(text(&mut fixture.agent, "git_add", json!({"paths": ["plain/n"]})), "add 'plain/n'");
    assert_eq!(
        text(&mut fixture.agent, "git_add", json!({"repo": "nested", "paths": ["deep"]})),
        "add 'deep/n'"
    );
}

#[test]
fn add_of_files_that_git_skips_is_rejected_by_name() {
    let mut fixture = Fixture::new();
    fixture.write("marked", "1\n");
    fixture.write(".gitignore", "*.log\n");
    fixture.commit("First");
    fixture.write("ok", "1\n");
    fixture.write("x.log", "1\n");
    assert_rejected(&mut fixture, &["ok", "x.log"], 400, "`x.log`");
    assert_rejected(
        &mut fixture,
        &["ok", "missing"],
        404,
        "no such file in the repository: pathspec 'missing'",
    );
    fixture.write("marked", "2\n");
    fixture.git(&["update-index", "--assume-unchanged", "marked"]);
    assert_rejected(&mut fixture, &["ok", "marked"], 409, "`marked`");
    let long = "x/".repeat(35_000);
    assert_rejected(&mut fixture, &["ok", &long], 400, "at most");
    assert_rejected(&mut fixture, &["ok", &"x".repeat(300)], 400, "is too long for a file");
    assert_rejected(&mut fixture, &["ok", "ok/x"], 404, "no such file");
}

#[test]
fn add_of_a_folder_reports_skipped_files() {
    let mut fixture = Fixture::new();
    fixture.write(".gitignore", "*.log\n/target/\n");
    fs::create_dir_all(fixture.file("root/repo/target/debug")).unwrap();
    fixture.write("target/debug/x", "1\n");
    fixture.write("x.log", "1\n");
    let added = text(&mut fixture.agent, "git_add", json!({"paths": ["."]}));
    assert!(added.starts_with("add '.gitignore'\n"), "{added}");
    assert!(added.contains("ignored") && added.contains("`x.log`") && added.contains("`target/`"), "{added}");
    fs::create_dir(fixture.file("root/repo/logs")).unwrap();
    fixture.write("logs/y.log", "1\n");
    let added = text(&mut fixture.agent, "git_add", json!({"paths": ["logs"]}));
    assert!(added.starts_with("Nothing to add") && added.contains("logs/"), "{added}");
    fixture.git(&["init", "--quiet", "nested"]);
    fixture.git(&["-C", "nested", "commit", "--quiet", "--allow-empty", "-m", "Inner"]);
    let added = text(&mut fixture.agent, "git_add", json!({"paths": ["."]}));
    assert!(added.contains("embedded git repository: nested"), "{added}");
}

#[test]
fn secrets_are_not_staged_shown_or_committed() {
    let mut fixture = Fixture::new();
    fixture.write(".env", "TOKEN=first-secret\n");
    fixture.write("a", "1\n");
    fixture.write(".env.example", "TOKEN=\n");
    assert_rejected(&mut fixture, &["a", ".env"], 403, "`.env`");
    assert_rejected(&mut fixture, &["."], 403, "`.env`");
    fs::create_dir(fixture.file("root/repo/d")).unwrap();
    fixture.write("d/.env.local", "1\n");
    assert_rejected(&mut fixture, &["d"], 403, "`d/.env.local`");
    text(&mut fixture.agent, "git_add", json!({"paths": ["a", ".env.example"]}));
    fixture.git(&["add", ".env"]);
    let error = call(&mut fixture.agent, "git_commit", json!({"message": "x"})).unwrap_err();
    assert!(error.code == 403 && error.message.contains("`.env`"), "{error}");
    fixture.commit("By hand");
    fixture.write(".env", "TOKEN=second-secret\n");
    fixture.write("a", "2\n");
    let diff = text(&mut fixture.agent, "git_diff", json!({}));
    assert!(diff.contains("+2") && !diff.contains("secret\n"), "{diff}");
    assert!(diff.contains("[`.env` is not shown"), "{diff}");
    fixture.git(&["add", ".env"]);
    let diff = text(&mut fixture.agent, "git_diff", json!({"staged": true}));
    assert!(!diff.contains("-secret") && diff.contains("`.env`"), "{diff}");
    assert_eq!(code(&mut fixture.agent, "git_diff", json!({"path": ".env"})), 403);
    // Removing a secret is allowed.
    fixture.git(&["reset", "--quiet"]);
    fs::remove_file(fixture.file("root/repo/.env")).unwrap();
    assert_eq!(text(&mut fixture.agent, "git_add", json!({"paths": [".env"]})), "remove '.env'");
    call(&mut fixture.agent, "git_commit", json!({"message": "Remove"})).unwrap();
}

#[test]
fn file_is_found_in_either_unicode_form() {
    let mut fixture = Fixture::new();
    fs::create_dir(fixture.file("root/repo/cafe\u{301}")).unwrap();
    fixture.write("cafe\u{301}/u\u{308}.txt", "1\n");
    let added = text(&mut fixture.agent, "git_add", json!({"paths": ["café/ü.txt"]}));
    assert_eq!(added, "add 'cafe\u{301}/u\u{308}.txt'");
    call(&mut fixture.agent, "git_commit", json!({"message": "First"})).unwrap();
    assert!(text(&mut fixture.agent, "git_log", json!({"path": "café"})).ends_with("First"));
    assert!(text(&mut fixture.agent, "git_status", json!({"repo": "café"})).contains("On branch main"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rejections_of_any_path_are_4xx(path in r"(?s)[ -~]{0,4}(\.|/|[^\x00]){0,12}") {
        let mut fixture = Fixture::new();
        fixture.write("a", "1\n");
        symlink(fixture.file("root/repo/loop"), fixture.file("root/repo/loop")).unwrap();
        for path in [path.clone(), format!("loop/{path}"), format!("a/{path}"), format!("{path}/").repeat(250)] {
            for (action, payload) in [
                ("git_status", json!({"repo": path})),
                ("git_diff", json!({"path": path})),
                ("git_log", json!({"path": path})),
                ("git_add", json!({"paths": [path]})),
            ] {
                let answer = call(&mut fixture.agent, action, payload);
                let code = answer.as_ref().err().map(|error| error.code);
                prop_assert!(code.is_none_or(|code| (400..500).contains(&code)), "{action}: {answer:?}");
            }
        }
    }
}
