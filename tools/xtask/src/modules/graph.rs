//! The dependency graph of files, and its cycles.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    references::Reference,
    resolve::Target,
    source::{ModuleId, Source},
};

/// Dependencies between the files of a crate, with the names that cause them.
#[derive(Debug)]
pub(super) struct Graph {
    files: Vec<PathBuf>,
    edges: BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>>,
}

/// Files that depend on each other.
#[derive(Debug)]
pub(super) struct Cycle {
    pub(super) files: Vec<PathBuf>,
    pub(super) edges: Vec<Edge>,
}

/// A dependency of a cycle.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    pub(super) names: BTreeSet<String>,
}

/// The file that a reference depends on, and the name of the item.
fn dependency(source: &Source, from: ModuleId, reference: &Reference) -> Option<(usize, String)> {
    let Reference { path, is_glob } = reference;
    if *is_glob && let Some(Target::Module(module)) = source.resolve(from, path) {
        return Some((source.modules[module].file, "*".into()));
    }
    // The shortest prefix that names an item. An import of a module alone is no dependency: paths through it are.
    path.iter().enumerate().find_map(|(index, name)| match source.resolve(from, &path[..=index])? {
        Target::Item(file) => Some((file, name.clone())),
        Target::Module(_) => None,
    })
}

impl Graph {
    /// The graph of a crate.
    pub(super) fn of(source: &Source) -> Self {
        let mut edges: BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>> = BTreeMap::new();
        for (id, module) in source.modules.iter().enumerate() {
            for reference in &module.references {
                let Some((file, name)) = dependency(source, id, reference) else { continue };
                if file != module.file {
                    edges.entry(module.file).or_default().entry(file).or_default().insert(name);
                }
            }
        }
        Self { files: source.files.clone(), edges }
    }

    /// The strongly connected components of two and more files.
    pub(super) fn cycles(&self) -> Vec<Cycle> {
        let reachable: Vec<_> = (0..self.files.len()).map(|file| self.reachable(file)).collect();
        let mut cycles = Vec::new();
        let mut seen = BTreeSet::new();
        for file in 0..self.files.len() {
            let members: BTreeSet<_> =
                reachable[file].iter().copied().filter(|other| reachable[*other].contains(&file)).collect();
            if members.len() > 1 && seen.is_disjoint(&members) {
                cycles.push(self.cycle(&members));
                seen.extend(members);
            }
        }
        cycles
    }

    fn reachable(&self, file: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open = vec![file];
        while let Some(file) = open.pop() {
            for next in self.edges.get(&file).into_iter().flat_map(BTreeMap::keys) {
                if found.insert(*next) {
                    open.push(*next);
                }
            }
        }
        found
    }

    fn cycle(&self, members: &BTreeSet<usize>) -> Cycle {
        let edges = members.iter().flat_map(|from| {
            let targets = self.edges.get(from).into_iter().flatten();
            targets.filter(|(to, _)| members.contains(to)).map(|(to, names)| Edge {
                from: self.files[*from].clone(),
                to: self.files[*to].clone(),
                names: names.clone(),
            })
        });
        Cycle {
            files: members.iter().map(|file| self.files[*file].clone()).collect(),
            edges: edges.collect(),
        }
    }
}
