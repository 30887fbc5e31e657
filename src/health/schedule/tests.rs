use super::*;

const POLICY: Checking =
    Checking { rise: 2, fall: 3, interval: 2000, fast_interval: 500, timeout: 1000, jitter: 20 };
const MIDDLE: u64 = 1 << 63;

/// Draws that a run can be repeated with.
fn draws() -> impl FnMut() -> u64 {
    let mut rng = fastrand::Rng::with_seed(7);
    move || rng.u64(..)
}

/// The most starts within any 100 ms.
fn peak(starts: &[Tick]) -> usize {
    let mut starts = starts.to_vec();
    starts.sort_unstable();
    (0..starts.len())
        .map(|from| starts[from..].iter().take_while(|at| **at < starts[from] + 100).count())
        .max()
        .unwrap_or(0)
}

fn firsts(fleet: usize, at: Tick, policy: &Checking) -> Vec<Tick> {
    let names: Vec<_> = (0..fleet).map(|i| (format!("p{}", i % 7), format!("b{i}"))).collect();
    let ranks = ranks(names.iter().map(|(pool, backend)| (pool.as_str(), backend.as_str())));
    ranks.into_iter().map(|rank| first(rank, fleet, at, policy).at).collect()
}

#[test]
fn the_first_checks_of_a_fleet_are_spread_evenly_over_one_interval() {
    for interval in [500, 1000, 2000, 10_000, 60_000] {
        for fleet in [64, 200, 5000] {
            let policy = Checking { interval, ..POLICY };
            let starts = firsts(fleet, 5_000, &policy);
            let mean = fleet as f64 * 100.0 / interval as f64;
            let peak = peak(&starts) as f64;
            assert!(peak <= (3.0 * mean).max(1.0), "{fleet} in {interval}: {peak} of {mean}");
            assert!(starts.iter().all(|at| (5_000..5_000 + interval).contains(at)));
        }
    }
}

#[test]
fn a_fleet_stays_spread_and_everybody_is_checked_within_one_interval_and_a_fifth() {
    let mut draw = draws();
    let (mut starts, mut last) = (Vec::new(), firsts(200, 0, &POLICY));
    starts.extend(&last);
    for _ in 0..20 {
        for at in &mut last {
            let next = next(*at, *at + 3, Pace::Steady, draw(), &POLICY).at;
            assert!((1600..=2400).contains(&(next - *at)));
            *at = next;
            starts.push(next);
        }
    }
    assert!(peak(&starts) <= 30, "{}", peak(&starts));
}

#[test]
fn one_backend_alone_is_checked_at_once_and_a_few_very_soon() {
    assert_eq!(firsts(1, 70, &POLICY), [70]);
    assert!(firsts(10, 0, &POLICY).iter().all(|at| *at < POLICY.fast_interval));
}

#[test]
fn ranks_are_a_permutation_that_mixes_pools_and_never_changes() {
    let names: Vec<_> = (0..100).map(|i| (["a", "b"][i / 50], format!("{i}"))).collect();
    let of = || ranks(names.iter().map(|(pool, name)| (*pool, name.as_str())));
    let mut sorted = of();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    assert_eq!(of(), of());
    let early = of()[..50].iter().filter(|rank| **rank < 50).count();
    assert!((15..35).contains(&early), "{early} of pool a in the first half");
}

#[test]
fn the_interval_counts_from_start_to_start_with_the_jitter_either_way() {
    let at = |draw, pace| next(1000, 1010, pace, draw, &POLICY).at - 1000;
    assert_eq!([0, MIDDLE, u64::MAX].map(|draw| at(draw, Pace::Steady)), [1600, 2000, 2400]);
    assert_eq!([0, MIDDLE, u64::MAX].map(|draw| at(draw, Pace::Fast)), [400, 500, 600]);
    let exact = Checking { jitter: 0, ..POLICY };
    assert_eq!(next(1000, 1010, Pace::Steady, u64::MAX, &exact).at, 3000);
}

#[test]
fn a_fast_interval_that_is_longer_than_the_interval_slows_nothing_down() {
    let policy = Checking { fast_interval: 9000, jitter: 0, ..POLICY };
    assert_eq!(next(0, 1, Pace::Fast, 0, &policy).at, 2000);
}

#[test]
fn a_check_that_outlived_its_interval_is_followed_after_a_part_of_one() {
    let mut draw = draws();
    for _ in 0..1000 {
        let at = next(0, 1000, Pace::Fast, draw(), &POLICY).at;
        assert!((1100..=1600).contains(&at), "{at}");
    }
}

#[test]
fn nothing_is_caught_up_after_a_stall() {
    for (interval, stall) in [(2_000, 60_000), (2_000, 2_000), (10_000, 3_000), (60_000, 10_000)] {
        let policy = Checking { interval, ..POLICY };
        let mut draw = draws();
        let (mut starts, fleet) = (Vec::new(), 2_000);
        for due in firsts(fleet, 0, &policy).into_iter().filter(|due| *due <= stall) {
            let due = Due { at: due, was_put_off: false };
            let start = match due.fire(stall, draw(), &policy) {
                Fire::Now => stall,
                Fire::PutOff(later) => {
                    assert_eq!(later.fire(later.at + 50_000, draw(), &policy), Fire::Now);
                    later.at
                }
            };
            assert!((stall..stall + interval).contains(&start));
            let pause = next(start, start + 1, Pace::Steady, draw(), &policy).at - start;
            assert!(pause >= interval * 8 / 10, "{pause}");
            starts.push(start);
        }
        let mean = fleet as f64 * 100.0 / interval as f64;
        assert!(
            peak(&starts) as f64 <= 3.0 * mean,
            "{interval} {stall}: {} of {mean}",
            peak(&starts)
        );
    }
}

#[test]
fn checks_under_way_in_a_stall_are_not_repeated_in_one_moment() {
    let mut draw = draws();
    let starts: Vec<_> =
        (0..200).map(|at| next(at, 60_000, Pace::Steady, draw(), &POLICY).at).collect();
    assert!(peak(&starts) <= 30, "{}", peak(&starts));
}

#[test]
fn a_process_that_is_always_late_still_checks() {
    let due = Due { at: 0, was_put_off: true };
    assert_eq!(due.fire(1_000_000, 5, &POLICY), Fire::Now);
    let due = Due { at: 0, was_put_off: false };
    assert_eq!(due.fire(99, 5, &POLICY), Fire::Now);
    let Fire::PutOff(due) = due.fire(100, u64::MAX, &POLICY) else { panic!("at once") };
    assert!((100..500).contains(&due.at));
}

#[test]
fn nobody_waits_out_an_interval_that_is_configured_no_more() {
    let due = |at| Due { at, was_put_off: false };
    let short = Checking { interval: 1000, ..POLICY };
    let again = |planned, pace| due(planned).replanned(first(32, 64, 0, &short), 0, pace, &short);
    assert_eq!(again(3_600_000, Pace::Steady), due(500));
    assert_eq!(again(1_201, Pace::Steady), due(500), "an interval and its jitter");
    assert_eq!(again(1_200, Pace::Steady), due(1_200), "as may be planned by this timing too");
    assert_eq!(again(10, Pace::Steady), due(10));
    assert_eq!(again(601, Pace::Fast), due(500), "a fast one and its jitter");
    assert_eq!(again(600, Pace::Fast), due(600));
}

/// A fleet that goes on `until` then, each checked when due; all starts are noted.
fn go_on(last: &mut [Tick], until: Tick, draw: &mut impl FnMut() -> u64, starts: &mut Vec<Tick>) {
    for due in last {
        while *due < until {
            starts.push(*due);
            *due = next(*due, *due + 3, Pace::Steady, draw(), &POLICY).at;
        }
    }
}

/// Whatever the time between them: who reads a configuration again and again checks no more often.
#[test]
fn a_fleet_stays_spread_however_often_its_configuration_is_read_again() {
    for gap in [0, 50, 200, 500, 1000, 2000, 3000] {
        let (mut draw, mut starts) = (draws(), Vec::new());
        let mut last = firsts(200, 0, &POLICY);
        go_on(&mut last, 5_000, &mut draw, &mut starts);
        starts.clear();
        for round in 0..10 {
            let at = 5_000 + round * gap;
            go_on(&mut last, at, &mut draw, &mut starts);
            for (due, first) in last.iter_mut().zip(firsts(200, at, &POLICY)) {
                let [planned, first] = [*due, first].map(|at| Due { at, was_put_off: false });
                *due = planned.replanned(first, at, Pace::Steady, &POLICY).at;
            }
        }
        go_on(&mut last, 5_000 + 10 * gap + 4_000, &mut draw, &mut starts);
        assert!(peak(&starts) <= 30, "every {gap} ms: {} in 100 ms", peak(&starts));
    }
}

/// From an hour to two seconds, and read again at once: one round of checks, evenly spread.
#[test]
fn a_fleet_whose_interval_becomes_shorter_is_spread_over_the_new_one() {
    let mut draw = draws();
    let long = Checking { interval: 3_600_000, ..POLICY };
    let plan = |_| next(0, 3, Pace::Steady, draw(), &long);
    let mut due: Vec<_> = (0..200).map(plan).collect();
    for at in [10_000, 10_100, 10_200] {
        for (due, first) in due.iter_mut().zip(firsts(200, at, &POLICY)) {
            let first = Due { at: first, was_put_off: false };
            *due = due.replanned(first, at, Pace::Steady, &POLICY);
        }
    }
    let starts: Vec<_> = due.into_iter().map(|due| due.at).collect();
    assert!(starts.iter().all(|at| (10_000..12_000).contains(at)));
    assert_eq!(peak(&starts), 10);
}

#[test]
fn no_policy_makes_checks_without_a_pause() {
    let policy =
        Checking { rise: 0, fall: 0, interval: 0, fast_interval: 0, timeout: 0, jitter: 100 };
    let mut draw = draws();
    for _ in 0..100 {
        assert!(next(5, 9, Pace::Fast, draw(), &policy).at > 9);
        assert!(next(5, 5, Pace::Steady, draw(), &policy).at > 5);
    }
    let policy = Checking { interval: u64::MAX, ..policy };
    assert!(next(5, u64::MAX / 2, Pace::Steady, 7, &policy).at > u64::MAX / 2);
}

#[test]
fn what_a_result_counts_as() {
    use Judged::{Pass, Unjudged};
    let fail = || Judged::Fail("no answer".into());
    let timing = |late: Tick, took: Tick, lag| {
        let started = 500 + late;
        Timing { due: 500, started, ended: started + took, lag }
    };
    let answered = || Answer::Fail("no answer".into());
    let late_pass = || Judged::Fail("answered after the timeout".into());
    let refused = || Judged::Fail("refused".into());
    // late, took, lag, then: what a pass, a refusal and a failure count as
    let cases = [
        (0, 10, 0, Pass, refused(), fail()),
        (0, 1000, 0, Pass, refused(), fail()),
        (0, 1250, 0, late_pass(), refused(), fail()),
        (0, 1251, 0, Unjudged, refused(), Unjudged),
        (0, 1000, 250, Pass, refused(), fail()),
        (0, 1000, 251, Pass, refused(), Unjudged),
        (250, 1000, 0, Pass, refused(), fail()),
        (251, 1000, 0, Pass, refused(), Unjudged),
        (0, 10_000, 9_000, Unjudged, refused(), Unjudged),
    ];
    for (late, took, lag, pass, refusal, failure) in cases {
        let timing = timing(late, took, lag);
        assert_eq!(judge(Answer::Pass, &timing, &POLICY), pass, "{timing:?}");
        assert_eq!(judge(Answer::Refused, &timing, &POLICY), refusal, "{timing:?}");
        assert_eq!(judge(answered(), &timing, &POLICY), failure, "{timing:?}");
    }
}

#[test]
fn the_coarse_clock_may_run_backwards_by_a_tick() {
    let timing = Timing { due: 500, started: 499, ended: 498, lag: 0 };
    assert_eq!(judge(Answer::Pass, &timing, &POLICY), Judged::Pass);
}
