//! The modules of a crate, read from its files.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Item, ItemMod};

use super::{
    attributes::{self, is_test, path_attribute},
    imports::{Import, flatten},
    references::{self, Reference},
};
use crate::failure::{Context, Failure, Result};

/// Index of a module in [`Source::modules`].
pub(super) type ModuleId = usize;

/// The modules of a crate. The first is the root.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) modules: Vec<Module>,
    pub(super) files: Vec<PathBuf>,
}

/// One module, in a file of its own or inline.
#[derive(Debug)]
pub(super) struct Module {
    /// Index of its file in [`Source::files`].
    pub(super) file: usize,
    pub(super) parent: Option<ModuleId>,
    pub(super) children: HashMap<String, ModuleId>,
    /// Names of the items that the module defines.
    pub(super) items: HashSet<String>,
    pub(super) imports: Vec<Import>,
    pub(super) references: Vec<Reference>,
}

impl Source {
    /// Reads the crate whose root file is `root`.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub(super) fn load(root: &Path) -> Result<Self> {
        let mut source = Self::default();
        let folder = root.parent().unwrap_or(root).to_owned();
        source.load_file(root, &folder, None)?;
        Ok(source)
    }

    /// Reads the module in the file `path`, whose children are in `folder`.
    fn load_file(&mut self, path: &Path, folder: &Path, parent: Option<ModuleId>) -> Result<ModuleId> {
        let text = fs::read_to_string(path).context(path.display())?;
        let parsed = syn::parse_file(&text).context(path.display())?;
        self.files.push(path.to_owned());
        let file = self.files.len() - 1;
        self.add(&parsed.items, file, folder, parent)
    }

    fn add(
        &mut self,
        items: &[Item],
        file: usize,
        folder: &Path,
        parent: Option<ModuleId>,
    ) -> Result<ModuleId> {
        let id = self.modules.len();
        self.modules.push(Module {
            file,
            parent,
            children: HashMap::new(),
            items: HashSet::new(),
            imports: Vec::new(),
            references: Vec::new(),
        });
        for item in items.iter().filter(|item| !is_test(attributes::of_item(item))) {
            match item {
                Item::Mod(child) => self.add_child(child, file, folder, id)?,
                Item::Use(item) if item.leading_colon.is_none() => {
                    let mut imports = Vec::new();
                    flatten(&item.tree, &mut Vec::new(), &mut imports);
                    let module = &mut self.modules[id];
                    module.references.extend(imports.iter().map(Reference::import));
                    module.imports.extend(imports);
                }
                other => {
                    let module = &mut self.modules[id];
                    module.items.extend(name(other));
                    module.references.extend(references::of_item(other));
                }
            }
        }
        Ok(id)
    }

    fn add_child(&mut self, child: &ItemMod, file: usize, folder: &Path, parent: ModuleId) -> Result<()> {
        let name = child.ident.to_string();
        let below = folder.join(&name);
        let id = match &child.content {
            Some((_, items)) => self.add(items, file, &below, Some(parent))?,
            None => {
                let named = path_attribute(&child.attrs).map(|path| {
                    let folder = self.files[file].parent().unwrap_or(Path::new(""));
                    folder.join(path)
                });
                let usual = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
                let path = named.into_iter().chain(usual).find(|path| path.is_file()).ok_or_else(|| {
                    Failure::new(format_args!("{}: no file for module `{name}`", self.files[file].display()))
                })?;
                self.load_file(&path, &below, Some(parent))?
            }
        };
        self.modules[parent].children.insert(name, id);
        Ok(())
    }
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
