use super::super::{Checking, Outlier, Trouble, Turn};
use super::*;

const CHECKS: Checking =
    Checking { rise: 2, fall: 3, interval: 2000, fast_interval: 500, timeout: 1000, jitter: 20 };
const OUTLIER: Outlier = Outlier {
    consecutive_failures: 3,
    base_ejection: 10_000,
    max_ejection: 300_000,
    max_ejected_percent: 50,
};
const BOTH: Policy = Policy { checks: Some(CHECKS), outlier: Some(OUTLIER) };
const PASSIVE: Policy = Policy { checks: None, outlier: Some(OUTLIER) };
/// The draw that makes no jitter.
const MIDDLE: u64 = 1 << 63;

use Operator::{Disabled, Draining, Enabled};
use State as S;

/// A backend under test: steps at a time that goes on by one for each event.
struct Bench {
    health: Health,
    policy: Policy,
    at: Tick,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        Self { health: Health::new(Enabled, 0, &policy), policy, at: 0 }
    }

    /// Checked, and found healthy.
    fn healthy() -> Self {
        let mut bench = Self::new(BOTH);
        bench.check("P");
        bench
    }

    fn send(&mut self, event: Event) -> Option<Change> {
        self.at += 1;
        let step = self.health.step(event, self.at, &self.policy);
        self.health = step.next;
        step.change
    }

    /// Feeds results, one a letter: Pass, Fail, Unjudged. The states that follow from them.
    fn check(&mut self, results: &str) -> Vec<State> {
        let feed = |letter| match letter {
            'P' => Judged::Pass,
            'F' => Judged::Fail("refused".into()),
            _ => Judged::Unjudged,
        };
        let states = results.chars().filter_map(|letter| {
            let epoch = self.health.epoch();
            self.send(Event::Checked { epoch, result: feed(letter) }).map(|change| change.to)
        });
        states.collect()
    }

    fn trip(&mut self) -> Option<Change> {
        let began = self.at;
        self.trip_begun(began)
    }

    fn trip_begun(&mut self, began: Tick) -> Option<Change> {
        let last = Trouble::Refused;
        self.send(Event::Tripped { count: 3, last, first: began, began, draw: MIDDLE })
    }

    fn told(&mut self, operator: Operator) -> Option<Change> {
        self.send(Event::Operator(operator))
    }

    fn wait_until(&mut self, at: Tick) {
        self.at = at - 1;
        assert_eq!(self.send(Event::Timer), None);
    }

    fn fail_trial(&mut self) -> Option<Change> {
        let trial = self.health.trial().unwrap();
        self.send(Event::TrialFailed { trial, trouble: Trouble::Reset, draw: MIDDLE })
    }

    fn pass_trial(&mut self) -> Option<Change> {
        let trial = self.health.trial().unwrap();
        self.send(Event::TrialPassed(trial))
    }
}

#[test]
fn disabled_over_draining_over_unhealthy_over_ejected_over_unknown_over_healthy() {
    let verdicts = [None, Some(Verdict::Unknown), Some(Verdict::Healthy), Some(Verdict::Unhealthy)];
    let ejections = [Ejection::None, Ejection::Until(9), Ejection::Trial(1)];
    // operator, resolved: then for each verdict the states not ejected, ejected, to be tried
    let enabled = [
        [S::Healthy, S::Ejected, S::Ejected],
        [S::Unknown, S::Ejected, S::Ejected],
        [S::Healthy, S::Ejected, S::Ejected],
        [S::Unhealthy, S::Unhealthy, S::Unhealthy],
    ];
    let table = [
        (Enabled, true, enabled),
        (Enabled, false, [[S::Draining; 3]; 4]),
        (Draining, true, [[S::Draining; 3]; 4]),
        (Draining, false, [[S::Draining; 3]; 4]),
        (Disabled, true, [[S::Disabled; 3]; 4]),
        (Disabled, false, [[S::Disabled; 3]; 4]),
    ];
    for (operator, is_resolved, states) in table {
        for (verdict, states) in verdicts.iter().zip(states) {
            for (ejection, state) in ejections.iter().zip(states) {
                let mut health = Health::new(operator, 0, &BOTH);
                health.is_resolved = is_resolved;
                health.checks = verdict.map(Checked::new);
                health.ejection = *ejection;
                assert_eq!(health.state(), state, "{operator:?} {verdict:?} {ejection:?}");
            }
        }
    }
}

#[test]
fn counts_are_of_results_in_a_row() {
    // From healthy; the states that a string of results leads to.
    let cases: &[(&str, &[State])] = &[
        ("FF", &[]),
        ("FFF", &[S::Unhealthy]),
        ("FFPFF", &[]),
        ("FFPFFPFFPFF", &[]),
        ("FFPFFF", &[S::Unhealthy]),
        ("FFFP", &[S::Unhealthy]),
        ("FFFPFPFPFPF", &[S::Unhealthy]),
        ("FFFPP", &[S::Unhealthy, S::Healthy]),
        ("FFFPFPP", &[S::Unhealthy, S::Healthy]),
        ("FFFPPFFF", &[S::Unhealthy, S::Healthy, S::Unhealthy]),
        ("FFFFFFFPP", &[S::Unhealthy, S::Healthy]),
        ("FUFUF", &[S::Unhealthy]),
        ("FUFUUUUU", &[]),
        ("FFFPUP", &[S::Unhealthy, S::Healthy]),
    ];
    for (results, states) in cases {
        assert_eq!(Bench::healthy().check(results), *states, "{results}");
    }
}

#[test]
fn the_first_pass_makes_healthy_and_fall_failures_make_unhealthy() {
    let cases: &[(&str, &[State])] = &[
        ("P", &[S::Healthy]),
        ("FFP", &[S::Healthy]),
        ("FFF", &[S::Unhealthy]),
        ("UUP", &[S::Healthy]),
        ("FFFPP", &[S::Unhealthy, S::Healthy]),
    ];
    for (results, states) in cases {
        assert_eq!(Bench::new(BOTH).check(results), *states, "{results}");
    }
}

#[test]
fn the_first_answer_is_no_reinstatement_and_runs_no_action_but_later_ones_do() {
    let mut bench = Bench::new(BOTH);
    let pass = Event::Checked { epoch: 0, result: Judged::Pass };
    let change = bench.send(pass).unwrap();
    assert_eq!((change.turn, change.is_initial, change.action()), (None, true, None));

    let mut bench = Bench::new(BOTH);
    let fail = || Event::Checked { epoch: 0, result: Judged::Fail("refused".into()) };
    bench.send(fail());
    bench.send(fail());
    let change = bench.send(fail()).unwrap();
    assert_eq!((change.turn, change.action()), (Some(Turn::Evicted), None));
    assert_eq!(change.evidence.to_string(), "3 checks failed in a row: refused");
    assert_eq!(change.first_sign, Some(1));

    let pass = || Event::Checked { epoch: 1, result: Judged::Pass };
    bench.send(pass());
    let change = bench.send(pass()).unwrap();
    assert_eq!(change.action(), Some(Turn::Reinstated));
    assert_eq!(change.evidence, Evidence::ChecksPassed(2));
}

#[test]
fn a_result_of_another_epoch_counts_for_nothing() {
    let mut bench = Bench::healthy();
    let old = bench.health.epoch();
    let stale = |result| Event::Checked { epoch: old, result };
    bench.check("FFF");
    assert_eq!(bench.send(stale(Judged::Pass)), None);
    assert_eq!(bench.check("P"), [], "the stale pass was not the first of two");
    bench.told(Disabled);
    bench.told(Enabled);
    assert_eq!(bench.send(stale(Judged::Pass)), None);
    assert_eq!(bench.health.state(), S::Unknown);
    let old = bench.health.epoch();
    bench.send(Event::Configured { is_new_check: true });
    assert_eq!(bench.send(Event::Checked { epoch: old, result: Judged::Pass }), None);
    assert_eq!(bench.health.state(), S::Unknown);
}

#[test]
fn a_result_that_arrives_while_disabled_counts_for_nothing() {
    let mut bench = Bench::healthy();
    let epoch = bench.health.epoch();
    bench.told(Disabled);
    assert!(!bench.health.is_checked());
    for _ in 0..5 {
        bench.send(Event::Checked { epoch, result: Judged::Fail("late".into()) });
    }
    bench.check("FFFF");
    let change = bench.told(Enabled).unwrap();
    assert_eq!(
        (change.to, change.turn, change.cause),
        (S::Unknown, Some(Turn::Reinstated), Cause::Operator)
    );
}

#[test]
fn who_was_disabled_is_not_trusted_before_its_first_check() {
    let mut bench = Bench::healthy();
    bench.check("FFF");
    bench.told(Disabled);
    bench.told(Enabled);
    assert_eq!((bench.health.state(), bench.health.pace()), (S::Unknown, Pace::Fast));
    assert_eq!(bench.check("P"), [S::Healthy]);
    let mut bench = Bench::new(PASSIVE);
    bench.told(Disabled);
    assert_eq!(bench.told(Enabled).unwrap().to, S::Healthy, "without checks, the operator decides");
}

#[test]
fn an_eviction_after_an_operators_enable_runs_its_action() {
    let mut bench = Bench { health: Health::new(Disabled, 0, &BOTH), policy: BOTH, at: 0 };
    bench.told(Enabled);
    bench.check("FF");
    let epoch = bench.health.epoch();
    let change = bench.send(Event::Checked { epoch, result: Judged::Fail("x".into()) }).unwrap();
    assert_eq!(change.action(), Some(Turn::Evicted));
}

#[test]
fn failures_in_a_row_eject_until_a_time_and_one_trial_decides() {
    let mut bench = Bench::healthy();
    let change = bench.trip().unwrap();
    assert_eq!((change.to, change.cause), (S::Ejected, Cause::Outlier));
    assert_eq!(change.action(), Some(Turn::Evicted));
    assert_eq!(change.evidence.to_string(), "3 connections failed in a row: refused");
    assert_eq!(bench.health.wake(), Some(2 + 10_000));
    bench.wait_until(10_001);
    assert_eq!(bench.health.trial(), None, "a timer that fires too early does no harm");
    bench.wait_until(10_002);
    assert_eq!((bench.health.state(), bench.health.trial()), (S::Ejected, Some(1)));
    assert_eq!(bench.health.wake(), None);
    let change = bench.pass_trial().unwrap();
    assert_eq!((change.to, change.cause), (S::Healthy, Cause::Outlier));
    assert_eq!(change.action(), Some(Turn::Reinstated));
}

#[test]
fn a_trial_that_fails_ejects_for_twice_as_long() {
    let mut bench = Bench::new(PASSIVE);
    bench.trip();
    for expected in [20_000, 40_000, 80_000, 160_000, 300_000, 300_000] {
        bench.wait_until(bench.health.wake().unwrap());
        assert_eq!(bench.fail_trial(), None, "it was and is ejected");
        assert_eq!(bench.health.wake().unwrap() - bench.at, expected);
    }
    assert_eq!(bench.health.reason(), &Evidence::TrialFailed(Trouble::Reset));
}

#[test]
fn ejections_are_forgotten_after_ten_healthy_minutes() {
    for (minutes, length) in [(9, 20_000), (10, 10_000)] {
        let mut bench = Bench::healthy();
        bench.trip();
        bench.wait_until(bench.health.wake().unwrap());
        bench.pass_trial();
        bench.at += minutes * 60_000;
        bench.trip();
        assert_eq!(bench.health.wake().unwrap() - bench.at, length, "{minutes} minutes");
    }
    let mut bench = Bench::healthy();
    bench.trip();
    bench.wait_until(bench.health.wake().unwrap());
    bench.pass_trial();
    bench.at += 300_000;
    bench.told(Draining);
    bench.at += 300_000;
    bench.told(Enabled);
    bench.trip();
    assert_eq!(bench.health.ejections(bench.at), 2, "draining is not being healthy");
    let mut bench = Bench::healthy();
    bench.trip();
    bench.wait_until(bench.health.wake().unwrap());
    bench.pass_trial();
    bench.at += 600_000;
    bench.told(Draining);
    bench.told(Enabled);
    bench.trip();
    assert_eq!(bench.health.ejections(bench.at), 1, "what is forgotten stays so");
}

#[test]
fn news_of_connections_that_began_before_the_return_is_no_news() {
    let mut bench = Bench::new(PASSIVE);
    bench.trip();
    let before = bench.at;
    bench.wait_until(bench.health.wake().unwrap());
    let trial = bench.health.trial().unwrap();
    assert_eq!(bench.trip(), None, "ejected already");
    assert_eq!(bench.send(Event::TrialPassed(trial + 1)), None);
    assert_eq!(bench.send(Event::TrialPassed(trial.wrapping_sub(1))), None);
    bench.pass_trial();
    assert_eq!(bench.trip_begun(before), None);
    let old = Event::TrialFailed { trial, trouble: Trouble::Reset, draw: 0 };
    assert_eq!(bench.send(old), None);
    assert_eq!(bench.health.state(), S::Healthy);
    assert!(bench.trip().is_some());
}

#[test]
fn checks_and_ejection_do_not_disturb_each_other() {
    let mut bench = Bench::healthy();
    bench.trip();
    assert_eq!(bench.check("PPPPPP"), [], "passing checks do not end an ejection");
    assert_eq!(bench.check("FFF"), [S::Unhealthy]);
    bench.wait_until(bench.health.wake().unwrap());
    assert_eq!(bench.health.trial(), None, "no trial while the checks say no");
}

#[test]
fn checks_that_saw_the_backend_go_and_come_back_end_its_ejection() {
    let mut bench = Bench::healthy();
    bench.trip();
    assert_eq!(bench.check("FFF"), [S::Unhealthy]);
    let epoch = bench.health.epoch();
    bench.check("P");
    let change = bench.send(Event::Checked { epoch, result: Judged::Pass }).unwrap();
    assert_eq!((change.to, change.cause), (S::Healthy, Cause::Probe));
    assert_eq!(change.turn, Some(Turn::Reinstated));
    bench.trip();
    assert_eq!(bench.health.ejections(bench.at), 2, "the next one is longer all the same");
}

#[test]
fn every_eviction_is_followed_by_one_reinstatement_whatever_lies_between() {
    let mut bench = Bench::healthy();
    let mut turns = Vec::new();
    let mut note = |change: Option<Change>| turns.extend(change.and_then(|change| change.turn));
    note(bench.trip());
    bench.check("FFF");
    note(bench.told(Draining));
    note(bench.told(Disabled));
    note(bench.told(Draining));
    note(bench.told(Enabled));
    bench.check("P");
    note(bench.send(Event::Resolved(false)));
    note(bench.send(Event::Resolved(true)));
    use Turn::{Evicted, Reinstated};
    assert_eq!(turns, [Evicted, Reinstated, Evicted, Reinstated]);
}

#[test]
fn draining_keeps_what_is_known_and_enabling_ends_an_ejection_early() {
    let mut bench = Bench::healthy();
    bench.told(Draining);
    assert!(bench.health.is_checked());
    assert_eq!(bench.check("FFF"), [], "what people see is the operator's word");
    let change = bench.told(Enabled).unwrap();
    assert_eq!((change.to, change.turn), (S::Unhealthy, None));
    bench.check("PP");
    bench.trip();
    assert_eq!(bench.told(Enabled), None);
    assert_eq!(bench.health.trial(), Some(1), "the next connection is the trial");
    assert_eq!(bench.told(Enabled), None);
    assert_eq!(bench.health.trial(), Some(1), "still the same one");
}

#[test]
fn a_name_that_no_longer_resolves_drains() {
    let mut bench = Bench::healthy();
    let change = bench.send(Event::Resolved(false)).unwrap();
    assert_eq!((change.to, change.cause), (S::Draining, Cause::Resolve));
    assert_eq!((change.turn, change.action()), (Some(Turn::Evicted), None));
    assert_eq!(bench.send(Event::Resolved(true)).unwrap().turn, Some(Turn::Reinstated));
}

#[test]
fn a_reload_keeps_the_verdict_and_drops_the_counts_of_another_check() {
    let mut bench = Bench::healthy();
    bench.check("FF");
    assert_eq!(bench.send(Event::Configured { is_new_check: false }), None);
    assert_eq!(bench.check("F"), [S::Unhealthy], "the same check goes on counting");
    assert_eq!(bench.send(Event::Configured { is_new_check: true }), None);
    assert_eq!((bench.health.state(), bench.check("P")), (S::Unhealthy, vec![]));
    bench.send(Event::Configured { is_new_check: true });
    assert_eq!(bench.check("P"), [], "the pass of the other check is forgotten");
    assert_eq!(bench.check("P"), [S::Healthy]);
}

#[test]
fn a_reload_that_takes_away_checks_or_detection_leaves_nobody_out_for_ever() {
    let mut bench = Bench::healthy();
    bench.check("FFF");
    bench.policy = PASSIVE;
    let change = bench.send(Event::Configured { is_new_check: false }).unwrap();
    assert_eq!((change.to, change.cause, change.action()), (S::Healthy, Cause::Operator, None));
    bench.trip();
    bench.policy = Policy::default();
    let change = bench.send(Event::Configured { is_new_check: false }).unwrap();
    assert_eq!((change.from, change.to), (S::Ejected, S::Healthy));
    assert_eq!(bench.trip(), None, "off is off");
}

#[test]
fn a_backend_of_which_nothing_is_known_says_why_it_is_as_it_is() {
    let reason = |operator, policy: &Policy| Health::new(operator, 0, policy).reason().to_string();
    assert_eq!(reason(Enabled, &BOTH), "not checked yet");
    assert_eq!(reason(Enabled, &PASSIVE), "no health_check, and nothing has failed so far");
    for policy in [BOTH, PASSIVE] {
        assert_eq!(reason(Disabled, &policy), "disabled in the configuration");
    }
    let added = Event::Configured { is_new_check: true };
    let health = Health::new(Enabled, 0, &PASSIVE).step(added, 1, &BOTH).next;
    assert_eq!(health.reason().to_string(), "not checked yet");
}

#[test]
fn a_reload_that_adds_checks_goes_on_with_what_is_in_use() {
    let mut bench = Bench::new(PASSIVE);
    bench.policy = BOTH;
    assert_eq!(bench.send(Event::Configured { is_new_check: true }), None);
    assert_eq!((bench.health.state(), bench.health.is_checked()), (S::Healthy, true));
    assert_eq!(bench.check("FFF"), [S::Unhealthy]);
}

#[test]
fn who_is_disabled_while_checks_are_added_is_not_trusted_either() {
    let mut bench = Bench::new(PASSIVE);
    bench.told(Disabled);
    bench.policy = BOTH;
    bench.send(Event::Configured { is_new_check: true });
    assert_eq!(bench.told(Enabled).unwrap().to, S::Unknown);
}

#[test]
fn checks_are_fast_while_a_change_is_under_way() {
    // results from the start, then the pace
    let cases = [
        ("", Pace::Fast),
        ("F", Pace::Fast),
        ("P", Pace::Steady),
        ("PF", Pace::Fast),
        ("PFP", Pace::Steady),
        ("PFFF", Pace::Steady),
        ("PFFFF", Pace::Steady),
        ("PFFFP", Pace::Fast),
        ("PFFFPF", Pace::Steady),
        ("PFFFPP", Pace::Steady),
    ];
    for (results, pace) in cases {
        let mut bench = Bench::new(BOTH);
        bench.check(results);
        assert_eq!(bench.health.pace(), pace, "{results}");
    }
}

#[test]
fn slow_start_counts_from_a_return_never_from_the_start() {
    let mut bench = Bench::new(BOTH);
    bench.check("P");
    assert_eq!(bench.health.back_for(9), None);
    bench.check("FFFPP");
    assert_eq!(bench.health.back_for(9), Some(3));
    bench.told(Enabled);
    assert_eq!(bench.health.back_for(9), Some(3), "enabling twice does not begin it anew");
    bench.told(Disabled);
    bench.told(Enabled);
    bench.at = 100;
    bench.check("P");
    assert_eq!(bench.health.back_for(101), Some(0), "from the first pass, not from the word");
}

#[test]
fn a_rise_or_fall_lowered_by_a_reload_counts_with_the_next_result() {
    let mut bench = Bench::healthy();
    bench.check("FF");
    bench.policy.checks = Some(Checking { fall: 1, rise: 0, ..CHECKS });
    bench.send(Event::Configured { is_new_check: false });
    assert_eq!(bench.check("F"), [S::Unhealthy]);
    assert_eq!(bench.check("P"), [S::Healthy], "0 is 1");
}

/// Whatever was known before: it is as it is because an operator wanted it.
#[test]
fn what_an_operator_took_out_says_so_after_a_restart() {
    let known = |state| Restored {
        state,
        verdict: Some(Verdict::Healthy),
        ejected_until: None,
        ejections: 0,
        age: 5,
        back_for: None,
    };
    let policy = Policy::default();
    for (operator, state, reason) in [
        (Draining, State::Draining, Evidence::Operator),
        (Disabled, State::Disabled, Evidence::Operator),
        (Enabled, State::Healthy, Evidence::Restored),
    ] {
        let health = Health::restored(&known(state), operator, 0, &policy);
        assert_eq!((health.state(), health.reason()), (state, &reason));
    }
    let health = Health::new(Disabled, 0, &policy);
    assert_eq!(health.reason(), &Evidence::Disabled, "by the file");
}

/// [RL-6] What was under way when it went counts for nothing when it is back.
#[test]
fn one_that_is_back_does_not_hear_what_was_asked_before() {
    let policy = Policy { checks: Some(CHECKS), ..Policy::default() };
    let before = Health::new(Enabled, 0, &policy);
    let back = Health::new(Enabled, 9, &policy).after(&before);
    let old = Event::Checked { epoch: before.epoch(), result: Judged::Pass };
    assert_eq!(back.step(old, 10, &policy).next.state(), State::Unknown);
    let new = Event::Checked { epoch: back.epoch(), result: Judged::Pass };
    assert_eq!(back.step(new, 10, &policy).next.state(), State::Healthy);
}
