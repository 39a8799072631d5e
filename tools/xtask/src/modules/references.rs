//! The paths that the code of an item names.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ImplItemFn, Item, ItemFn, ItemMod, ItemUse, Macro, Path,
    visit::{self, Visit},
};

use super::{
    attributes::is_test,
    imports::{Import, flatten},
};

/// A path in the code.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) path: Vec<String>,
    /// Whether it is a glob import, which uses the whole module.
    pub(super) is_glob: bool,
}

impl Reference {
    pub(super) fn import(import: &Import) -> Self {
        Self { path: import.path.clone(), is_glob: import.name.is_none() }
    }
}

/// The references of an item, tests excluded.
pub(super) fn of_item(item: &Item) -> Vec<Reference> {
    let mut collector = Collector::default();
    collector.visit_item(item);
    collector.0
}

#[derive(Default)]
struct Collector(Vec<Reference>);

impl<'ast> Visit<'ast> for Collector {
    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none() {
            let path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.0.push(Reference { path, is_glob: false });
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        tokens(call.tokens.clone(), &mut self.0);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_some() {
            return;
        }
        let mut imports = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut imports);
        self.0.extend(imports.iter().map(Reference::import));
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// Adds the paths of two and more segments among the tokens of a macro.
fn tokens(stream: TokenStream, found: &mut Vec<Reference>) {
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    let mut finish = |path: &mut Vec<String>| {
        if path.len() > 1 {
            found.push(Reference { path: std::mem::take(path), is_glob: false });
        }
        path.clear();
    };
    let mut groups = Vec::new();
    for token in stream {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    finish(&mut path);
                }
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                finish(&mut path);
                colons = 0;
                groups.push(group.stream());
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                finish(&mut path);
                colons = 0;
            }
        }
    }
    finish(&mut path);
    groups.into_iter().for_each(|stream| tokens(stream, found));
}
