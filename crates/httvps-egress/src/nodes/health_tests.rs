use super::*;
use proptest::prelude::*;

const COOLDOWN: Duration = Duration::from_secs(5);
const FAST: Duration = Duration::from_millis(20);

fn thresholds(has_probes: bool) -> Thresholds {
    Thresholds {
        down_failures: 3,
        recover_successes: 2,
        cooldown: COOLDOWN,
        slow: Duration::from_secs(1),
        has_probes,
    }
}

fn down(has_probes: bool, now: Instant) -> Health {
    let mut health = Health::new(thresholds(has_probes));
    for _ in 0..3 {
        health.handle_dial_failed(now);
    }
    assert_eq!(health.state(), State::Down);
    health
}

#[test]
fn failures_in_a_row_take_a_node_down_and_a_success_between_them_does_not() {
    let now = Instant::now();
    let mut health = Health::new(thresholds(true));
    health.handle_dial_failed(now);
    assert_eq!(health.state(), State::Degraded);
    health.handle_dial_failed(now);
    health.handle_dialed(now, FAST);
    health.handle_dial_failed(now);
    health.handle_dial_failed(now);
    assert_eq!(health.state(), State::Degraded);
    health.handle_dial_failed(now);
    assert_eq!(health.state(), State::Down);
    assert!(!health.is_eligible(now) && !health.is_reachable());
}

#[test]
fn a_node_that_accepts_and_stays_silent_is_taken_down_by_its_probes() {
    let now = Instant::now();
    let mut health = Health::new(thresholds(true));
    for _ in 0..3 {
        health.handle_dialed(now, FAST);
        assert_ne!(health.state(), State::Down);
        health.handle_probe_failed(now);
    }
    assert_eq!(health.state(), State::Down);
    assert!(health.is_reachable(), "a last resort");
    health.handle_dialed(now + COOLDOWN, FAST);
    assert_eq!(health.state(), State::Down, "a connection proves nothing");
}

#[test]
fn answers_outweigh_probes_whose_target_is_out() {
    let now = Instant::now();
    let mut health = Health::new(thresholds(true));
    for _ in 0..10 {
        health.handle_probe_failed(now);
        health.handle_probe_failed(now);
        health.handle_answer(now);
    }
    assert_ne!(health.state(), State::Down);
}

#[test]
fn streams_without_an_answer_degrade_a_node_and_never_take_it_down() {
    let now = Instant::now();
    let mut health = Health::new(thresholds(true));
    assert!(!health.handle_doubt() && !health.handle_doubt());
    assert_eq!(health.state(), State::Healthy);
    assert!(health.handle_doubt(), "asks for a probe");
    for _ in 0..1000 {
        health.handle_doubt();
    }
    assert_eq!(health.state(), State::Degraded);
    health.handle_probed(now);
    assert_eq!(health.state(), State::Degraded, "one success is not enough");
    health.handle_probed(now);
    assert_eq!(health.state(), State::Healthy);
}

#[test]
fn trials_are_single_and_further_apart_each_time() {
    let mut now = Instant::now();
    let mut health = down(true, now);
    for wait in [1, 2, 4, 8, 8] {
        let wait = COOLDOWN * wait;
        assert_eq!(health.trial_at(), Some(now + wait));
        assert_eq!(health.try_probe(now + wait * 9 / 10), None);
        now += wait;
        assert_eq!(health.try_probe(now), Some(Pass::Trial));
        assert_eq!(health.try_probe(now), None, "one at a time");
        health.handle_probe_failed(now);
        health.handle_dial_failed(now);
    }
    now += COOLDOWN * 8;
    assert_eq!(health.try_probe(now), Some(Pass::Trial));
    health.handle_probed(now);
    assert_eq!(health.state(), State::Degraded);
    assert!(health.is_eligible(now));
    for _ in 0..3 {
        health.handle_probe_failed(now);
    }
    assert_eq!(health.trial_at(), Some(now + COOLDOWN * 8), "a relapse starts where it was");
}

#[test]
fn a_relapse_waits_twice_as_long() {
    let now = Instant::now();
    let mut health = down(true, now);
    health.handle_probed(now + COOLDOWN);
    assert_eq!(health.trial_at(), None);
    for _ in 0..3 {
        health.handle_probe_failed(now + COOLDOWN);
    }
    assert_eq!(health.trial_at(), Some(now + COOLDOWN * 3));
}

#[test]
fn calm_forgets_old_trouble() {
    let start = Instant::now();
    let mut health = down(true, start);
    health.handle_probed(start);
    let later = start + COOLDOWN * Thresholds::MAX_BACKOFF;
    health.handle_probed(later);
    for _ in 0..3 {
        health.handle_probe_failed(later);
    }
    assert_eq!(health.trial_at(), Some(later + COOLDOWN));
}

#[test]
fn without_probes_a_stream_makes_the_trial() {
    let now = Instant::now();
    let mut health = down(false, now);
    assert_eq!(health.try_pass(now), None);
    assert_eq!(health.try_pass(now + COOLDOWN), Some(Pass::Trial));
    assert_eq!(health.try_pass(now + COOLDOWN), None);
    health.give_back(Pass::Trial);
    assert_eq!(health.try_pass(now + COOLDOWN), Some(Pass::Trial), "given back");
    health.handle_dialed(now + COOLDOWN, FAST);
    assert_eq!(health.state(), State::Degraded);
    health.handle_dialed(now + COOLDOWN, FAST);
    assert_eq!(health.state(), State::Healthy);
    assert_eq!(down(true, now).try_pass(now + COOLDOWN), None, "with probes it is theirs");
}

#[test]
fn slowness_degrades_with_hysteresis() {
    let now = Instant::now();
    let mut health = Health::new(thresholds(true));
    health.handle_dialed(now, Duration::from_millis(1100));
    assert_eq!(health.state(), State::Degraded);
    let mut dials = 0;
    while health.state() == State::Degraded {
        health.handle_dialed(now, Duration::from_millis(300));
        health.handle_probed(now);
        dials += 1;
    }
    let mean = health.latency().unwrap();
    assert!(dials > 2 && mean <= Duration::from_millis(750), "{dials} {mean:?}");
}

#[test]
fn latency_is_what_dials_and_answers_to_probes_take() {
    let now = Instant::now();
    let mut health = Health::new(thresholds(true));
    assert_eq!(health.latency(), None);
    health.handle_dialed(now, FAST);
    assert_eq!(health.latency(), Some(FAST));
    health.handle_answer_time(FAST * 10);
    assert_eq!(health.latency(), Some(FAST * 11), "the first sample counts whole");
    health.handle_answer_time(FAST * 2);
    assert_eq!(health.latency(), Some(FAST * 10), "the next ones an eighth");
    health.handle_dialed(now, FAST * 9);
    assert_eq!(health.latency(), Some(FAST * 11));
    health.handle_answer_time(Duration::from_hours(1));
    assert_eq!(health.state(), State::Healthy, "only dials make a node slow");
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Dialed(u64),
    DialFailed,
    Probed,
    ProbeFailed,
    Answer,
    Doubt,
    Pass,
    Probe,
    GiveBack,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..3000_u64).prop_map(Event::Dialed),
        Just(Event::DialFailed),
        Just(Event::Probed),
        Just(Event::ProbeFailed),
        Just(Event::Answer),
        Just(Event::Doubt),
        Just(Event::Pass),
        Just(Event::Probe),
        Just(Event::GiveBack),
        (0..60_000_u64).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 0..200)
}

proptest! {
    /// Whatever happens: a node goes down only at a failure of its own after enough of them, it
    /// never becomes healthy from down in one step, a trial comes within the longest cool-down, and
    /// good probes bring it back.
    #[test]
    fn no_sequence_breaks_the_rules(events in events(), has_probes: bool) {
        let mut now = Instant::now();
        let mut health = Health::new(thresholds(has_probes));
        let (mut failures, mut is_on_trial) = (0, false);
        for event in events {
            let before = health.state();
            match event {
                Event::Dialed(ms) => health.handle_dialed(now, Duration::from_millis(ms)),
                Event::DialFailed => health.handle_dial_failed(now),
                Event::Probed => health.handle_probed(now),
                Event::ProbeFailed => health.handle_probe_failed(now),
                Event::Answer => health.handle_answer(now),
                Event::Doubt => { health.handle_doubt(); }
                Event::Pass | Event::Probe => {
                    let is_probe = matches!(event, Event::Probe);
                    let pass = if is_probe { health.try_probe(now) } else { health.try_pass(now) };
                    if pass == Some(Pass::Trial) {
                        prop_assert!(!is_on_trial && before == State::Down);
                        is_on_trial = true;
                    }
                }
                Event::GiveBack => if is_on_trial {
                    health.give_back(Pass::Trial);
                    is_on_trial = false;
                },
                Event::Wait(ms) => now += Duration::from_millis(ms),
            }
            let after = health.state();
            match event {
                Event::DialFailed | Event::ProbeFailed => { failures += 1; is_on_trial = false; }
                Event::Probed | Event::Answer => { failures = 0; is_on_trial = false; }
                Event::Dialed(_) if !has_probes => { failures = 0; is_on_trial = false; }
                _ => {}
            }
            if before != State::Down && after == State::Down {
                prop_assert!(matches!(event, Event::DialFailed | Event::ProbeFailed));
                prop_assert!(failures >= 3);
            }
            prop_assert!(!(before == State::Down && after == State::Healthy));
            if let Some(at) = health.trial_at() {
                prop_assert!(at <= now + COOLDOWN * Thresholds::MAX_BACKOFF);
            }
        }
        for _ in 0..40 {
            health.handle_dialed(now, FAST);
            health.handle_probed(now);
        }
        prop_assert_eq!(health.state(), State::Healthy);
        prop_assert!(health.is_eligible(now));
    }
}
