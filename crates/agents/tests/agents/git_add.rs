//! What is asked of git is done as it was said, or refused by name.

use std::{fs, os::unix::fs::symlink};

use proptest::prelude::*;
use serde_json::json;

use crate::{call, code, git::Place, text};

/// Refused with this code, in words that contain these; and nothing is staged.
fn refuses(place: &mut Place, paths: &[&str], expected: u16, words: &str) {
    let error = call(&mut place.agent, "git_add", json!({"paths": paths})).unwrap_err();
    assert!(
        error.code == expected && error.message.contains(words),
        "{}: {} {error}",
        &paths.join(" ")[..40.min(paths.join(" ").len())],
        error.code
    );
    assert_eq!(place.git(&["diff", "--cached", "--name-only"]), "", "{paths:?}");
}

#[test]
fn chat_with_words_without_meaning_is_refused() {
    let mut place = Place::new();
    place.write("a.txt", "1\n");
    place.commit("First");
    for message in ["git log a.txt", "git diff HEAD~1", "git log --oneline", "git status in src", "git log 0"]
    {
        let error = call(&mut place.agent, "chat", json!({"message": message})).unwrap_err();
        assert!(error.code == 400 && error.message.contains("git_log {path}"), "{message}: {error}");
    }
}

#[test]
fn add_inside_a_git_directory_is_refused_by_name() {
    let mut place = Place::new();
    place.write("ok", "1\n");
    fs::create_dir(place.file("root/repo/d")).unwrap();
    for path in [".git/config", "./.git/HEAD", ".git", "d/.git/x", ".GIT/config", ".git/no/such/file"] {
        refuses(&mut place, &["ok", path], 400, path);
        for action in ["git_diff", "git_log"] {
            assert_eq!(code(&mut place.agent, action, json!({"path": path})), 400, "{action} {path}");
        }
    }
}

#[test]
fn add_inside_a_nested_repository_is_refused_by_name() {
    let mut place = Place::new();
    place.write("ok", "1\n");
    place.commit("First");
    place.add_submodule();
    fs::create_dir_all(place.file("root/repo/nested/deep")).unwrap();
    place.git(&["init", "--quiet", "nested"]);
    place.write("nested/deep/n", "1\n");
    place.write("sub/n", "2\n");
    place.write("ok", "2\n");
    refuses(&mut place, &["ok", "nested/deep/n"], 400, "`nested/deep/n`");
    refuses(&mut place, &["nested/deep/n"], 400, "nested repository `nested`");
    refuses(&mut place, &["ok", "sub/n"], 400, "submodule `sub`");
    // What is no repository in spite of its name is a folder like any other.
    fs::create_dir_all(place.file("root/repo/plain/.git")).unwrap();
    place.write("plain/n", "1\n");
    assert_eq!(text(&mut place.agent, "git_add", json!({"paths": ["plain/n"]})), "add 'plain/n'");
    assert_eq!(
        text(&mut place.agent, "git_add", json!({"repo": "nested", "paths": ["deep"]})),
        "add 'deep/n'"
    );
}

#[test]
fn add_of_what_git_passes_over_is_refused_by_name() {
    let mut place = Place::new();
    place.write("marked", "1\n");
    place.write(".gitignore", "*.log\n");
    place.commit("First");
    place.write("ok", "1\n");
    place.write("x.log", "1\n");
    refuses(&mut place, &["ok", "x.log"], 400, "`x.log`");
    refuses(&mut place, &["ok", "missing"], 404, "no such file");
    place.write("marked", "2\n");
    place.git(&["update-index", "--assume-unchanged", "marked"]);
    refuses(&mut place, &["ok", "marked"], 409, "`marked`");
    let long = "x/".repeat(35_000);
    refuses(&mut place, &["ok", &long], 400, "at most");
    refuses(&mut place, &["ok", &"x".repeat(300)], 400, "can't be the path of a file");
    refuses(&mut place, &["ok", "ok/x"], 404, "no such file");
}

#[test]
fn add_of_a_folder_names_what_it_passed_over() {
    let mut place = Place::new();
    place.write(".gitignore", "*.log\n/target/\n");
    fs::create_dir_all(place.file("root/repo/target/debug")).unwrap();
    place.write("target/debug/x", "1\n");
    place.write("x.log", "1\n");
    let added = text(&mut place.agent, "git_add", json!({"paths": ["."]}));
    assert!(added.starts_with("add '.gitignore'\n"), "{added}");
    assert!(added.contains("ignored") && added.contains("`x.log`") && added.contains("`target/`"), "{added}");
    fs::create_dir(place.file("root/repo/logs")).unwrap();
    place.write("logs/y.log", "1\n");
    let added = text(&mut place.agent, "git_add", json!({"paths": ["logs"]}));
    assert!(added.starts_with("Nothing to add") && added.contains("logs/"), "{added}");
    place.git(&["init", "--quiet", "nested"]);
    place.git(&["-C", "nested", "commit", "--quiet", "--allow-empty", "-m", "Inner"]);
    let added = text(&mut place.agent, "git_add", json!({"paths": ["."]}));
    assert!(added.contains("embedded git repository: nested"), "{added}");
}

#[test]
fn secrets_are_not_staged_shown_or_committed() {
    let mut place = Place::new();
    place.write(".env", "TOKEN=first-secret\n");
    place.write("a", "1\n");
    place.write(".env.example", "TOKEN=\n");
    refuses(&mut place, &["a", ".env"], 403, "`.env`");
    refuses(&mut place, &["."], 403, "`.env`");
    fs::create_dir(place.file("root/repo/d")).unwrap();
    place.write("d/.env.local", "1\n");
    refuses(&mut place, &["d"], 403, "`d/.env.local`");
    text(&mut place.agent, "git_add", json!({"paths": ["a", ".env.example"]}));
    place.git(&["add", ".env"]);
    let error = call(&mut place.agent, "git_commit", json!({"message": "x"})).unwrap_err();
    assert!(error.code == 403 && error.message.contains("`.env`"), "{error}");
    place.commit("By hand");
    place.write(".env", "TOKEN=second-secret\n");
    place.write("a", "2\n");
    let diff = text(&mut place.agent, "git_diff", json!({}));
    assert!(diff.contains("+2") && !diff.contains("secret\n"), "{diff}");
    assert!(diff.contains("[`.env` is not shown"), "{diff}");
    place.git(&["add", ".env"]);
    let diff = text(&mut place.agent, "git_diff", json!({"staged": true}));
    assert!(!diff.contains("-secret") && diff.contains("`.env`"), "{diff}");
    assert_eq!(code(&mut place.agent, "git_diff", json!({"path": ".env"})), 403);
    // What takes a secret out is welcome.
    place.git(&["reset", "--quiet"]);
    fs::remove_file(place.file("root/repo/.env")).unwrap();
    assert_eq!(text(&mut place.agent, "git_add", json!({"paths": [".env"]})), "remove '.env'");
    call(&mut place.agent, "git_commit", json!({"message": "Remove"})).unwrap();
}

#[test]
fn file_is_found_in_either_unicode_form() {
    let mut place = Place::new();
    fs::create_dir(place.file("root/repo/cafe\u{301}")).unwrap();
    place.write("cafe\u{301}/u\u{308}.txt", "1\n");
    let added = text(&mut place.agent, "git_add", json!({"paths": ["café/ü.txt"]}));
    assert_eq!(added, "add 'cafe\u{301}/u\u{308}.txt'");
    call(&mut place.agent, "git_commit", json!({"message": "First"})).unwrap();
    assert!(text(&mut place.agent, "git_log", json!({"path": "café"})).ends_with("First"));
    assert!(text(&mut place.agent, "git_status", json!({"repo": "café"})).contains("On branch main"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn refusals_of_any_path_are_4xx(path in r"(?s)[ -~]{0,4}(\.|/|[^\x00]){0,12}") {
        let mut place = Place::new();
        place.write("a", "1\n");
        symlink(place.file("root/repo/loop"), place.file("root/repo/loop")).unwrap();
        for path in [path.clone(), format!("loop/{path}"), format!("a/{path}"), format!("{path}/").repeat(250)] {
            for (action, payload) in [
                ("git_status", json!({"repo": path})),
                ("git_diff", json!({"path": path})),
                ("git_log", json!({"path": path})),
                ("git_add", json!({"paths": [path]})),
            ] {
                let answer = call(&mut place.agent, action, payload);
                let code = answer.as_ref().err().map(|error| error.code);
                prop_assert!(code.is_none_or(|code| (400..500).contains(&code)), "{action}: {answer:?}");
            }
        }
    }
}
