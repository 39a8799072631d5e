//! Imports of a `use`.

use syn::UseTree;

/// One name that a `use` binds.
#[derive(Debug, Clone)]
pub(super) struct Import {
    /// The bound name; `None` for a glob.
    pub(super) name: Option<String>,
    pub(super) path: Vec<String>,
}

/// Adds the imports of a `use` below `prefix`.
pub(super) fn flatten(tree: &UseTree, prefix: &mut Vec<String>, imports: &mut Vec<Import>) {
    let with = |prefix: &[String], last: String| [prefix, &[last]].concat();
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, imports);
            prefix.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            imports.push(Import { name: prefix.last().cloned(), path: prefix.clone() });
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            imports.push(Import { path: with(prefix, name.clone()), name: Some(name) });
        }
        UseTree::Rename(rename) => {
            let path = match rename.ident.to_string() {
                this if this == "self" => prefix.clone(),
                name => with(prefix, name),
            };
            imports.push(Import { name: Some(rename.rename.to_string()), path });
        }
        UseTree::Glob(_) => imports.push(Import { name: None, path: prefix.clone() }),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, imports)),
    }
}
