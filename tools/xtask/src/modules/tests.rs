use super::*;

/// A crate in a temporary folder, with these files below `src`.
fn crate_of(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join("src").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = dir.path().join("src/lib.rs");
    (dir, root)
}

/// The cycles of a crate as `file -> file: names`, one string per cycle.
fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
    let (_dir, root) = crate_of(files);
    let folder = root.parent().unwrap();
    let show = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
    let describe = |cycle: &Cycle| {
        let edges = cycle.edges.iter().map(|edge| {
            let names: Vec<_> = edge.names.iter().cloned().collect();
            format!("{} -> {}: {}", show(&edge.from), show(&edge.to), names.join(" "))
        });
        edges.collect::<Vec<_>>().join(", ")
    };
    cycles(&root).unwrap().iter().map(describe).collect()
}

#[test]
fn cycle_between_siblings_is_reported_with_names() {
    let found = cycles_of(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::{B, make}; pub struct A(B); pub fn f() { make() }"),
        ("b.rs", "use crate::c; pub struct B; pub fn make() -> B { c::helper() }"),
        ("c.rs", "pub fn helper() -> super::b::B { let _ = crate::a::A::new; todo!() }"),
    ]);
    assert_eq!(found, ["a.rs -> b.rs: B make, b.rs -> c.rs: helper, c.rs -> a.rs: A, c.rs -> b.rs: B"]);
}

#[test]
fn parent_and_child_are_a_cycle_only_when_both_name_items() {
    let parent = "mod child; pub struct P; pub use child::C;";
    let found = cycles_of(&[
        ("lib.rs", "pub mod p;"),
        ("p.rs", parent),
        ("p/child.rs", "use super::P; pub struct C(P);"),
    ]);
    assert_eq!(found, ["p.rs -> p/child.rs: C, p/child.rs -> p.rs: P"]);
    let trait_impl = [
        ("lib.rs", "pub mod p;"),
        ("p.rs", "mod child; pub struct P;"),
        ("p/child.rs", "impl super::P { fn f(&self) {} }"),
    ];
    assert_eq!(cycles_of(&trait_impl), Vec::<String>::new(), "a declaration is not a dependency");
}

#[test]
fn name_is_traced_through_re_exports_to_its_file() {
    let files = [
        ("lib.rs", "mod m; mod user; pub use m::Top;"),
        ("m.rs", "mod leaf; mod top; pub use leaf::*; pub use self::top::Top as Renamed; pub use top::Top;"),
        ("m/leaf.rs", "pub struct Leaf;"),
        ("m/top.rs", "use crate::user::User; pub struct Top(User);"),
        ("user.rs", "use crate::m::Leaf; pub struct User(Leaf);"),
    ];
    assert_eq!(cycles_of(&files), Vec::<String>::new());
    let mut cyclic = files;
    cyclic[4].1 = "use crate::m; pub struct User(m::Renamed);";
    assert_eq!(cycles_of(&cyclic), ["m/top.rs -> user.rs: User, user.rs -> m/top.rs: Renamed"]);
}

#[test]
fn tests_and_comments_are_not_dependencies() {
    let found = cycles_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; fn f(_: B) {} }"),
        (
            "b.rs",
            "//! See [`crate::a`].\nuse crate::a::A; pub struct B(A); impl B { #[cfg(test)] fn t(_: crate::b::B) {} }",
        ),
    ]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn arguments_of_macros_and_inner_imports_are_dependencies() {
    let found = cycles_of(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "pub const A: u8 = 0; pub fn f() { println!(\"{}\", crate::b::B); }"),
        ("b.rs", "pub const B: u8 = 1; pub fn g() { use super::c::h; h() }"),
        ("c.rs", "pub fn h() { let _ = vec![super::a::A]; }"),
    ]);
    assert_eq!(found, ["a.rs -> b.rs: B, b.rs -> c.rs: h, c.rs -> a.rs: A"]);
}

#[test]
fn names_of_other_crates_are_not_dependencies() {
    let found = cycles_of(&[
        ("lib.rs", "pub mod metrics; pub mod user;"),
        ("metrics.rs", "mod inner; pub use self::inner::Metric;"),
        ("metrics/inner.rs", "use metrics::Metric as External; pub struct Metric(External);"),
        ("user.rs", "use ::metrics::counter; use std::fmt; pub fn f() { metrics::counter!(\"x\"); }"),
    ]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn workspace_has_no_cycle_between_files() {
    run().unwrap_or_else(|failure| panic!("{failure}"));
}
