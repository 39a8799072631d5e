//! The committed corpora, and mutations of them, through the fuzz targets.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use phoenix_fuzz_targets::{TARGETS, Target};

/// Mutated inputs per target.
const MUTATIONS: usize = 4000;

/// Seed of the mutations.
const SEED: u64 = 4711;

/// Fragments with a meaning in one of the formats.
const FRAGMENTS: &[&str] = &[
    "{{tasks.",
    ".output}}",
    "\\",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "1e999",
    "-0",
    "\\ud800",
    "\\u0000",
    "\n",
    "\r",
    "\u{feff}",
    "${SECRET}",
    "${",
    "$$",
    "[agents.x]\n",
    "=",
    "'",
    "\"\"\"",
    "00-",
    "-01",
    "ff",
    "0",
    "\"v\":1",
    "\"v\":2",
    "\"plan_id\"",
    "success",
    "error",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder().join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no corpus");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn mutate(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut data = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=data.len());
        match rng.u8(..6) {
            0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
            1 if at < data.len() => drop(data.remove(at)),
            2 => data.truncate(at),
            3 => drop(data.splice(at..at, FRAGMENTS[rng.usize(..FRAGMENTS.len())].bytes())),
            4 => {
                let other = &corpus[rng.usize(..corpus.len())];
                let part = other[rng.usize(..=other.len())..].to_vec();
                data.splice(at.., part);
            }
            _ => {
                let end = (at + rng.usize(..16)).min(data.len());
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
        }
    }
    data
}

/// Whether the target accepts `data`.
fn run(name: &str, target: Target, data: &[u8]) -> bool {
    let run = catch_unwind(|| target(data));
    run.unwrap_or_else(|_| panic!("{name} failed for {:?}", data.escape_ascii().to_string()))
}

#[test]
fn corpora_and_mutations_keep_every_invariant() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        let accepted = corpus.iter().filter(|data| run(name, *target, data)).count();
        assert!((1..corpus.len()).contains(&accepted), "{name} accepts {accepted} of {} files", corpus.len());
        let mut rng = Rng::with_seed(SEED);
        for _ in 0..MUTATIONS {
            run(name, *target, &mutate(&mut rng, &corpus));
        }
    }
}

#[test]
fn every_target_has_an_entry_point_and_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let mut corpora: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    corpora.sort();
    assert_eq!(corpora, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, _) in TARGETS {
        assert!(fuzz.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
    }
}
