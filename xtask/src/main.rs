//! Chores of the project.
//!
//! - `cargo run -p xtask -- reference` writes the generated pages; with `--check` it only compares.
//! - `cargo run -p xtask -- layers` checks that no crate depends upward or sideways.

mod layers;
mod reference;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo run -p xtask -- reference [--check] | layers";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["reference"] => reference::write(root()),
        ["reference", "--check"] => reference::check(root()),
        ["layers"] => layers::check(root()),
        _ => Err(USAGE.to_owned()),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
    code
}

/// The directory of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a directory of the workspace")
}
