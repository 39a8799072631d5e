//! Notes in real directories, and paths and links that lead out of them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use phoenix_agents::{Agent, obsidian::ObsidianAgent};
use serde_json::json;
use tempfile::TempDir;

use crate::{call, code, request, text};

/// A vault, and a directory beside it that must not be reached.
pub(crate) struct Fixture {
    dir: TempDir,
    pub(crate) agent: ObsidianAgent,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("vault")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret.md"), "secret").unwrap();
        let agent = ObsidianAgent::new(Some(dir.path().join("vault")));
        Self { dir, agent }
    }

    pub(crate) fn file(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn vault_entries(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.file("vault"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn note_is_created_read_changed_listed_and_found() {
    let mut fixture = Fixture::new();
    let agent = &mut fixture.agent;
    let created =
        call(agent, "create_note", json!({"path": "Projects/Phoenix", "content": "# Plan\nfly"})).unwrap();
    assert_eq!(created.metadata["path"], "Projects/Phoenix.md");
    assert_eq!(created.metadata["created"], true);
    call(agent, "create_note", json!({"title": "a/b: c", "content": "x"})).unwrap();
    call(agent, "update_note", json!({"path": "Projects/Phoenix.md", "content": "Ash", "mode": "append"}))
        .unwrap();
    let read = call(agent, "read_note", json!({"path": "Projects/Phoenix"})).unwrap();
    assert_eq!((read.output_type.as_str(), read.data), ("markdown", "# Plan\nfly\nAsh".into()));
    let listed = call(agent, "list_notes", json!({})).unwrap();
    assert_eq!(listed.data, json!(["a-b- c.md", "Projects/Phoenix.md"]));
    let listed = call(agent, "list_notes", json!({"folder": "Projects", "limit": 1})).unwrap();
    assert_eq!(
        (listed.data, &listed.metadata["truncated"]),
        (json!(["Projects/Phoenix.md"]).into(), &false.into())
    );
    let found = call(agent, "search_notes", json!({"query": "ASH"})).unwrap();
    assert_eq!(found.data, json!([{"path": "Projects/Phoenix.md", "line": 3, "text": "Ash"}]));
    call(agent, "update_note", json!({"path": "Projects/Phoenix", "content": "new"})).unwrap();
    assert_eq!(text(agent, "read_note", json!({"path": "Projects/Phoenix"})), "new");
    assert_eq!(fixture.vault_entries(), ["Projects", "a-b- c.md"], "no draft is left behind");
}

#[test]
fn repeated_create_is_idempotent_and_never_overwrites() {
    let mut fixture = Fixture::new();
    let note = json!({"path": "n", "content": "first"});
    assert_eq!(call(&mut fixture.agent, "create_note", note.clone()).unwrap().metadata["created"], true);
    assert_eq!(call(&mut fixture.agent, "create_note", note).unwrap().metadata["created"], false);
    assert_eq!(code(&mut fixture.agent, "create_note", json!({"path": "n", "content": "second"})), 409);
    assert_eq!(fs::read_to_string(fixture.file("vault/n.md")).unwrap(), "first");
    assert_eq!(fixture.vault_entries(), ["n.md"]);
}

#[test]
fn repeated_append_appends_once() {
    let mut fixture = Fixture::new();
    fs::write(fixture.file("vault/n.md"), "one\n").unwrap();
    let mut append = request("update_note", json!({"path": "n", "content": "two", "mode": "append"}));
    for attempt in 1..=3 {
        append.meta.attempt = attempt;
        fixture.agent.handle(&append).unwrap();
    }
    assert_eq!(fs::read_to_string(fixture.file("vault/n.md")).unwrap(), "one\ntwo");
}

#[test]
fn update_keeps_the_permissions_of_the_file() {
    let mut fixture = Fixture::new();
    fs::write(fixture.file("vault/n.md"), "old").unwrap();
    fs::set_permissions(fixture.file("vault/n.md"), fs::Permissions::from_mode(0o600)).unwrap();
    call(&mut fixture.agent, "update_note", json!({"path": "n", "content": "new"})).unwrap();
    assert_eq!(fs::metadata(fixture.file("vault/n.md")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn concurrent_appends_lose_nothing() {
    let fixture = Fixture::new();
    fs::write(fixture.file("vault/n.md"), "").unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let root = fixture.file("vault");
            scope.spawn(move || {
                let mut agent = ObsidianAgent::new(Some(root));
                for line in 0..5 {
                    let content = format!("{writer}-{line}");
                    call(
                        &mut agent,
                        "update_note",
                        json!({"path": "n", "content": content, "mode": "append"}),
                    )
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(fixture.file("vault/n.md")).unwrap().lines().count(), 20);
}

#[test]
fn no_path_leaves_the_vault() {
    let mut fixture = Fixture::new();
    let absolute = fixture.file("outside/secret.md");
    let absolute = absolute.to_str().unwrap();
    for path in
        ["../outside/secret", "a/../../outside/secret", "./../outside/secret.md", absolute, "..", "a/.."]
    {
        for (action, payload) in [
            ("read_note", json!({"path": path})),
            ("create_note", json!({"path": path, "content": "x"})),
            ("update_note", json!({"path": path, "content": "x"})),
            ("list_notes", json!({"folder": path})),
        ] {
            assert_eq!(code(&mut fixture.agent, action, payload), 400, "{action} {path}");
        }
    }
    assert_eq!(fs::read_to_string(absolute).unwrap(), "secret");
}

#[test]
fn no_link_leads_out_of_the_vault() {
    let mut fixture = Fixture::new();
    let agent_sees = |fixture: &mut Fixture, path: &str| {
        for (action, payload) in [
            ("read_note", json!({"path": path})),
            ("update_note", json!({"path": path, "content": "x"})),
            ("update_note", json!({"path": path, "content": "x", "mode": "append"})),
        ] {
            assert_eq!(code(&mut fixture.agent, action, payload), 403, "{action} {path}");
        }
    };
    symlink(fixture.file("outside"), fixture.file("vault/dir")).unwrap();
    symlink(fixture.file("outside/secret.md"), fixture.file("vault/file.md")).unwrap();
    symlink(fixture.file("outside/new.md"), fixture.file("vault/dangling.md")).unwrap();
    for path in ["dir/secret", "file", "dangling"] {
        agent_sees(&mut fixture, path);
    }
    assert_eq!(code(&mut fixture.agent, "create_note", json!({"path": "dir/new", "content": "x"})), 403);
    assert_eq!(code(&mut fixture.agent, "create_note", json!({"path": "dir/sub/new", "content": "x"})), 403);
    assert_eq!(code(&mut fixture.agent, "create_note", json!({"path": "dangling", "content": "x"})), 403);
    assert_eq!(code(&mut fixture.agent, "list_notes", json!({"folder": "dir"})), 403);
    assert_eq!(text(&mut fixture.agent, "list_notes", json!({})), "[]");
    assert_eq!(text(&mut fixture.agent, "search_notes", json!({"query": "secret"})), "[]");
    assert_eq!(fs::read_to_string(fixture.file("outside/secret.md")).unwrap(), "secret");
    assert_eq!(fs::read_dir(fixture.file("outside")).unwrap().count(), 1);
}

#[test]
fn entry_that_is_no_plain_note_is_rejected_at_once() {
    let mut fixture = Fixture::new();
    nix::unistd::mkfifo(&fixture.file("vault/pipe.md"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(fixture.file("vault/folder.md")).unwrap();
    fs::write(fixture.file("vault/binary.md"), b"\xff\xfe").unwrap();
    fs::write(fixture.file("vault/big.md"), vec![b'x'; 5 * 1024 * 1024]).unwrap();
    fs::create_dir(fixture.file("vault/.obsidian")).unwrap();
    fs::write(fixture.file("vault/.obsidian/n.md"), "hidden").unwrap();
    for (path, refused) in
        [("pipe", 403), ("folder", 403), ("binary", 422), ("big", 413), ("missing", 404), ("no/n", 404)]
    {
        assert_eq!(code(&mut fixture.agent, "read_note", json!({"path": path})), refused, "{path}");
    }
    assert_eq!(code(&mut fixture.agent, "update_note", json!({"path": "missing", "content": "x"})), 404);
    let content = "x".repeat(5 * 1024 * 1024);
    assert_eq!(code(&mut fixture.agent, "create_note", json!({"path": "n", "content": content})), 413);
    assert_eq!(text(&mut fixture.agent, "list_notes", json!({})), r#"["big.md","binary.md"]"#);
    assert_eq!(text(&mut fixture.agent, "search_notes", json!({"query": "hidden"})), "[]");
}

#[test]
fn truncated_lists_and_searches_say_so() {
    let mut fixture = Fixture::new();
    for n in 0..5 {
        fs::write(fixture.file(&format!("vault/{n}.md")), "same\nsame").unwrap();
    }
    let listed = call(&mut fixture.agent, "list_notes", json!({"limit": 2})).unwrap();
    assert_eq!((listed.data, &listed.metadata["truncated"]), (json!(["0.md", "1.md"]).into(), &true.into()));
    assert_eq!(listed.metadata["count"], 5);
    let found = call(&mut fixture.agent, "search_notes", json!({"query": "same", "limit": 3})).unwrap();
    assert_eq!((found.data.as_array().unwrap().len(), &found.metadata["truncated"]), (3, &true.into()));
    let found = call(&mut fixture.agent, "search_notes", json!({"query": "same", "limit": 10})).unwrap();
    assert_eq!((found.data.as_array().unwrap().len(), &found.metadata["truncated"]), (10, &false.into()));
}

#[test]
fn search_ends_at_its_deadline() {
    let mut fixture = Fixture::new();
    let mut search = request("search_notes", json!({"query": "x"}));
    search.meta.deadline_ms = 0;
    assert_eq!(fixture.agent.handle(&search).unwrap_err().code, 504);
}

#[test]
fn chats_run_the_requested_action() {
    let mut fixture = Fixture::new();
    let mut chat = |message: &str| text(&mut fixture.agent, "chat", json!({"message": message}));
    assert_eq!(chat("list notes"), "There are no notes.");
    assert_eq!(chat("Create note Shopping: milk"), "Created Shopping.md");
    assert_eq!(chat("read note Shopping"), "milk");
    assert_eq!(chat("please list my notes"), "Shopping.md");
    assert_eq!(chat("search notes for MILK"), "Shopping.md:1: milk");
    assert_eq!(chat("search notes for rum"), "No note has this text.");
    assert_eq!(code(&mut fixture.agent, "chat", json!({"message": "tell me a joke"})), 400);
    assert_eq!(code(&mut fixture.agent, "chat", json!({"message": "read note ../outside/secret"})), 400);
}

#[test]
fn invalid_input_and_missing_vault_are_explained() {
    let mut fixture = Fixture::new();
    for (action, payload) in [
        ("create_note", json!({"path": "a", "title": "a", "content": ""})),
        ("create_note", json!({"content": ""})),
        ("create_note", json!({"path": "a"})),
        ("update_note", json!({"path": "a", "content": "", "mode": "prepend"})),
        ("read_note", json!({"path": "a", "pth": 1})),
        ("search_notes", json!({"query": " "})),
        ("list_notes", json!({"limit": 0})),
    ] {
        assert_eq!(code(&mut fixture.agent, action, payload.clone()), 400, "{action} {payload}");
    }
    assert_eq!(code(&mut fixture.agent, "delete_note", json!({"path": "a"})), 501);
    for (root, word) in
        [(None, "set OBSIDIAN_AGENT_VAULT_ROOT"), (Some("/nonexistent/vault"), "does not exist")]
    {
        let mut agent = ObsidianAgent::new(root.map(|root| Path::new(root).into()));
        let error = call(&mut agent, "list_notes", json!({})).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(
            error.message.contains(word) && error.message.contains("OBSIDIAN_AGENT_VAULT_ROOT"),
            "{error}"
        );
    }
}
