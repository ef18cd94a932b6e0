//! The choice of a node for a session, without I/O.

use super::health::State;
use std::time::Duration;

/// A candidate.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The region of the node; none = any.
    pub region: Option<&'a str>,
    /// Usable nodes with the lowest number are chosen.
    pub priority: u32,
    /// Share of the sessions among equals; 0 = only when none of them with another weight can be used.
    pub weight: u32,
    /// Its health.
    pub state: State,
    /// Whether it is usable now.
    pub is_eligible: bool,
    /// The mean time of a dial and of a probe's answer.
    pub latency: Option<Duration>,
}

/// A dial and answer that take this long halve a node's share.
const HALVING: f64 = 0.05;
/// The share that a degraded node keeps.
const DEGRADED: f64 = 0.1;

/// Chooses among the eligible candidates: those of the region, or all where it has none or none is
/// wanted; of these the lowest priority number; of these those with a weight, if any has one; of these
/// randomly, in proportion to weight, health and latency. `chance` is a random number.
pub fn choose(candidates: &[Candidate<'_>], region: Option<&str>, chance: u64) -> Option<usize> {
    let is_far = |candidate: &Candidate<'_>| match (region, candidate.region) {
        (Some(wanted), Some(own)) => !own.eq_ignore_ascii_case(wanted),
        (Some(_), None) => true,
        (None, _) => false,
    };
    let rank =
        |candidate: &Candidate<'_>| (is_far(candidate), candidate.priority, candidate.weight == 0);
    let eligible = || candidates.iter().enumerate().filter(|(_, c)| c.is_eligible);
    let best = eligible().map(|(_, candidate)| rank(candidate)).min()?;
    let tier = || eligible().filter(|(_, candidate)| rank(candidate) == best);
    let total: f64 = tier().map(|(_, candidate)| share(candidate)).sum();
    let mut left = chance as f64 / u64::MAX as f64 * total;
    for (index, candidate) in tier() {
        left -= share(candidate);
        if left < 0.0 {
            return Some(index);
        }
    }
    // What rounding left over belongs to the last.
    tier().next_back().map(|(index, _)| index)
}

fn share(candidate: &Candidate<'_>) -> f64 {
    // Those without a weight are equals among themselves.
    let weight = f64::from(candidate.weight.max(1));
    let health = if candidate.state == State::Healthy { 1.0 } else { DEGRADED };
    let latency = candidate.latency.unwrap_or_default().as_secs_f64();
    weight * health * (HALVING / (HALVING + latency))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: Candidate<'static> = Candidate {
        region: None,
        priority: 0,
        weight: 1,
        state: State::Healthy,
        is_eligible: true,
        latency: None,
    };

    /// How many of 1,000 evenly spread chances fall on each.
    fn shares(candidates: &[Candidate<'_>], region: Option<&str>) -> Vec<u32> {
        let mut counts = vec![0; candidates.len()];
        for step in 0..1000 {
            if let Some(index) = choose(candidates, region, u64::MAX / 1000 * step) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn region_comes_before_priority_and_priority_before_weight() {
        let eu = Candidate { region: Some("eu"), priority: 5, ..NODE };
        let us = Candidate { region: Some("us"), weight: 100, ..NODE };
        let us_later = Candidate { priority: 1, ..us.clone() };
        let all = [eu, us, us_later];
        assert_eq!(shares(&all, Some("EU")), [1000, 0, 0]);
        assert_eq!(shares(&all, Some("us")), [0, 1000, 0]);
        assert_eq!(shares(&all, None), [0, 1000, 0]);
        assert_eq!(shares(&all, Some("mars")), [0, 1000, 0], "others stand in");
    }

    #[test]
    fn who_may_not_be_used_is_passed_over() {
        let off = Candidate { is_eligible: false, region: Some("eu"), ..NODE };
        let later = Candidate { region: Some("eu"), priority: 9, ..NODE };
        assert_eq!(shares(&[off.clone(), later, NODE], Some("eu")), [0, 1000, 0]);
        assert_eq!(choose(&[off], Some("eu"), 7), None);
        assert_eq!(choose(&[], None, 7), None);
    }

    #[test]
    fn equals_share_by_weight_health_and_latency() {
        let heavy = Candidate { weight: 3, ..NODE };
        let near =
            |counts: Vec<u32>, first: u32| assert!(counts[0].abs_diff(first) <= 2, "{counts:?}");
        near(shares(&[NODE, heavy], None), 250);
        let sick = Candidate { state: State::Degraded, ..NODE };
        near(shares(&[sick, NODE], None), 91);
        let far = Candidate { latency: Some(Duration::from_millis(50)), ..NODE };
        near(shares(&[far, NODE], None), 333);
    }

    #[test]
    fn without_a_weight_a_node_is_the_last_of_its_region_and_priority() {
        let last = Candidate { weight: 0, ..NODE };
        let ill =
            Candidate { state: State::Degraded, latency: Some(Duration::from_hours(1)), ..NODE };
        assert_eq!(
            choose(&[last.clone(), ill.clone()], None, 0),
            Some(1),
            "however ill the other is"
        );
        let off = Candidate { is_eligible: false, ..NODE };
        let later = Candidate { priority: 1, ..NODE };
        assert_eq!(shares(&[off, later, last.clone(), last.clone()], None), [0, 0, 500, 500]);
        let near = Candidate { region: Some("eu"), ..last };
        assert_eq!(choose(&[ill, near], Some("eu"), 0), Some(1), "the region comes first");
    }

    proptest! {
        #[test]
        fn the_choice_is_eligible_and_of_the_best_rank(
            nodes in proptest::collection::vec(
                (any::<bool>(), any::<bool>(), 0..3_u32, 0..5_u32, 0..2000_u64), 0..12),
            is_regional: bool,
            chance: u64,
        ) {
            let candidates: Vec<_> = nodes
                .iter()
                .map(|(is_eligible, is_eu, priority, weight, ms)| Candidate {
                    region: is_eu.then_some("eu"),
                    priority: *priority,
                    weight: *weight,
                    state: State::Healthy,
                    is_eligible: *is_eligible,
                    latency: Some(Duration::from_millis(*ms)),
                })
                .collect();
            let region = is_regional.then_some("eu");
            match choose(&candidates, region, chance) {
                None => prop_assert!(candidates.iter().all(|c| !c.is_eligible)),
                Some(index) => {
                    let rank = |c: &Candidate<'_>| {
                        (is_regional && c.region.is_none(), c.priority, c.weight == 0)
                    };
                    prop_assert!(candidates[index].is_eligible);
                    for other in candidates.iter().filter(|c| c.is_eligible) {
                        prop_assert!(rank(&candidates[index]) <= rank(other));
                    }
                }
            }
        }
    }
}
