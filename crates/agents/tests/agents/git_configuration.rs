//! No program of a repository runs and no output changes, under any configuration.

use std::{fs, os::unix::fs::symlink};

use phoenix_agents::git::GitAgent;
use serde_json::{Value, json};

use crate::{
    call, code,
    git::{Fixture, environment},
    text,
};

/// Keys whose value is a program, or makes git run a program.
const PROGRAMS: &[&str] = &[
    "alias.status",
    "alias.diff",
    "core.alternateRefsCommand",
    "core.askPass",
    "core.editor",
    "core.fsmonitor",
    "core.gitProxy",
    "core.pager",
    "core.sshCommand",
    "credential.helper",
    "diff.evil.command",
    "diff.evil.textconv",
    "diff.external",
    "diff.guitool",
    "gpg.openpgp.program",
    "gpg.program",
    "gpg.ssh.defaultKeyCommand",
    "gpg.ssh.program",
    "gpg.x509.program",
    "hook.evil.command",
    "hook.e=v il.command",
    "interactive.diffFilter",
    "merge.evil.driver",
    "pager.diff",
    "pager.log",
    "pager.status",
    "remote.origin.receivepack",
    "remote.origin.uploadpack",
    "remote.origin.vcs",
    "sequence.editor",
    "sendemail.smtpServer",
    "trailer.evil.cmd",
    "trailer.evil.command",
    "uploadpack.packObjectsHook",
];

/// Keys that enable features that run a program or read submodules.
const SWITCHES: &[(&str, &str)] = &[
    ("commit.gpgSign", "true"),
    ("commit.verbose", "2"),
    ("core.untrackedCache", "true"),
    ("diff.evil.cachetextconv", "true"),
    ("diff.ignoreSubmodules", "none"),
    ("diff.submodule", "diff"),
    ("extensions.partialClone", "origin"),
    ("gc.auto", "1"),
    ("gpg.format", "ssh"),
    ("hook.evil.event", "pre-commit"),
    ("hook.e=v il.event", "post-index-change"),
    ("log.showSignature", "true"),
    ("maintenance.auto", "true"),
    ("merge.default", "evil"),
    ("merge.verifySignatures", "true"),
    ("protocol.allow", "always"),
    ("remote.origin.promisor", "true"),
    ("remote.origin.url", "ext::false"),
    ("rerere.enabled", "true"),
    ("status.submoduleSummary", "true"),
    ("submodule.recurse", "true"),
    ("submodule.sub.ignore", "none"),
];

/// Keys that change the format of git's output.
const FORMS: &[(&str, &str)] = &[
    ("color.branch", "always"),
    ("color.diff", "always"),
    ("color.status", "always"),
    ("color.ui", "always"),
    ("column.status", "always"),
    ("column.ui", "always"),
    ("core.abbrev", "40"),
    ("core.bigFileThreshold", "1"),
    ("core.commentChar", ";"),
    ("core.quotePath", "true"),
    ("diff.algorithm", "patience"),
    ("diff.colorMoved", "zebra"),
    ("diff.context", "0"),
    ("diff.dstPrefix", "new/"),
    ("diff.interHunkContext", "9"),
    ("diff.mnemonicPrefix", "true"),
    ("diff.noprefix", "true"),
    ("diff.orderFile", "/nonexistent/order"),
    ("diff.relative", "true"),
    ("diff.renames", "false"),
    ("diff.srcPrefix", "old/"),
    ("diff.statGraphWidth", "1"),
    ("diff.suppressBlankEmpty", "true"),
    ("diff.wsErrorHighlight", "all"),
    ("format.notes", "true"),
    ("format.pretty", "odd"),
    ("i18n.commitEncoding", "latin1"),
    ("i18n.logOutputEncoding", "latin1"),
    ("log.abbrevCommit", "false"),
    ("log.date", "odd"),
    ("log.decorate", "full"),
    ("log.follow", "true"),
    ("notes.displayRef", "*"),
    ("status.branch", "true"),
    ("status.displayCommentPrefix", "true"),
    ("status.relativePaths", "false"),
    ("status.renames", "false"),
    ("status.short", "true"),
    ("status.showStash", "true"),
    ("status.showUntrackedFiles", "no"),
    ("trace2.eventTarget", "2"),
    ("trace2.normalTarget", "2"),
];

/// A repository with changes of every kind.
fn changed() -> Fixture {
    let fixture = Fixture::new();
    let lines: String = (0..30).map(|line| format!("line {line}\n\n")).collect();
    fixture.write("größe.txt", &lines);
    fixture.write("b.txt", &lines.replace("line", "other"));
    fixture.write(".gitattributes", "*.txt diff=evil merge=evil\n");
    fixture.commit("Grüße");
    fixture.add_submodule();
    fixture.git(&["notes", "add", "-m", "A note", "HEAD"]);
    fixture.write("sub/n", "2\n");
    fixture.write("größe.txt", &lines.replace("line 1\n", "changed\n").replace("line 29\n", "changed\n"));
    fixture.git(&["mv", "b.txt", "c.txt"]);
    fixture.write("untracked", "");
    fixture
}

/// The outputs of every read action.
fn readings(fixture: &mut Fixture) -> Vec<String> {
    [
        ("git_status", json!({})),
        ("git_status", json!({"repo": "sub"})),
        ("git_diff", json!({})),
        ("git_diff", json!({"staged": true})),
        ("git_diff", json!({"path": "größe.txt"})),
        ("git_log", json!({})),
        ("git_log", json!({"path": "c.txt"})),
        ("chat", json!({"message": "git log"})),
    ]
    .into_iter()
    .map(|(action, payload)| text(&mut fixture.agent, action, payload))
    .collect()
}

/// Writes a configuration file with git, which quotes names correctly.
fn configure(fixture: &Fixture, file: &str, settings: impl IntoIterator<Item = (&'static str, String)>) {
    for (key, value) in settings {
        fixture.git(&["config", "--file", file, key, &value]);
    }
}

#[test]
fn no_program_of_a_repository_configuration_runs() {
    let mut fixture = changed();
    let before = readings(&mut fixture);
    let (program, marker) = fixture.program();
    let program = program.to_str().unwrap().to_owned();
    let hooks = fixture.file("hooks");
    fs::create_dir(&hooks).unwrap();
    for hook in [
        "pre-commit",
        "commit-msg",
        "prepare-commit-msg",
        "post-commit",
        "post-index-change",
        "reference-transaction",
        "pre-auto-gc",
        "fsmonitor-watchman",
        "post-checkout",
        "pre-push",
    ] {
        fs::copy(&program, hooks.join(hook)).unwrap();
        for git_directory in [".git", ".git/modules/sub"] {
            let folder = fixture.file("root/repo").join(git_directory).join("hooks");
            fs::create_dir_all(&folder).unwrap();
            fs::copy(&program, folder.join(hook)).unwrap();
        }
    }
    for config in [".git/config", ".git/modules/sub/config"] {
        let file = fixture.file("root/repo").join(config);
        let file = file.to_str().unwrap();
        configure(&fixture, file, SWITCHES.iter().map(|(key, value)| (*key, (*value).to_owned())));
        configure(&fixture, file, PROGRAMS.iter().map(|key| (*key, program.clone())));
        configure(&fixture, file, [("core.hooksPath", hooks.to_str().unwrap().to_owned())]);
    }
    fs::write(fixture.file("root/repo/.git/modules/sub/info/attributes"), "* diff=evil\n").unwrap();
    assert_eq!(readings(&mut fixture), before);
    let mut run = |action: &str, payload: Value| {
        call(&mut fixture.agent, action, payload).map(|result| result.to_text())
    };
    run("git_add", json!({"paths": ["größe.txt", "sub"]})).unwrap();
    run("git_add", json!({"paths": ["."]})).unwrap();
    run("git_commit", json!({"message": "Second"})).unwrap();
    assert_eq!(run("git_commit", json!({"message": "Nothing"})).unwrap_err().code, 409);
    run("git_add", json!({"repo": "sub", "paths": ["n"]})).unwrap();
    run("git_commit", json!({"repo": "sub", "message": "Inner"})).unwrap();
    // The submodule has a new commit and other changes.
    fs::write(fixture.file("root/repo/sub/n"), "3\n").unwrap();
    let mut run = |action: &str, payload: Value| text(&mut fixture.agent, action, payload);
    assert!(run("git_status", json!({})).contains("modified:   sub (new commits)"));
    assert!(run("git_diff", json!({})).contains("+Subproject commit"));
    assert_eq!(run("git_add", json!({"paths": ["."]})), "add 'sub'");
    assert!(run("git_diff", json!({"staged": true})).contains("+Subproject commit"));
    run("git_commit", json!({"message": "Third"}));
    assert!(!marker.exists(), "{}", fs::read_to_string(marker).unwrap());
}

#[test]
fn no_program_runs_while_a_merge_is_unfinished() {
    let mut fixture = Fixture::new();
    let (program, marker) = fixture.program();
    fixture.write("a", "1\n");
    fixture.write(".gitattributes", "a merge=evil\n");
    fixture.commit("First");
    fixture.git(&["checkout", "--quiet", "-b", "side"]);
    fixture.write("a", "2\n");
    fixture.commit("Side");
    fixture.git(&["checkout", "--quiet", "main"]);
    fixture.write("a", "3\n");
    fixture.commit("Main");
    let merge = std::process::Command::new("git")
        .env_clear()
        .envs(environment(fixture.dir.path()))
        .current_dir(fixture.file("root/repo"))
        .args(["-c", "rerere.enabled=true", "merge", "side"])
        .output()
        .unwrap();
    assert!(!merge.status.success(), "there is a conflict");
    fixture.git(&["config", "rerere.enabled", "true"]);
    fixture.git(&["config", "merge.evil.driver", program.to_str().unwrap()]);
    assert_eq!(code(&mut fixture.agent, "git_commit", json!({"message": "x"})), 409);
    fixture.write("a", "4\n");
    text(&mut fixture.agent, "git_add", json!({"paths": ["a"]}));
    call(&mut fixture.agent, "git_commit", json!({"message": "Merge"})).unwrap();
    assert_eq!(fixture.git(&["rev-list", "--count", "--merges", "HEAD"]).trim(), "1");
    assert!(!marker.exists(), "{}", fs::read_to_string(marker).unwrap());
}

#[test]
fn programs_of_a_relative_search_path_do_not_run() {
    let mut fixture = Fixture::new();
    let (program, marker) = fixture.program();
    fs::copy(&program, fixture.file("root/repo/tool")).unwrap();
    fixture.git(&["config", "filter.f.clean", "tool"]);
    fixture.write(".gitattributes", "a filter=f\n");
    fixture.write("a", "1\n");
    let mut environment = environment(fixture.dir.path());
    environment[0].1.push(":.:");
    fixture.agent = GitAgent::new(fixture.file("root/repo"), environment);
    let _ = call(&mut fixture.agent, "git_add", json!({"paths": ["a"]}));
    assert!(!marker.exists());
}

#[test]
fn output_does_not_depend_on_the_configuration() {
    let mut fixture = changed();
    let before = readings(&mut fixture);
    assert!(before[2].contains("--- a/größe.txt") && before[3].contains("rename from b.txt"), "{before:?}");
    let user = fixture.file("user");
    configure(&fixture, user.to_str().unwrap(), FORMS.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let mut environment = environment(fixture.dir.path());
    for (name, value) in &mut environment {
        if name == "GIT_CONFIG_GLOBAL" {
            *value = user.clone().into();
        }
    }
    fixture.agent = GitAgent::new(fixture.file("root/repo"), environment);
    assert_eq!(readings(&mut fixture), before, "the user's configuration");
    let repository = fixture.file("root/repo/.git/config");
    for (key, value) in FORMS {
        configure(&fixture, repository.to_str().unwrap(), [(*key, (*value).to_owned())]);
        assert_eq!(readings(&mut fixture), before, "{key}");
    }
    let committed = call(&mut fixture.agent, "git_commit", json!({"message": "ümläut"})).unwrap();
    let commit = fixture.git(&["cat-file", "commit", "HEAD"]);
    assert!(commit.ends_with("\n\nümläut\n") && !commit.contains("encoding"), "{commit}");
    let short = &committed.metadata["commit"].as_str().unwrap()[..7];
    assert!(committed.to_text().starts_with(&format!("[main {short}] ümläut\n")), "{}", committed.to_text());
}

#[test]
fn git_directory_outside_the_root_is_rejected() {
    let fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.commit("Secret");
    fs::rename(fixture.file("root/repo"), fixture.file("outside/other")).unwrap();
    let other = fixture.file("outside/other/.git");
    let repo = fixture.file("root/repo");
    let (git, root) = (repo.join(".git"), fixture.file("root"));
    let agent = |root| GitAgent::new(root, environment(fixture.dir.path()));
    let check = |what: &str| {
        for (root, repo) in [(&root, "repo"), (&repo, "")] {
            for (action, payload) in [
                ("git_status", json!({"repo": repo})),
                ("git_diff", json!({"repo": repo})),
                ("git_log", json!({"repo": repo})),
                ("git_add", json!({"repo": repo, "paths": ["a"]})),
                ("git_commit", json!({"repo": repo, "message": "x"})),
            ] {
                let error = call(&mut agent(root.clone()), action, payload).unwrap_err();
                // With a HEAD or refs that git does not follow, it is no repository.
                assert!(matches!(error.code, 403 | 404), "{what}: {action}: {error}");
            }
        }
    };
    let fresh = || {
        let _ = fs::remove_dir_all(&repo);
        fs::create_dir(&repo).unwrap();
        fs::write(repo.join("a"), "2\n").unwrap();
    };
    fresh();
    fs::write(&git, "gitdir: ../../outside/other/.git\n").unwrap();
    check("a .git file");
    fresh();
    symlink(&other, &git).unwrap();
    check("a link");
    fresh();
    fixture.git(&["init", "--quiet"]);
    fs::write(git.join("commondir"), other.to_str().unwrap()).unwrap();
    check("a common directory");
    for part in ["objects", "refs", "HEAD", "config"] {
        fresh();
        fixture.git(&["init", "--quiet", "--initial-branch=main"]);
        let _ = fs::remove_dir_all(git.join(part));
        let _ = fs::remove_file(git.join(part));
        symlink(other.join(part), git.join(part)).unwrap();
        check(part);
    }
    fresh();
    fixture.git(&["init", "--quiet"]);
    fs::create_dir_all(git.join("objects/info")).unwrap();
    fs::write(git.join("objects/info/alternates"), format!("{}\n", other.join("objects").display())).unwrap();
    assert_eq!(code(&mut agent(root.clone()), "git_log", json!({"repo": "repo"})), 403);
    fs::remove_dir_all(&repo).unwrap();
}

#[test]
fn linked_work_tree_and_submodule_can_be_the_root() {
    let fixture = Fixture::new();
    fixture.write("a", "1\n");
    fixture.commit("First");
    fixture.add_submodule();
    let linked = fixture.file("outside/linked");
    fixture.git(&["worktree", "add", "--quiet", "-b", "topic", linked.to_str().unwrap()]);
    for root in [linked.clone(), fixture.file("root/repo/sub")] {
        let mut agent = GitAgent::new(&root, environment(fixture.dir.path()));
        assert!(text(&mut agent, "git_status", json!({})).contains("On branch "), "{}", root.display());
    }
    // Below a root, their git directories lead out of it.
    let mut agent = GitAgent::new(fixture.file("outside"), environment(fixture.dir.path()));
    assert_eq!(code(&mut agent, "git_status", json!({"repo": "linked"})), 403);
}
