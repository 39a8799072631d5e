//! Unusual names, line endings and files.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
};

use phoenix_domain::json::Json;
use proptest::prelude::*;
use serde_json::json;

use crate::{call, code, obsidian::Fixture, text};

#[test]
fn note_is_found_in_either_unicode_form() {
    let mut fixture = Fixture::new();
    fs::create_dir(fixture.file("vault/Cafe\u{301}")).unwrap();
    fs::write(fixture.file("vault/Cafe\u{301}/Me\u{301}nu.md"), "Cre\u{300}me").unwrap();
    let agent = &mut fixture.agent;
    for path in ["Café/Ménu", "Cafe\u{301}/Ménu", "Café/Me\u{301}nu.md"] {
        assert_eq!(text(agent, "read_note", json!({"path": path})), "Cre\u{300}me", "{path}");
        let error = call(agent, "create_note", json!({"path": path, "content": "x"})).unwrap_err();
        assert!(error.code == 409 && error.message.contains("Cafe\u{301}/Me\u{301}nu.md"), "{path}: {error}");
        let update = json!({"path": path, "content": "!", "mode": "append"});
        let updated = call(agent, "update_note", update).unwrap();
        assert_eq!(updated.metadata["path"], "Cafe\u{301}/Me\u{301}nu.md");
        call(agent, "update_note", json!({"path": path, "content": "Cre\u{300}me"})).unwrap();
    }
    assert_eq!(call(agent, "list_notes", json!({"folder": "Café"})).unwrap().metadata["count"], 1);
    for query in ["crème", "CRE\u{300}ME", "ménu"] {
        assert_eq!(
            call(agent, "search_notes", json!({"query": query})).unwrap().metadata["count"],
            1,
            "{query}"
        );
    }
    call(agent, "create_note", json!({"path": "Café/Zwei", "content": "x"})).unwrap();
    assert_eq!(fixture.vault_entries(), ["Cafe\u{301}"], "no duplicate of a folder");
    assert_eq!(fs::read_dir(fixture.file("vault/Cafe\u{301}")).unwrap().count(), 2);
}

#[test]
fn titles_that_share_a_name_conflict() {
    let mut fixture = Fixture::new();
    let agent = &mut fixture.agent;
    assert_eq!(text(agent, "create_note", json!({"title": "C#", "content": "x"})), "Created C-.md");
    for title in ["C?", "C:", "C#"] {
        let error = call(agent, "create_note", json!({"title": title, "content": "x"})).unwrap_err();
        assert!(error.code == 409 && error.message.contains("`C-.md` exists"), "{title}: {error}");
        let chat = json!({"message": format!("create note \"{}\" : x", title.replace(':', "*"))});
        assert_eq!(code(agent, "chat", chat), 409, "{title}");
    }
    // A retry finds the result of the first attempt.
    let mut again = crate::request("create_note", json!({"title": "C#", "content": "x"}));
    again.meta.attempt = 2;
    let again = phoenix_agents::Agent::handle(agent, &again).unwrap();
    assert_eq!(again.metadata["created"], false);
    assert_eq!(
        text(agent, "create_note", json!({"title": "C-", "content": "x"})),
        "Already there, unchanged: C-.md"
    );
}

#[test]
fn path_that_breaks_links_is_rejected_by_character() {
    let mut fixture = Fixture::new();
    for bad in ["#", "|", "^", "[", "]", ":", "*", "?", "\"", "<", ">"] {
        for path in [format!("Note{bad}heading"), bad.to_owned(), format!("a {bad} b/c")] {
            let error =
                call(&mut fixture.agent, "create_note", json!({"path": path, "content": "x"})).unwrap_err();
            assert!(error.code == 400 && error.message.contains(&format!("`{bad}`")), "{path}: {error}");
        }
    }
    assert_eq!(fixture.vault_entries(), [""; 0]);
    // An existing note can be read and changed.
    fs::write(fixture.file("vault/What?.md"), "x").unwrap();
    assert_eq!(text(&mut fixture.agent, "read_note", json!({"path": "What?"})), "x");
    call(&mut fixture.agent, "update_note", json!({"path": "What?", "content": "y"})).unwrap();
}

#[test]
fn append_keeps_the_line_endings_of_the_note() {
    let mut fixture = Fixture::new();
    fs::write(fixture.file("vault/n.md"), "one\r\ntwo").unwrap();
    let append = json!({"path": "n", "content": "three\nfour\n", "mode": "append"});
    call(&mut fixture.agent, "update_note", append).unwrap();
    assert_eq!(fs::read_to_string(fixture.file("vault/n.md")).unwrap(), "one\r\ntwo\r\nthree\r\nfour\r\n");
}

#[test]
fn search_shows_the_text_around_a_late_match() {
    let mut fixture = Fixture::new();
    let line = format!("{}needle {}", "before ".repeat(200), "after ".repeat(200));
    fs::write(fixture.file("vault/n.md"), line).unwrap();
    let found = call(&mut fixture.agent, "search_notes", json!({"query": "NEEDLE"})).unwrap();
    let shown = found.data[0]["text"].as_str().unwrap();
    assert!(shown.contains("before needle after") && shown.chars().count() <= 242, "{shown}");
    assert_eq!(code(&mut fixture.agent, "search_notes", json!({"query": "a\nb"})), 400);
}

/// The reason for which a file was skipped.
fn reason<'a>(metadata: &'a Json, path: &str) -> &'a str {
    let all = metadata.as_array().unwrap();
    let found = all.iter().find(|skipped| skipped["path"] == path);
    found.unwrap_or_else(|| panic!("{path} is not among {all:?}"))["reason"].as_str().unwrap()
}

#[test]
fn skipped_files_are_counted_and_named() {
    let mut fixture = Fixture::new();
    let vault = fixture.file("vault");
    fs::write(vault.join("ok.md"), "text").unwrap();
    fs::write(vault.join(OsStr::from_bytes(b"caf\xe9.md")), "text").unwrap();
    fs::create_dir(vault.join(OsStr::from_bytes(b"d\xe9"))).unwrap();
    fs::write(vault.join("image.png"), [0xff]).unwrap();
    symlink(vault.join("ok.md"), vault.join("link.md")).unwrap();
    symlink(fixture.file("outside"), vault.join("folder")).unwrap();
    symlink(vault.join("image.png"), vault.join("link.png")).unwrap();
    nix::unistd::mkfifo(&vault.join("pipe.md"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let wide = |order: fn(u16) -> [u8; 2]| "\u{feff}text".encode_utf16().flat_map(order).collect::<Vec<u8>>();
    fs::write(vault.join("le.md"), wide(u16::to_le_bytes)).unwrap();
    fs::write(vault.join("be.md"), wide(u16::to_be_bytes)).unwrap();
    fs::write(vault.join("no-mark.md"), &wide(u16::to_le_bytes)[2..]).unwrap();
    fs::write(vault.join("latin.md"), b"text \xfc").unwrap();
    let deep = "d/".repeat(33);
    fs::create_dir_all(vault.join(&deep)).unwrap();

    let listed = call(&mut fixture.agent, "list_notes", json!({})).unwrap();
    assert_eq!(listed.data, json!(["be.md", "latin.md", "le.md", "no-mark.md", "ok.md"]));
    assert_eq!(listed.metadata["skipped"], 6, "{:?}", listed.metadata);
    for (path, word) in [
        ("caf\u{fffd}.md", "UTF-8"),
        ("d\u{fffd}", "UTF-8"),
        ("link.md", "link"),
        ("folder", "link"),
        ("pipe.md", "plain file"),
        (deep.trim_end_matches('/'), "deep"),
    ] {
        assert!(reason(&listed.metadata["skipped_notes"], path).contains(word), "{path}");
    }
    let found = call(&mut fixture.agent, "search_notes", json!({"query": "text"})).unwrap();
    let paths: Vec<_> =
        found.data.as_array().unwrap().iter().map(|found| found["path"].as_str().unwrap()).collect();
    assert_eq!((paths, &found.metadata["skipped"]), (vec!["latin.md", "ok.md"], &10.into()));
    for (path, word) in
        [("le.md", "UTF-16"), ("be.md", "UTF-16"), ("no-mark.md", "UTF-16"), ("latin.md", "UTF-8")]
    {
        assert!(reason(&found.metadata["skipped_notes"], path).contains(word), "{path}");
    }
    let chat = text(&mut fixture.agent, "chat", json!({"message": "list notes"}));
    assert!(chat.contains("skipped: caf\u{fffd}.md ("), "{chat}");
    assert_eq!(code(&mut fixture.agent, "read_note", json!({"path": "le"})), 422);
}

#[test]
fn notes_and_folders_are_created_for_their_owner_only() {
    let mut fixture = Fixture::new();
    call(&mut fixture.agent, "create_note", json!({"path": "a/b", "content": "x"})).unwrap();
    for (path, mode) in [("vault/a", 0o700), ("vault/a/b.md", 0o600)] {
        assert_eq!(fs::metadata(fixture.file(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Letters with accents in either order, or composed.
    #[test]
    fn names_that_look_the_same_are_one_note(
        letters in prop::collection::vec(("[a-zA-Z가나]", prop::sample::subsequence(vec!['\u{323}', '\u{307}', '\u{301}'], 0..3)), 1..8)
    ) {
        use unicode_normalization::UnicodeNormalization;
        let name: String = letters.iter().map(|(letter, accents)| format!("{letter}{}", accents.iter().collect::<String>())).collect();
        let (composed, decomposed): (String, String) = (name.nfc().collect(), name.nfd().collect());
        for (on_disk, asked) in [(&composed, &decomposed), (&decomposed, &composed)] {
            let mut fixture = Fixture::new();
            fs::write(fixture.file(&format!("vault/{on_disk}.md")), "x").unwrap();
            prop_assert_eq!(text(&mut fixture.agent, "read_note", json!({"path": asked})), "x");
            let created = call(&mut fixture.agent, "create_note", json!({"title": asked, "content": "y"}));
            prop_assert_eq!(created.unwrap_err().code, 409);
            prop_assert_eq!(fixture.vault_entries().len(), 1);
        }
    }
}
