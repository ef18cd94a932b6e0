//! The pages that are written from tables in the code.

use httvps_telemetry::metrics;
use std::fs;
use std::path::Path;

/// A generated file: its path in the repository, and what writes its text.
type Page = (&'static str, fn() -> String);

/// Every generated file.
const PAGES: &[Page] = &[
    ("docs/reference/settings.md", httvps_config::reference_markdown),
    ("docs/reference/metrics.md", metrics::reference_markdown),
    ("docs/reference/codes.md", httvps_proto::reference::codes_markdown),
    ("config/example-config.yaml", httvps_config::example_yaml),
];

/// Writes every page that is not as it should be.
pub(crate) fn write(root: &Path) -> Result<String, String> {
    let mut written = Vec::new();
    for (path, text) in old_pages(root) {
        let file = root.join(path);
        file.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&file, text))
            .map_err(|error| format!("{path}: {error}"))?;
        written.push(path);
    }
    Ok(match written[..] {
        [] => "every page is up to date".to_owned(),
        _ => format!("written: {}", written.join(", ")),
    })
}

/// Fails when a page is not as it should be.
pub(crate) fn check(root: &Path) -> Result<String, String> {
    let old: Vec<_> = old_pages(root).map(|(path, _)| path).collect();
    if old.is_empty() {
        Ok("every page is up to date".to_owned())
    } else {
        Err(format!("old: {}; run `cargo run -p xtask -- reference`", old.join(", ")))
    }
}

fn old_pages(root: &Path) -> impl Iterator<Item = (&'static str, String)> {
    PAGES
        .iter()
        .map(|(path, text)| (*path, text()))
        .filter(|(path, text)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_pages_are_the_committed_ones() {
        super::check(crate::root()).unwrap();
    }
}
