use super::*;

use Standing::{Down, Healthy, Out, Trial, Unknown};

const PLAIN: Policy = Policy { panic_threshold: 0, slow_start: None };

/// Priority 1 is in use, and a better one has to wait.
const WAITS: Line = Line::Level { level: 1, tries_better: false };
/// Priority 1 is in use until a better one is healthy.
const TRIES: Line = Line::Level { level: 1, tries_better: true };

fn member(priority: u32, standing: Standing) -> Member {
    Member { weight: 1, priority, standing, back_for: None }
}

fn members(list: &[(u32, Standing)]) -> Vec<Member> {
    list.iter().map(|(priority, standing)| member(*priority, *standing)).collect()
}

fn indexes(choice: &Choice) -> Vec<usize> {
    choice.chosen.iter().map(|chosen| chosen.index).collect()
}

#[test]
fn the_lowest_priority_with_a_usable_backend_takes_all() {
    // members, line, then who is in rotation and who is to be probed
    type Case = (&'static [(u32, Standing)], Line, &'static [usize], &'static [usize]);
    let cases: &[Case] = &[
        (&[], Line::Lowest, &[], &[]),
        (&[(0, Healthy), (0, Healthy), (1, Healthy)], Line::Lowest, &[0, 1], &[]),
        (&[(1, Healthy), (0, Healthy)], Line::Lowest, &[1], &[]),
        (&[(0, Down), (1, Healthy), (2, Healthy)], Line::Lowest, &[1], &[]),
        (&[(0, Down), (1, Out), (2, Healthy)], Line::Lowest, &[2], &[]),
        (&[(0, Down), (1, Down)], Line::Lowest, &[], &[]),
        // Unknown: only while its priority has no healthy one.
        (&[(0, Unknown), (0, Unknown)], Line::Lowest, &[0, 1], &[]),
        (&[(0, Unknown), (0, Healthy)], Line::Lowest, &[1], &[]),
        (&[(0, Unknown), (1, Healthy)], Line::Lowest, &[0], &[]),
        // Failback waits: another priority is in use.
        (&[(0, Healthy), (1, Healthy)], WAITS, &[1], &[]),
        (&[(0, Healthy), (1, Down)], WAITS, &[0], &[]),
        // Trials: those of the priority in use and of better ones come with the traffic.
        (&[(0, Healthy), (0, Trial(7))], Line::Lowest, &[0, 1], &[]),
        (&[(0, Trial(7)), (1, Healthy)], Line::Lowest, &[0, 1], &[]),
        (&[(0, Healthy), (1, Trial(7))], Line::Lowest, &[0], &[1]),
        (&[(0, Trial(7)), (1, Healthy)], WAITS, &[1], &[0]),
        (&[(0, Trial(7)), (1, Healthy)], TRIES, &[0, 1], &[]),
        (&[(0, Healthy), (1, Healthy)], TRIES, &[1], &[]),
        (&[(0, Trial(7)), (0, Trial(8)), (1, Trial(9))], Line::Lowest, &[0, 1], &[2]),
        (&[(0, Trial(7)), (1, Down)], WAITS, &[0], &[]),
        // Hot standby: the active one alone, or nobody.
        (&[(0, Healthy), (1, Healthy)], Line::Only(Some(1)), &[1], &[]),
        (&[(0, Healthy), (1, Healthy)], Line::Only(None), &[], &[]),
        (&[(0, Healthy), (1, Trial(7))], Line::Only(Some(0)), &[0], &[1]),
        (&[(0, Down), (1, Trial(7))], Line::Only(Some(1)), &[1], &[]),
        (&[(0, Down)], Line::Only(Some(0)), &[], &[]),
        (&[(0, Healthy)], Line::Only(Some(1)), &[], &[]),
    ];
    for (list, line, chosen, to_probe) in cases {
        let choice = choose(&members(list), *line, &PLAIN, 0);
        assert_eq!(indexes(&choice), *chosen, "{list:?} {line:?}");
        assert_eq!(choice.to_probe, *to_probe, "{list:?} {line:?}");
    }
}

#[test]
fn a_trial_is_one_connection_and_says_its_number() {
    let choice = choose(&members(&[(0, Healthy), (0, Trial(7))]), Line::Lowest, &PLAIN, 0);
    let trials: Vec<_> = choice.chosen.iter().map(|c| (c.trial, c.is_limited)).collect();
    assert_eq!(trials, [(None, false), (Some(7), true)]);
}

#[test]
fn where_nobody_is_usable_a_trial_is_not_limited() {
    let list = members(&[(0, Trial(7)), (0, Down), (0, Trial(8))]);
    for (line, expected) in [(Line::Lowest, 2), (Line::Only(Some(0)), 1)] {
        let choice = choose(&list, line, &PLAIN, 0);
        assert_eq!(choice.chosen.len(), expected);
        assert!(choice.chosen.iter().all(|c| c.trial.is_some() && !c.is_limited), "{line:?}");
    }
}

#[test]
fn a_backend_of_weight_zero_gets_nothing_and_counts_for_nothing() {
    let mut list = members(&[(0, Healthy), (0, Unknown), (1, Healthy)]);
    list[0].weight = 0;
    assert_eq!(indexes(&choose(&list, Line::Lowest, &PLAIN, 0)), [1], "hides no unknown one");
    list[1].weight = 0;
    assert_eq!(indexes(&choose(&list, Line::Lowest, &PLAIN, 0)), [2], "holds no priority");
    assert_eq!(indexes(&choose(&list, Line::Only(Some(0)), &PLAIN, 0)), [0; 0]);
    let panic = Policy { panic_threshold: 100, ..PLAIN };
    assert!(!choose(&list, Line::Lowest, &panic, 0).is_panic);
}

#[test]
fn under_the_threshold_all_are_used_but_those_an_operator_took_out() {
    // threshold, members, then panic and who is in rotation
    type Case = (u32, &'static [(u32, Standing)], bool, &'static [usize]);
    let cases: &[Case] = &[
        (0, &[(0, Down), (0, Down)], false, &[]),
        (50, &[(0, Healthy), (0, Down)], false, &[0]),
        (51, &[(0, Healthy), (0, Down)], true, &[0, 1]),
        (50, &[(0, Healthy), (0, Down), (0, Down)], true, &[0, 1, 2]),
        (50, &[(0, Healthy), (0, Down), (0, Out)], false, &[0]),
        (1, &[(0, Down), (0, Trial(1)), (0, Out), (1, Down)], true, &[0, 1, 3]),
        (100, &[(0, Out)], false, &[]),
        (50, &[(0, Unknown), (0, Unknown)], false, &[0, 1]),
        (50, &[(0, Down), (1, Healthy)], false, &[1]),
        (51, &[(1, Healthy), (0, Down)], true, &[1, 0]),
    ];
    for (panic_threshold, list, is_panic, chosen) in cases {
        let policy = Policy { panic_threshold: *panic_threshold, ..PLAIN };
        let choice = choose(&members(list), Line::Lowest, &policy, 0);
        let mut expected = chosen.to_vec();
        expected.sort_by_key(|index| list[*index].0);
        assert_eq!((choice.is_panic, indexes(&choice)), (*is_panic, expected), "{list:?}");
        assert!(choice.chosen.iter().all(|chosen| !chosen.is_limited));
    }
}

#[test]
fn in_panic_a_trial_is_not_limited_but_still_decides() {
    let policy = Policy { panic_threshold: 50, ..PLAIN };
    let choice = choose(&members(&[(0, Trial(3)), (0, Down)]), Line::Lowest, &policy, 0);
    assert_eq!((choice.chosen[0].trial, choice.chosen[0].is_limited), (Some(3), false));
}

#[test]
fn a_hot_standby_never_panics() {
    let policy = Policy { panic_threshold: 100, ..PLAIN };
    let list = members(&[(0, Down), (0, Healthy), (0, Down)]);
    assert_eq!(indexes(&choose(&list, Line::Only(Some(1)), &policy, 0)), [1]);
}

/// One at its whole weight, one that came back at 1000; slow start takes 18 s.
fn returning(at: Tick) -> Choice {
    let policy = Policy { slow_start: Some(18_000), ..PLAIN };
    let mut list = members(&[(0, Healthy), (0, Healthy)]);
    list[1].back_for = Some(at - 1000);
    choose(&list, Line::Lowest, &policy, at)
}

#[test]
fn the_share_of_who_returns_grows_in_a_straight_line_from_ten_percent() {
    // after so many seconds, the weights
    let cases =
        [(0, [20, 2]), (1, [20, 3]), (9, [20, 11]), (17, [20, 19]), (18, [1, 1]), (99, [1, 1])];
    for (seconds, weights) in cases {
        let choice = returning(1000 + seconds * 1000);
        assert_eq!(choice.chosen.iter().map(|c| c.weight).collect::<Vec<_>>(), weights);
    }
}

#[test]
fn whoever_wakes_when_told_sees_every_step_and_no_more() {
    let (mut at, mut steps, mut last) = (1000, 0, 0);
    while let Some(wake) = returning(at).wake {
        let weight = returning(at).chosen[1].weight;
        assert_eq!(returning(wake - 1).chosen[1].weight, weight, "nothing changes before");
        assert!(weight > last);
        (at, steps, last) = (wake, steps + 1, weight);
    }
    assert_eq!((at, steps), (19_000, 18));
}

#[test]
fn who_was_never_away_starts_with_its_whole_share() {
    let policy = Policy { slow_start: Some(60_000), ..PLAIN };
    let choice = choose(&members(&[(0, Healthy), (0, Healthy)]), Line::Lowest, &policy, 0);
    assert_eq!(choice.chosen.iter().map(|c| c.weight).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(choice.wake, None);
}

#[test]
fn no_span_of_slow_start_overflows() {
    for span in [0, 1, 17, u64::MAX] {
        let policy = Policy { slow_start: Some(span), ..PLAIN };
        let list = [Member { weight: u32::MAX, back_for: Some(5), ..member(0, Healthy) }];
        for at in [5, 6, u64::MAX / 2] {
            let choice = choose(&list, Line::Lowest, &policy, at);
            assert!(choice.wake.is_none_or(|wake| wake > at), "{span} {at}: {choice:?}");
        }
    }
}
