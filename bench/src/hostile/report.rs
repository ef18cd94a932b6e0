//! The tables of the attacks.

use super::PHASES;
use super::floods::Flood;
use super::strangers::Stranger;
use crate::report::table;
use crate::samples::Samples;

/// All that was measured, as Markdown.
pub(super) fn markdown(samples: &Samples, floods: &[usize], hostile_sessions: usize) -> String {
    let mut page = neighbours(samples, floods);
    let rows: Vec<Vec<String>> = [
        ("deliveries", "last bytes that arrive, %".to_owned()),
        ("windows", format!("upload over 60 ms beside {hostile_sessions} idle sessions, MB/s")),
    ]
    .into_iter()
    .map(|(name, what)| {
        let mut row = vec![format!("`{name}`: {what}")];
        row.extend(PHASES.map(|phase| samples.cell(&format!("{name}.{phase}"), 1)));
        row.push(samples.ratio_cell(&format!("{name}.during"), &format!("{name}.before")));
        row
    })
    .collect();
    page += &table(
        "What one device takes from the pools that all share, and what an honest one has of them.",
        &["attack: the honest one's figure", "before", "during", "after", "during ÷ before"],
        &rows,
    );
    page
}

fn neighbours(samples: &Samples, floods: &[usize]) -> String {
    let mut rows = Vec::new();
    let floods =
        Flood::ALL.iter().flat_map(|flood| floods.iter().map(|count| (flood.name(), *count)));
    let strangers = Stranger::ALL.iter().map(|stranger| (stranger.name(), stranger.count()));
    for (attack, count) in floods.chain(strangers) {
        let name = format!("{attack}.{count}");
        let mut row = vec![format!("`{attack}`, {count}")];
        for what in ["echo.p50", "newcomer.p50"] {
            row.extend(PHASES.map(|phase| samples.cell(&format!("{name}.{phase}.{what}"), 2)));
            let ratio = |phase| format!("{name}.{phase}.{what}");
            row.push(samples.ratio_cell(&ratio("during"), &ratio("before")));
        }
        row.push(samples.cell(&format!("{name}.during.echo.p99"), 1));
        row.push(samples.cell(&format!("{name}.during.failed"), 0));
        rows.push(row);
    }
    table(
        "An honest session that echoes 64 bytes every 20 ms, and an honest newcomer every 50 ms, beside sessions of one \
         device that flood, or strangers; milliseconds.",
        &[
            "attack, how many",
            "echo p50 before",
            "during",
            "after",
            "during ÷ before",
            "newcomer p50 before",
            "during",
            "after",
            "during ÷ before",
            "echo p99 during",
            "failed",
        ],
        &rows,
    )
}
