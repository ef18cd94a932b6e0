//! Phrases that this project does not use: riddles, personification, and pronouns for people where a party is meant.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The phrases, in lower case, with what to write instead.
const PHRASES: &[(&str, &str)] = &[
    ("whoever", "name the party or the type"),
    ("nobody", "name the party or the type"),
    ("anybody", "name the party or the type"),
    ("somebody", "name the party or the type"),
    ("by way of", "through"),
    ("told of", "notified of, received"),
    ("goodbye", "close, GO_AWAY"),
    ("good manners", "say what is sent and why"),
    ("at the most", "at most, or: maximum …"),
    ("stands for itself", "state the meaning"),
    ("stand for themselves", "state the meaning"),
    ("knocks", "connects"),
    ("who rules", "who decides"),
];

/// Hits that are allowed in the whole tree: names that belong to others (the Unix user `nobody`), and test names.
const MAX_HITS: usize = 10;

/// Extensions of the files that are read.
const EXTENSIONS: &[&str] = &["md", "rs", "py", "toml", "yaml", "sh"];
/// Directories that are not read.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "testdata"];
/// This file holds the phrases themselves.
const THIS_FILE: &str = "words.rs";

/// Fails when the tree has more hits than allowed; the error lists every one of them with its place.
pub(crate) fn check(root: &Path) -> Result<String, String> {
    let mut hits = Vec::new();
    for file in files(root).map_err(|error| format!("{}: {error}", root.display()))? {
        // A file that is not text has no words.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        for (line, phrase, instead) in find(&text) {
            hits.push(format!("{shown}:{line}: \"{phrase}\" (instead: {instead})"));
        }
    }
    if hits.len() <= MAX_HITS {
        Ok(format!("{} hits of the word list, {MAX_HITS} are allowed", hits.len()))
    } else {
        let mut message = hits.join("\n");
        let _ = write!(message, "\n{} hits, {MAX_HITS} are allowed", hits.len());
        Err(message)
    }
}

/// All files below a directory that are read.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.contains(&name.as_ref()) {
                found.append(&mut files(&path)?);
            }
        } else if name != THIS_FILE
            && path
                .extension()
                .is_some_and(|is| EXTENSIONS.iter().any(|extension| is == *extension))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Number of the line, phrase and advice of each hit. A phrase counts as a whole word, in any case; `_` ends a word, so that
/// names of tests are read too. A phrase that is broken over two lines of a paragraph or a comment counts for the first one.
fn find(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut hits = Vec::new();
    let lines: Vec<String> = text.lines().map(plain).collect();
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).map_or("", String::as_str);
        let joined = format!("{line} {next}");
        for (phrase, instead) in PHRASES {
            let starts = joined.match_indices(phrase).map(|(start, _)| start);
            let here = starts.filter(|start| {
                let before = joined[..*start].chars().next_back();
                let after = joined[start + phrase.len()..].chars().next();
                // One that begins in the next line is found there.
                *start < line.len()
                    && !before.is_some_and(char::is_alphabetic)
                    && !after.is_some_and(char::is_alphabetic)
            });
            hits.extend(here.map(|_| (at + 1, *phrase, *instead)));
        }
    }
    hits
}

/// A line in lower case with single spaces, `_` as a space, and without the sign of a comment.
fn plain(line: &str) -> String {
    let lower = line.to_lowercase().replace('_', " ");
    let text = lower.trim_start().trim_start_matches(['/', '!', '#', '>', '*', ' ']);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_no_more_hits_than_allowed() {
        check(crate::root()).unwrap();
    }

    #[test]
    fn phrases_are_found_as_words_in_any_case_in_names_and_over_two_lines() {
        let found = |text: &str| -> Vec<(usize, &str)> {
            find(text).into_iter().map(|(line, phrase, _)| (line, phrase)).collect()
        };
        assert_eq!(found("fine\nNobody knows."), [(2, "nobody")]);
        assert_eq!(found("fn lets_nobody_in() {}"), [(1, "nobody")]);
        assert_eq!(found("/// It goes by\n    /// way of a node."), [(1, "by way of")]);
        assert_eq!(found("whoever and whoever"), [(1, "whoever"), (1, "whoever")]);
        assert_eq!(found("busybodyish nobodys, at most, NOBODY2"), [(1, "nobody")]);
        assert_eq!(found("nothing here"), []);
    }

    #[test]
    fn a_tree_with_too_many_hits_fails_and_names_each() {
        let directory = std::env::temp_dir().join(format!("httvps-words-{}", std::process::id()));
        fs::create_dir_all(directory.join("docs")).unwrap();
        fs::create_dir_all(directory.join("target")).unwrap();
        fs::write(directory.join("target/a.md"), "nobody ".repeat(100)).unwrap();
        fs::write(directory.join("docs/a.md"), "nobody\n".repeat(MAX_HITS)).unwrap();
        let few = check(&directory);
        fs::write(directory.join("docs/b.md"), "whoever\n").unwrap();
        let many = check(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert!(few.is_ok(), "{few:?}");
        let error = many.unwrap_err();
        assert!(error.contains("docs/b.md:1: \"whoever\""), "{error}");
        assert_eq!(error.lines().count(), MAX_HITS + 2);
    }
}
