//! Resolution of paths to the file that defines them.

use super::{
    imports::Import,
    source::{ModuleId, Source},
};

/// Depth limit of re-exports, against imports that name themselves.
const MAX_DEPTH: usize = 32;

/// What a path names inside the crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Module(ModuleId),
    /// An item, by the file that defines it.
    Item(usize),
}

impl Source {
    /// The target of `path` in the module `from`; `None` for a name of another crate or a local name.
    pub(super) fn resolve(&self, from: ModuleId, path: &[String]) -> Option<Target> {
        self.resolve_to(from, path, MAX_DEPTH)
    }

    fn resolve_to(&self, from: ModuleId, path: &[String], depth: usize) -> Option<Target> {
        let depth = depth.checked_sub(1)?;
        let (mut target, rest) = self.start(from, path, depth)?;
        for name in rest {
            let Target::Module(module) = target else { return Some(target) };
            // A name that a macro defines belongs to the file of its module.
            target = self.lookup(module, name, depth).unwrap_or(Target::Item(self.modules[module].file));
        }
        Some(target)
    }

    /// The target of the first segments, and the rest of the path.
    fn start<'p>(&self, from: ModuleId, path: &'p [String], depth: usize) -> Option<(Target, &'p [String])> {
        let (first, mut rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" => return Some((Target::Module(0), rest)),
            "self" => from,
            "super" => self.modules[from].parent?,
            name => return Some((self.lookup(from, name, depth)?, rest)),
        };
        while let Some((next, after)) = rest.split_first()
            && next == "super"
        {
            module = self.modules[module].parent?;
            rest = after;
        }
        Some((Target::Module(module), rest))
    }

    /// The target of `name` in `module`.
    fn lookup(&self, module: ModuleId, name: &str, depth: usize) -> Option<Target> {
        let found = &self.modules[module];
        if let Some(child) = found.children.get(name) {
            return Some(Target::Module(*child));
        }
        if found.items.contains(name) {
            return Some(Target::Item(found.file));
        }
        let named = found.imports.iter().filter(|import| import.name.as_deref() == Some(name));
        let by_name = named.filter_map(|Import { path, .. }| self.resolve_import(module, name, path, depth));
        let globs = found.imports.iter().filter(|import| import.name.is_none());
        let by_glob = globs.filter_map(|import| match self.resolve_to(module, &import.path, depth)? {
            Target::Module(glob) if glob != module => self.lookup(glob, name, depth.checked_sub(1)?),
            Target::Module(_) | Target::Item(_) => None,
        });
        by_name.chain(by_glob).next()
    }

    /// The target of an import. `use name::Thing as name` must not look `name` up in itself.
    fn resolve_import(&self, module: ModuleId, name: &str, path: &[String], depth: usize) -> Option<Target> {
        if path.first().is_some_and(|first| first == name) {
            // The first segment is another crate.
            return None;
        }
        self.resolve_to(module, path, depth)
    }
}
