//! The reference page of the metrics, written from their definitions.

use super::instrument::BUCKETS;
use super::process;
use super::table::FAMILIES;
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Metrics

Generated from the definitions in `crates/httvps-telemetry/src/metrics/` by `cargo run -p xtask -- reference`; do not
edit.

They are served at `metrics_path` in the classic Prometheus text format, or as OpenMetrics 1.0.0 when the `Accept`
header names `application/openmetrics-text`. Every label has a closed set of values, all of which show from the start,
except `node`: the ids of the nodes in use, at most 4,096, each gone when its node is forgotten.
`in` is from the client, `out` is to the client.
";

/// The page docs/reference/metrics.md.
pub fn reference_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    let bounds: Vec<_> = BUCKETS.iter().map(ToString::to_string).collect();
    let _ = writeln!(page, "Histograms have buckets up to {} seconds.\n", bounds.join(", "));
    page.push_str("| metric | type | what it is |\n|---|---|---|\n");
    for family in FAMILIES {
        let own = (family.label)().map(|(label, _)| label);
        let labels: Vec<_> = family.is_per_node.then_some("node").into_iter().chain(own).collect();
        let name = match labels.join(",") {
            labels if labels.is_empty() => family.name.to_owned(),
            labels => format!("{}{{{labels}}}", family.name),
        };
        let _ = writeln!(page, "| `{name}` | {} | {} |", family.kind, family.description());
    }
    for (name, kind, help, _) in process::ROWS {
        let _ = writeln!(page, "| `{name}` | {kind} | {help}. |");
    }
    page.push_str("\n## Label values\n\n`node`: the ids of the nodes in use, at most 4,096\n");
    for family in FAMILIES {
        if let Some((label, values)) = (family.label)() {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            let values = if values.is_empty() { "one".to_owned() } else { values.join(", ") };
            let _ = write!(page, "\n`{}`, `{label}`: {values}\n", family.name);
        }
    }
    page
}
