//! Figures of several rounds, by name.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One value for each round.
#[derive(Default)]
pub(crate) struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        median(self.0.get(name)?.clone())
    }

    /// The median of the rounds' ratios, which a machine that slows down between rounds leaves alone.
    pub(crate) fn ratio(&self, name: &str, to: &str) -> Option<f64> {
        let both = self.0.get(name)?.iter().zip(self.0.get(to)?);
        median(both.map(|(value, other)| value / other).collect())
    }

    /// The same as a cell.
    pub(crate) fn ratio_cell(&self, name: &str, to: &str) -> String {
        self.ratio(name, to).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
    }

    pub(crate) fn largest(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.iter().copied().max_by(f64::total_cmp)
    }

    /// `median (least–largest)`, or a dash where nothing was measured.
    pub(crate) fn cell(&self, name: &str, digits: usize) -> String {
        let (Some(median), Some(values)) = (self.median(name), self.0.get(name)) else {
            return "–".to_owned();
        };
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if values.len() == 1 {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({least:.digits$}–{largest:.digits$})")
    }

    pub(crate) fn to_json(&self) -> Value {
        self.0.iter().map(|(name, values)| (name.clone(), json!(values))).collect()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_median_and_range() {
        let mut samples = Samples::default();
        assert_eq!(samples.cell("x", 1), "–");
        samples.add("x", 3.0);
        assert_eq!(samples.cell("x", 1), "3.0");
        samples.add("x", 1.0);
        assert_eq!(samples.median("x"), Some(2.0));
        samples.add("x", 9.0);
        assert_eq!(samples.cell("x", 0), "3 (1–9)");
        assert_eq!(samples.largest("x"), Some(9.0));
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let mut samples = Samples::default();
        for (ours, other) in [(1.0, 2.0), (30.0, 20.0), (4.0, 4.0)] {
            samples.add("ours", ours);
            samples.add("other", other);
        }
        assert_eq!(samples.ratio("ours", "other"), Some(1.0));
        assert_eq!(samples.ratio("ours", "absent"), None);
    }
}
