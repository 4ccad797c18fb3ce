//! Imports only point down in the order of the rooms of `src/` (see ARCHITECTURE.md), and no file imports itself
//! indirectly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// The rooms, from the top to the bottom. `nfs::status` is below `error`, because errors contain NFS statuses.
/// `testing` may import everything, and only tests import it.
const ROOMS: [&str; 18] = [
    "driver",
    "config",
    "bundle",
    "server",
    "service",
    "doctor",
    "check",
    "agent",
    "watch",
    "snapshot",
    "volume",
    "node",
    "export",
    "mount",
    "nfs4",
    "nfs",
    "error",
    "nfs::status",
];
/// The rooms that may name gRPC's crate. `driver` only passes the services to the server.
const GRPC: [&str; 2] = ["server", "service"];

/// An import of a module (a path from the crate's root) in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    of: String,
    in_test: bool,
}

/// The modules of the files of `src/`, and their imports.
struct Imports {
    modules: BTreeSet<String>,
    imports: BTreeSet<Import>,
    /// The modules whose files name gRPC's crate.
    grpc: BTreeSet<String>,
}

/// Walks one file.
struct Walk<'a> {
    modules: &'a BTreeSet<String>,
    file: &'a str,
    /// The modules around the current item, starting with the file's own.
    path: Vec<String>,
    in_test: bool,
    found: BTreeSet<Import>,
    grpc: bool,
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

impl Walk<'_> {
    fn path(&mut self, segments: &[String]) {
        let Some(first) = segments.first() else { return };
        if first == "tonic" && !self.in_test {
            self.grpc = true;
        }
        let mut absolute = match first.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.path.clone(),
            _ => return,
        };
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                _ => absolute.push(segment.clone()),
            }
        }
        // A path may continue inside a file. The import is of the file.
        while !absolute.is_empty() && !self.modules.contains(&absolute.join("::")) {
            absolute.pop();
        }
        let of = absolute.join("::");
        if !of.is_empty() && of != self.file {
            self.found.insert(Import { from: self.file.to_owned(), of, in_test: self.in_test });
        }
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.path(&with(&name.ident)),
            UseTree::Rename(rename) => self.path(&with(&rename.ident)),
            UseTree::Glob(_) => self.path(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        let outer = self.in_test;
        self.in_test |= is_for_tests(attributes);
        visit::visit_item(self, item);
        self.in_test = outer;
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.path.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.path.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.path(&segments);
        }
        visit::visit_path(self, path);
    }
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.extend(path.extension().is_some_and(|extension| extension == "rs").then_some(path)),
        }
    }
}

fn read() -> Imports {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let module = |path: &Path| {
        let path = path.strip_prefix(&source).unwrap().with_extension("");
        let mut names: Vec<String> = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        names.pop_if(|name| name == "mod");
        names.join("::")
    };
    let files: BTreeMap<String, PathBuf> = found.into_iter().map(|path| (module(&path), path)).collect();
    let modules: BTreeSet<String> =
        files.keys().filter(|name| !matches!(name.as_str(), "lib" | "main")).cloned().collect();
    let (mut imports, mut grpc) = (BTreeSet::new(), BTreeSet::new());
    for name in &modules {
        let text = fs::read_to_string(&files[name]).unwrap();
        let path: Vec<String> = name.split("::").map(str::to_owned).collect();
        // All of a file named `tests`, and all of `testing`, is test code.
        let in_test = path.iter().any(|name| name == "tests") || path[0] == "testing";
        let mut walk = Walk { modules: &modules, file: name, path, in_test, found: BTreeSet::new(), grpc: false };
        walk.visit_file(&syn::parse_file(&text).unwrap());
        imports.append(&mut walk.found);
        grpc.extend(walk.grpc.then(|| name.clone()));
    }
    Imports { modules, imports, grpc }
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn rank(module: &str) -> usize {
    let named = |wanted: &str| ROOMS.iter().position(|name| *name == wanted);
    named(module).or_else(|| named(room(module))).unwrap_or_else(|| panic!("{module} is in no room"))
}

#[test]
fn every_import_points_down() {
    let upward: Vec<Import> = read()
        .imports
        .into_iter()
        .filter(|import| room(&import.from) != "testing" && !(import.in_test && room(&import.of) == "testing"))
        .filter(|import| room(&import.of) == "testing" || rank(&import.of) < rank(&import.from))
        .collect();
    assert!(upward.is_empty(), "these imports point up: {upward:#?}");
}

#[test]
fn no_file_imports_itself_by_a_detour() {
    let Imports { modules, imports, .. } = read();
    let mut of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports.iter().filter(|import| !import.in_test) {
        // The use of a submodule is not an import.
        if !import.of.starts_with(&format!("{}::", import.from)) {
            of.entry(&import.from).or_default().insert(&import.of);
        }
    }
    // The modules that can be reached from a file. A file on a cycle reaches itself.
    let reached = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            for module in of.get(next).into_iter().flatten() {
                if seen.insert(*module) {
                    open.push(module);
                }
            }
        }
        seen
    };
    let cyclic: Vec<&String> = modules.iter().filter(|module| reached(module).contains(module.as_str())).collect();
    assert!(cyclic.is_empty(), "these files are on cycles of imports: {cyclic:#?}");
}

#[test]
fn grpc_is_seen_by_the_server_and_the_service_alone() {
    let outside: Vec<String> = read().grpc.into_iter().filter(|module| !GRPC.contains(&room(module))).collect();
    assert!(outside.is_empty(), "these files name tonic: {outside:?}");
}
