//! The modules of each crate: none uses a module that uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module by its path within its crate; empty for the root.
type Module = Vec<String>;

/// Circles that stand: crate, and its modules in order. The list may only get shorter.
const KNOWN: &[(&str, &[&str])] = &[
    ("httvps", &["backend::args", "backend::nodes"]),
    ("httvps-client", &["proxy::associate", "proxy::socks5_reply"]),
    ("httvps-client", &["proxy::http::own", "proxy::http::request"]),
    ("httvps-config", &["given", "setting", "yaml"]),
    (
        "httvps-egress",
        &[
            "nodes::assignment",
            "nodes::datagrams",
            "nodes::node",
            "nodes::protocol",
            "nodes::stream",
        ],
    ),
    ("httvps-egress", &["nodes::pool", "nodes::probe", "nodes::session"]),
    ("httvps-gateway", &["device", "registry"]),
    ("httvps-mux", &["carry", "connection", "datagrams", "driver", "state", "stream", "table"]),
    ("httvps-tls", &["fuzzing", "session", "stream"]),
    ("httvps-transport", &["ws::close", "ws::codec"]),
];

/// Fails where modules of a crate use each other in a circle. A module and those inside it are one room: what they use
/// of each other does not count.
pub(crate) fn check(root: &Path) -> Result<String, String> {
    let mut found = Vec::new();
    let crates = root.join("crates");
    for entry in fs::read_dir(&crates).map_err(|error| format!("{}: {error}", crates.display()))? {
        let folder = entry.map_err(|error| error.to_string())?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sources = read(&folder.join("src"), &[])?;
        found.extend(circles(&sources).into_iter().map(|circle| (name.clone(), circle)));
    }
    found.sort();
    let known: Vec<(String, Vec<String>)> = KNOWN
        .iter()
        .map(|(name, modules)| {
            ((*name).to_owned(), modules.iter().map(ToString::to_string).collect())
        })
        .collect();
    let line = |(name, modules): &(String, Vec<String>)| format!("{name}: {}", modules.join(" ↔ "));
    let new: Vec<String> =
        found.iter().filter(|circle| !known.contains(circle)).map(line).collect();
    let gone: Vec<String> =
        known.iter().filter(|circle| !found.contains(circle)).map(line).collect();
    match (&new[..], &gone[..]) {
        ([], []) => Ok(format!("modules: no new circle, {} that stand", known.len())),
        ([], gone) => {
            Err(format!("circles that are gone, take them out of KNOWN:\n{}", gone.join("\n")))
        }
        (new, _) => Err(format!("modules that use each other:\n{}", new.join("\n"))),
    }
}

/// The text of every module below `folder`, without those of tests.
fn read(folder: &Path, within: &[String]) -> Result<BTreeMap<Module, String>, String> {
    let mut sources = BTreeMap::new();
    let unreadable = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if stem == "tests" || stem.ends_with("_tests") {
            continue;
        }
        let mut module = within.to_vec();
        if path.is_dir() {
            module.push(stem);
            sources.extend(read(&path, &module)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if !matches!(&*stem, "mod" | "lib" | "main") {
                module.push(stem);
            }
            sources.insert(module, fs::read_to_string(&path).map_err(unreadable)?);
        }
    }
    Ok(sources)
}

/// The sets of modules that reach each other, each in order.
fn circles(sources: &BTreeMap<Module, String>) -> Vec<Vec<String>> {
    let uses: BTreeMap<&Module, BTreeSet<&Module>> =
        sources.iter().map(|(module, text)| (module, used(module, text, sources))).collect();
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        uses.keys().map(|module| (*module, reach(module, &uses))).collect();
    let mut circles = BTreeSet::new();
    for (module, others) in &reached {
        if others.contains(*module) {
            let circle = others.iter().filter(|other| reached[**other].contains(*module));
            circles.insert(circle.map(|module| module.join("::")).collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

fn reach<'a>(
    from: &Module,
    uses: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&Module> = uses[from].iter().copied().collect();
    while let Some(module) = waiting.pop() {
        if reached.insert(module) {
            waiting.extend(&uses[module]);
        }
    }
    reached
}

/// The other modules that `text` names, but for those around it and inside it.
fn used<'a>(
    module: &Module,
    text: &str,
    sources: &'a BTreeMap<Module, String>,
) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    for line in statements(text) {
        for path in paths(&line) {
            let Some(target) = resolve(module, &path, sources) else { continue };
            if !target.starts_with(module) && !module.starts_with(target) {
                found.insert(target);
            }
        }
    }
    found
}

/// The code before the tests, without comments, each `use` on one line.
fn statements(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: Vec<&str> =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    code.join(" ").split(';').map(str::to_owned).collect()
}

/// The paths in a statement that begin at the crate or at a module around: `super::a::{b, c::D}` is three.
fn paths(statement: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let words: Vec<&str> = statement
        .split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_'))
        .flat_map(|part| match part.char_indices().next_back() {
            Some((at, c)) if !(c.is_alphanumeric() || c == '_') => vec![&part[..at], &part[at..]],
            _ => vec![part],
        })
        .filter(|word| !word.trim().is_empty())
        .collect();
    let mut at = 0;
    while at < words.len() {
        if matches!(words[at], "crate" | "super") {
            at = path(&words, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, with what it has in braces, from `at` on; gives where it ends.
fn path(words: &[&str], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    loop {
        match words.get(at) {
            Some(&"{") => {
                at += 1;
                while at < words.len() && words[at] != "}" {
                    at = self::path(words, at, &path, found).max(at + 1);
                }
                return at + 1;
            }
            Some(word) if word.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                path.push((*word).to_owned());
                at += 1;
            }
            _ => break,
        }
        if words.get(at) == Some(&":") && words.get(at + 1) == Some(&":") {
            at += 2;
        } else {
            break;
        }
    }
    if path.len() > before.len() {
        found.push(path);
    }
    at
}

/// The module that a path leads into.
fn resolve<'a>(
    module: &Module,
    path: &[String],
    sources: &'a BTreeMap<Module, String>,
) -> Option<&'a Module> {
    let mut at = module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &path[1..];
        }
        _ => {
            while rest.first().is_some_and(|part| part == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
    }
    for part in rest {
        at.push(part.clone());
        if !sources.contains_key(&at) {
            at.pop();
            break;
        }
    }
    sources.get_key_value(&at).map(|(module, _)| module).filter(|module| !module.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> BTreeMap<Module, String> {
        let parts = |path: &str| -> Module {
            path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        files.iter().map(|(path, text)| (parts(path), (*text).to_owned())).collect()
    }

    #[test]
    fn a_circle_is_found_through_braces_and_several_modules() {
        let circle = sources(&[
            ("", "mod a; mod b; mod c;"),
            ("a", "use crate::{b::B, std_like};\nstruct A;"),
            ("b", "use super::c::{self, C as D};"),
            ("c", "fn f() { crate::a::go() }"),
        ]);
        assert_eq!(circles(&circle), [["a", "b", "c"]]);
    }

    #[test]
    fn tests_comments_parents_and_children_are_no_circle() {
        let none = sources(&[
            ("a", "use crate::b::B;\n#[cfg(test)]\nmod tests { use crate::d::D; }"),
            ("b", "// crate::a\nuse self::inner::I;"),
            ("b::inner", "use super::B; use crate::c::C;"),
            ("c", ""),
            ("d", "use crate::a::A;"),
        ]);
        assert_eq!(circles(&none), Vec::<Vec<String>>::new());
    }

    #[test]
    fn the_crates_have_no_new_circle() {
        check(crate::root()).unwrap();
    }
}
