//! The files around the code: workflows, toolchain, contribution files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests too")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use yaml_serde::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The path and the content of every YAML file in `folder`.
fn yaml_files(folder: &str) -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let paths = names.filter(|name| name.ends_with(".yml")).map(|name| format!("{folder}/{name}"));
    let parse = |path: &str| {
        yaml_serde::from_str(&read(path)).unwrap_or_else(|error| panic!("{path} is not YAML: {error}"))
    };
    paths.map(|path| (path.clone(), parse(&path))).collect()
}

/// Every step of every job of a workflow.
fn steps(workflow: &Value) -> Vec<&Value> {
    let jobs = workflow["jobs"].as_mapping().unwrap();
    jobs.iter().flat_map(|(_, job)| job["steps"].as_sequence().unwrap()).collect()
}

#[test]
fn workflow_actions_are_pinned_to_commits() {
    for (path, workflow) in yaml_files(".github/workflows") {
        for action in steps(&workflow).into_iter().filter_map(|step| step["uses"].as_str()) {
            let commit = action.split_once('@').map(|(_, commit)| commit).unwrap_or_default();
            let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_commit, "{path}: `{action}` is not pinned to a commit");
        }
        for (name, job) in workflow["jobs"].as_mapping().unwrap() {
            assert!(job["timeout-minutes"].is_number(), "{path}: job {name:?} has no timeout-minutes");
        }
        assert_eq!(workflow["permissions"]["contents"].as_str(), Some("read"), "{path}: default permissions");
    }
}

#[test]
fn hosted_workflow_runs_what_the_repository_runs() {
    let workflows = yaml_files(".github/workflows");
    let (_, ci) = workflows.iter().find(|(path, _)| path.ends_with("/ci.yml")).unwrap();
    let commands: Vec<_> = steps(ci).into_iter().filter_map(|step| step["run"].as_str()).collect();
    assert!(commands.contains(&".ci/run"), "{commands:?}");
    assert!(read(".ci/run").contains("exec cargo xtask ci"));
}

#[test]
fn compiler_version_is_the_same_everywhere() {
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let minor = channel.rsplit_once('.').unwrap().0;
    for (_, ci) in yaml_files(".github/workflows").iter().filter(|(path, _)| path.ends_with("/ci.yml")) {
        assert_eq!(ci["jobs"]["check"]["container"].as_str(), Some(&*format!("rust:{channel}-bookworm")));
    }
    for line in read("deploy/Dockerfile").lines().filter(|line| line.starts_with("FROM rust:")) {
        assert!(line.starts_with(&format!("FROM rust:{minor}-")), "deploy/Dockerfile: {line}");
    }
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(manifest["workspace"]["package"]["rust-version"].as_str(), Some(minor));
}

#[test]
fn issue_forms_have_a_name_and_questions() {
    let forms = yaml_files(".github/ISSUE_TEMPLATE");
    let forms: Vec<_> = forms.iter().filter(|(path, _)| !path.ends_with("/config.yml")).collect();
    assert!(!forms.is_empty());
    for (path, form) in forms {
        assert!(form["name"].is_string() && form["description"].is_string(), "{path}");
        assert!(form["body"].as_sequence().is_some_and(|questions| !questions.is_empty()), "{path}");
    }
}

/// The owner of the services in the image, as far as this test can be that user: root can read every file.
fn as_service_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        command.uid(10_001).gid(10_001);
    }
    command
}

/// Whether a process of the same user can read the environment of process 1, when its program has the given mode.
fn environment_is_readable(mode: u32) -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("tini");
    fs::copy("/usr/bin/tini", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
    if !nix::unistd::geteuid().is_root() && mode == 0o711 {
        // Here the user owns the file, in the image root does.
        fs::set_permissions(&program, fs::Permissions::from_mode(0o111)).unwrap();
    }
    let mut init = as_service_user(&program);
    init.args(["-s", "--", "cat"])
        .env("SERVICE_SECRET", "hidden")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut init = init.spawn().unwrap();
    let environment = format!("/proc/{}/environ", init.id());
    let read = as_service_user(Path::new("/bin/cat")).arg(&environment).output().unwrap();
    drop(init.stdin.take());
    init.wait().unwrap();
    String::from_utf8_lossy(&read.stdout).contains("SERVICE_SECRET")
}

#[test]
fn process_1_of_the_image_hides_its_environment() {
    if !Path::new("/usr/bin/tini").exists() {
        assert!(std::env::var_os("CI").is_none(), "CI needs tini");
        return;
    }
    assert!(environment_is_readable(0o755), "the check itself must be able to fail");
    assert!(!environment_is_readable(0o711));
    assert!(read("deploy/Dockerfile").contains("chmod 0711 /usr/bin/tini"));
}

/// Files below `folder` with this ending, except build output and what tools install.
fn files_below(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                files_below(&path, ending, into);
            }
        } else if name.ends_with(ending) {
            into.push(path);
        }
    }
}

#[test]
fn test_names_are_shorter_than_sixty_characters() {
    const LIMIT: usize = 60;
    let mut files = Vec::new();
    files_below(&root(), ".rs", &mut files);
    let (mut tests, mut long) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let name = line.trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ");
            if let Some((name, _)) = name.and_then(|rest| rest.split_once('('))
                && std::mem::take(&mut is_test)
            {
                tests += 1;
                if name.len() >= LIMIT {
                    long.push(format!("{}: {name}", file.display()));
                }
            }
        }
    }
    assert!(tests > 1000, "only {tests} tests were found");
    assert!(
        long.is_empty(),
        "name subject, condition, result in under {LIMIT} characters:\n{}",
        long.join("\n")
    );
}
