//! Chores of the project.
//!
//! - `cargo run -p xtask -- reference` writes the generated pages; with `--check` it only compares.
//! - `cargo run -p xtask -- layers` checks that no crate depends upward or sideways, and that no modules of
//!   a crate use each other in a circle.
//! - `cargo run -p xtask -- words` checks pages and source for phrases that the project does not use.

mod layers;
mod modules;
mod reference;
mod words;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo run -p xtask -- reference [--check] | layers | words";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["reference"] => reference::write(root()),
        ["reference", "--check"] => reference::check(root()),
        ["layers"] => both(layers::check(root()), modules::check(root())),
        ["words"] => words::check(root()),
        _ => Err(USAGE.to_owned()),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    // When standard error is closed there is no other place to report to.
    let _ = writeln!(std::io::stderr(), "{text}");
    code
}

/// Both texts, or all that is wrong.
fn both(one: Result<String, String>, other: Result<String, String>) -> Result<String, String> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok(format!("{one}\n{other}")),
        (Err(one), Err(other)) => Err(format!("{one}\n{other}")),
        (Err(wrong), _) | (_, Err(wrong)) => Err(wrong),
    }
}

/// The directory of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a directory of the workspace")
}
