//! Rebuilds the crate when a migration is added: `sqlx::migrate!` embeds the directory, and cargo does not notice a new
//! file without this.
#![allow(clippy::print_stdout, reason = "build scripts pass instructions to cargo on standard output")]

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
