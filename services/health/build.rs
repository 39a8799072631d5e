//! Builds the crate again when a migration is added: `sqlx::migrate!` embeds the folder, and cargo alone would not
//! notice a new file.
#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
