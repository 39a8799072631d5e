//! The container image.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{read, root, run};

#[test]
fn image_build_context_is_exactly_the_workspace() {
    let allowed = read(".dockerignore");
    let allowed: BTreeSet<_> = allowed.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(allowed.contains(member.split('/').next().unwrap()), "{member} is not in .dockerignore");
    }
    for path in &allowed {
        assert!(root().join(path).exists(), ".dockerignore: there is no {path}");
    }
    let version = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(read("deploy/Dockerfile").contains(&format!("FROM rust:{version}-bookworm")));
}

/// A copy of the build context that .dockerignore selects.
fn build_context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')) {
        let target = dir.path().join(path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join(path)).arg(&target).status().unwrap();
        assert!(copied.success(), "{path}");
    }
    dir
}

/// Every file below `dir`, with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn image_rebuilds_dependencies_only_for_new_manifests() {
    let skeleton = |change: &dyn Fn(&Path)| {
        let context = build_context();
        change(context.path());
        let script = context.path().join("deploy/skeleton.sh");
        assert!(Command::new("sh").arg(&script).arg(context.path()).status().unwrap().success());
        (tree(context.path()), context)
    };
    let (before, context) = skeleton(&|_| {});
    let (after, _context) = skeleton(&|context| {
        std::fs::write(context.join("crates/domain/src/lib.rs"), "pub fn changed() {}").unwrap();
        std::fs::write(context.join("crates/domain/src/new_file.rs"), "pub fn new() {}").unwrap();
        std::fs::remove_file(context.join("gateway/src/router.rs")).unwrap();
        std::fs::write(context.join("cli/README"), "new").unwrap();
    });
    assert_eq!(before, after, "sources have no influence");
    let (other, _context) =
        skeleton(&|context| std::fs::write(context.join("Cargo.lock"), "changed").unwrap());
    assert_ne!(before, other, "the lock file has");
    // Every target that a manifest names exists, so cargo accepts the skeleton.
    let mut cargo = Command::new(env!("CARGO"));
    let read = cargo
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(context.path());
    let output = read.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for target in all_targets(&found) {
        assert!(before.contains_key(target.strip_prefix(context.path()).unwrap()), "{}", target.display());
    }
    let dockerfile = self::read("deploy/Dockerfile");
    let builds: Vec<_> = dockerfile.match_indices("cargo build").map(|(index, _)| index).collect();
    let sources = dockerfile.rfind("COPY . .").unwrap();
    assert!(builds[0] < sources && sources < builds[1], "first dependencies, then sources");
}

fn all_targets(metadata: &Value) -> Vec<PathBuf> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
    targets.map(|target| target["src_path"].as_str().unwrap().into()).collect()
}

/// The words before `phoenix` in the image's entry point.
fn init_of_the_image() -> Vec<String> {
    let dockerfile = read("deploy/Dockerfile");
    let words = dockerfile.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap();
    let mut words: Vec<String> = serde_json::from_str(words).unwrap();
    assert_eq!(words.pop().unwrap(), "phoenix");
    words
}

#[test]
fn init_process_of_the_image_reaps_orphans() {
    let init = init_of_the_image();
    let installed = read("deploy/Dockerfile");
    assert!(installed.contains(&format!(" {} ", init[0])) || installed.contains(&format!(" {}\n", init[0])));
    if run(&init[0], &["--version"], &[]).is_none() {
        return;
    }
    // Starts ten orphans, and counts those left as children of process 1.
    let script = "for n in 1 2 3 4 5 6 7 8 9 10; do sh -c 'sleep 0.1 &'; done
                  for n in $(seq 50); do
                      sleep 0.1
                      left=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(sleep) [SZ] 1 ')
                      [ $left -eq 0 ] && break
                  done
                  echo left: $left";
    let words = init.iter().map(String::as_str).chain(["sh", "-c", script]);
    let arguments: Vec<_> = ["--pid", "--fork", "--mount-proc"].into_iter().chain(words).collect();
    if let Some((success, text)) = run("unshare", &arguments, &[]) {
        assert!(success && text.trim() == "left: 0", "{text}");
    }
}
