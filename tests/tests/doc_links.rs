//! Every file, folder, anchor and test that the documentation cites exists.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests too")]

use std::path::{Path, PathBuf};

/// Fewer words than this, joined by `_`, are not taken for the name of a test.
const WORDS_OF_A_TEST: usize = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Markdown pages at the root and below `docs/`.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/adr"].map(|folder| root().join(folder));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let pages = entries.map(|entry| entry.unwrap().path());
    pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The lines of a page outside of fenced blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence
    })
}

/// The texts between `open` and `close` in a line.
fn between<'a>(line: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    line.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The inline code of a line.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn has_anchor(page: &Path, wanted: &str) -> bool {
    let text = read(page);
    prose(&text).any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

/// The target of a link, if it is missing.
fn missing_target(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { page.to_owned() } else { page.parent()?.join(path) };
    let is_there = file.exists() && (fragment.is_empty() || has_anchor(&file, fragment));
    (!is_there).then(|| target.to_owned())
}

/// The file or folder of the repository that inline code names, if it names one.
fn cited_path(code: &str) -> Option<PathBuf> {
    let (first, rest) = code.split_once('/')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let is_path = !first.is_empty() && rest.chars().all(is_plain) && root().join(first).is_dir();
    is_path.then(|| root().join(code))
}

/// Whether `file` has a test of this name, in which `…` stands for any beginning or end.
fn has_test(file: &Path, name: &str) -> bool {
    let text = read(file);
    let part = name.trim_matches('…');
    let is_named = |function: &str| {
        function.contains(part)
            && (name.starts_with('…') || function.starts_with(part))
            && (name.ends_with('…') || function.ends_with(part))
    };
    between(&text, "fn ", '(').any(is_named)
}

fn is_test_name(code: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '…');
    code.chars().all(is_word) && (code.contains('…') || code.split('_').count() > WORDS_OF_A_TEST)
}

/// What a line cites in vain. A test is cited behind its file.
fn missing_in(page: &Path, line: &str) -> Vec<String> {
    let links = between(line, "](", ')').filter_map(|target| missing_target(page, target));
    let mut missing: Vec<String> = links.collect();
    let mut file = None;
    for code in code(line) {
        if let Some(path) = cited_path(code) {
            if !path.exists() {
                missing.push(code.to_owned());
            }
            file = Some(path).filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        } else if let Some(file) = file.as_deref().filter(|file| file.exists())
            && is_test_name(code)
            && !has_test(file, code)
        {
            missing.push(format!("{code} in {}", file.display()));
        }
    }
    missing
}

#[test]
fn documentation_cites_existing_files_anchors_and_tests() {
    let mut missing = Vec::new();
    for page in pages() {
        let text = read(&page);
        let found = prose(&text).flat_map(|line| missing_in(&page, line));
        missing.extend(found.map(|what| format!("{}: {what}", page.display())));
        // Chains of files, such as the path of a chat, are fenced blocks.
        for word in text.split_whitespace().filter(|word| word.ends_with(".rs")) {
            if cited_path(word).is_some_and(|path| !path.exists()) {
                missing.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn missing_citations_are_found() {
    let page = root().join("docs/limits.md");
    let missing = |line: &str| missing_in(&page, line).len();
    assert_eq!(
        missing(
            "[a](limits.md) [b](#limits) [c](https://example.com/x) `tests/tests` `tests/tests/doc_links.rs`"
        ),
        0
    );
    assert_eq!(missing("[a](no.md) [b](limits.md#no) `tests/no.rs` `docs/no/`"), 4);
    assert_eq!(
        missing(
            "`tests/tests/doc_links.rs` `missing_cit…`, `…citations_are…`, `…are_found`, `missing_citations_are_found`"
        ),
        0
    );
    assert_eq!(missing("`tests/tests/doc_links.rs` `no_cit…`, `…no_found`, `missing_citations_are_not`"), 3);
}
