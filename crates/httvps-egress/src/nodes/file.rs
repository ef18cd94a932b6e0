//! The file with the pool of nodes.

use super::key::KeySource;
use httvps_config::Secret;
use httvps_control::backend::OutlineNode;
use serde::Deserialize;
use serde_saphyr::{Error as YamlError, Spanned};
use std::path::Path;

/// Most bytes of the file.
const MAX_FILE: u64 = 1 << 20;
/// Most nodes in it.
const MAX_NODES: usize = 1024;

/// A node of the pool, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeSpec {
    pub(super) id: String,
    pub(super) source: KeySource,
    pub(super) region: Option<String>,
    pub(super) weight: u32,
    pub(super) priority: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    nodes: Vec<Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    key: Secret,
    region: Option<String>,
    weight: Option<u32>,
    priority: Option<u32>,
}

/// Reads and validates the file. Blocks. The error names the file, the line or the node, the fault
/// and the accepted values; it contains no key.
pub(super) fn load(path: &Path) -> Result<Vec<NodeSpec>, String> {
    let failed = |words: String| format!("{}: {words}", path.display());
    let text = httvps_text::read_file(path, MAX_FILE).map_err(|error| failed(error.to_string()))?;
    parse(&text).map_err(failed)
}

fn parse(text: &str) -> Result<Vec<NodeSpec>, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Document =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(&error))?;
    if document.nodes.is_empty() {
        return Err("has no nodes; a list under nodes: with id and key is needed".to_owned());
    }
    if document.nodes.len() > MAX_NODES {
        return Err(format!("has more than {MAX_NODES} nodes"));
    }
    let mut specs: Vec<NodeSpec> = Vec::with_capacity(document.nodes.len());
    for row in document.nodes {
        let line = row.referenced.line();
        let Row { id, key, region, weight, priority } = row.value;
        if !OutlineNode::is_id(&id) {
            return Err(format!(
                "line {line}: the id of a node is 1 to 64 letters, digits, '.', '_', '-' and ':'"
            ));
        }
        if specs.iter().any(|other| other.id == id) {
            return Err(format!("line {line}: there are two nodes with the id {id}"));
        }
        let source = KeySource::parse(key.expose())
            .map_err(|problem| format!("line {line}: the key of the node {id}: {problem}"))?;
        specs.push(NodeSpec {
            id,
            source,
            region: region.filter(|region| !region.is_empty()),
            weight: weight.unwrap_or(1),
            priority: priority.unwrap_or(0),
        });
    }
    Ok(specs)
}

/// The text of the parser, unless it may quote a value.
fn explain(error: &YamlError) -> String {
    let error = error.without_snippet();
    let line = error.location().map_or(0, |location| location.line());
    let words = error.to_string();
    let words = words.lines().next().unwrap_or_default();
    let is_about_names = ["unknown field", "missing field", "duplicate"];
    let is_harmless = is_about_names.iter().any(|start| words.contains(start));
    if is_harmless && !words.contains("://") {
        let words: String = words.chars().take(200).collect();
        return format!("line {line}: {words}");
    }
    format!(
        "line {line}: is not valid; accepted: nodes:, a list of id, key, region, weight and priority"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodW50ZXIy@192.0.2.1:8388";

    #[test]
    fn a_pool_is_read_with_its_defaults() {
        let text = format!(
            "nodes:\n  - id: fra-1\n    key: {KEY}\n    region: eu\n    weight: 10\n    priority: 2\n  - {{id: b, key: 'ssconf://h/k'}}\n"
        );
        let specs = parse(&text).unwrap();
        assert_eq!(
            (specs[0].region.as_deref(), specs[0].weight, specs[0].priority),
            (Some("eu"), 10, 2)
        );
        assert_eq!((specs[1].region.as_deref(), specs[1].weight, specs[1].priority), (None, 1, 0));
        assert!(!format!("{specs:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_is_repeated() {
        for (text, part) in [
            ("", "has no nodes"),
            ("nodes: []", "has no nodes"),
            ("nodes: hunter2", "is not valid"),
            ("[", "is not valid"),
            ("nodes:\n  - id: a\n", "missing field `key`"),
            ("nodes:\n  - {id: a, kye: ss://hunter2}\n", "line 2"),
            ("nodes:\n  - {id: a b, key: ss://hunter2}\n", "line 2: the id of a node"),
            ("nodes:\n  - {id: a, key: ss://hunter2}\n", "line 2: the key of the node a: "),
            ("nodes:\n  - {id: a, key: 'http://hunter2/k'}\n", "use https://"),
            ("nodes:\n  - {id: a, key: 'socks5://u:hunter2@h'}\n", "no port"),
            ("nodes:\n  - {id: a, key: [hunter2]}\n", "line 2: is not valid"),
            (
                &format!("nodes:\n  - {{id: a, key: '{KEY}', weight: hunter2}}\n"),
                "line 2: is not valid",
            ),
            (
                &format!("nodes:\n  - {{id: a, key: '{KEY}'}}\n  - {{id: a, key: '{KEY}'}}\n"),
                "line 3: there are two",
            ),
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains(part), "{text:?}: {problem}");
            assert!(!problem.contains("hunter2"), "{text:?}: {problem}");
        }
    }
}
