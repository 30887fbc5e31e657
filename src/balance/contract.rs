//! Laws that every strategy obeys, run over the whole table, and others that a strategy's own tests
//! call for when it promises them. Also what tests of strategies build their candidates with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::{
    Just, ProptestConfig, Strategy as AnyOf, any, prop, prop_assert, prop_assert_eq, prop_oneof,
    proptest,
};

use super::shares::mix;
use super::{Candidate, Entry, Load, Options, Request, STRATEGIES, Tried};

/// Idle candidates of these weights, called `b0`, `b1` and so on, with these ids.
pub(super) fn weighing(weights: &[u32]) -> Vec<Candidate> {
    with_open(weights, &vec![0; weights.len()])
}

/// Candidates of these weights with these connections open.
pub(super) fn with_open(weights: &[u32], open: &[u32]) -> Vec<Candidate> {
    (0..)
        .zip(weights.iter().zip(open))
        .map(|(id, (&weight, &open))| Candidate {
            id,
            key: format!("b{id}").into(),
            weight,
            load: Arc::new(Load::with_open(open)),
        })
        .collect()
}

/// The open connections of each candidate.
pub(super) fn open_of(candidates: &[Candidate]) -> Vec<u32> {
    candidates.iter().map(|candidate| candidate.load.open()).collect()
}

/// A request of a client without an address at turn 0.
pub(super) fn asking(tried: &Tried) -> Request<'_> {
    Request { source: None, turn: 0, random: 0, now_ms: 0, tried }
}

/// The client number `n`: its address and numbers differ from those of any other.
pub(super) fn client(n: u64, tried: &Tried) -> Request<'_> {
    let [.., a, b, c, d] = n.to_be_bytes();
    let source = Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    Request { source, turn: n, random: mix(n), now_ms: 0, tried }
}

/// Fails unless clients that come to an idle pool are shared by weight, within `tolerance` of each
/// share, also when some were tried.
pub(super) fn shares_by_weight(entry: &Entry, tolerance: f64) {
    let candidates = weighing(&[4, 1, 3, 2, 5]);
    let strategy = (entry.build)(&candidates, &Options::default());
    for tried in [Tried::default(), [4].into_iter().collect(), [0, 2].into_iter().collect()] {
        let left = |one: &&Candidate| one.is_left(&tried);
        let total: u32 = candidates.iter().filter(left).map(|one| one.weight).sum();
        let mut had = [0_u32; 5];
        for n in 0..60_000 {
            had[strategy.pick(&candidates, &client(n, &tried)).unwrap()] += 1;
        }
        for one in candidates.iter().filter(left) {
            let share = f64::from(had[one.id as usize]) / 60_000.0;
            let expected = f64::from(one.weight) / f64::from(total);
            assert!((share / expected - 1.0).abs() < tolerance, "{tried:?}: {had:?}");
        }
    }
}

/// Fails if more keys than the share of one backend, and 1 % of all keys, move when it leaves, or if
/// the order of the list matters.
pub(super) fn moves_few_clients(entry: &Entry, weights: &[u32]) {
    const KEYS: u64 = 50_000;
    let tried = Tried::default();
    let all = weighing(weights);
    let leaving = weights.len() / 3;
    let mut others = all.clone();
    others.remove(leaving);
    others.reverse();
    let strategy = (entry.build)(&all, &Options::default());
    let without = (entry.build)(&others, &Options::default());
    let has_moved = |key: &u64| {
        let before = strategy.pick(&all, &client(*key, &tried)).unwrap();
        let after = without.pick(&others, &client(*key, &tried)).unwrap();
        all[before].id != others[after].id
    };
    let moved = (0..KEYS).filter(has_moved).count() as f64 / KEYS as f64;
    let share = f64::from(weights[leaving]) / f64::from(weights.iter().sum::<u32>());
    assert!(moved <= share + 0.01, "{moved} of the keys moved, {share} had to");
}

/// Any candidates: weights from none to the greatest, busy or idle, measured or not.
fn any_candidates() -> impl AnyOf<Value = Vec<Candidate>> {
    let weight = prop_oneof![Just(1), 0_u32..4, Just(65_535), Just(u32::MAX)];
    let open = prop_oneof![Just(0), 0_u32..10, Just(1 << 30)];
    let micros = prop::option::of(any::<u32>());
    prop::collection::vec((weight, open, micros), 0..40).prop_map(|all| {
        let (weights, open): (Vec<_>, Vec<_>) = all.iter().map(|one| (one.0, one.1)).unzip();
        let candidates = with_open(&weights, &open);
        for (candidate, (.., micros)) in candidates.iter().zip(all) {
            micros.into_iter().for_each(|micros| candidate.load.record_latency(micros, 5_000));
        }
        candidates
    })
}

fn any_source() -> impl AnyOf<Value = Option<IpAddr>> {
    prop_oneof![
        Just(None),
        any::<Ipv4Addr>().prop_map(|ip| Some(ip.into())),
        any::<Ipv6Addr>().prop_map(|ip| Some(ip.into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_backend_that_is_left_is_picked_once_and_then_none(
        candidates in any_candidates(),
        source in any_source(),
        (turn, random, now_ms) in any::<(u64, u64, u32)>(),
        strangers in prop::collection::vec(40_u32.., 0..3),
    ) {
        for entry in STRATEGIES {
            let strategy = (entry.build)(&candidates, &Options::default());
            let mut tried: Tried = strangers.iter().copied().collect();
            let left = candidates.iter().filter(|one| one.weight > 0).count();
            for _ in 0..left {
                let request = Request { source, turn, random, now_ms, tried: &tried };
                let picked = strategy.pick(&candidates, &request);
                prop_assert_eq!(picked, strategy.pick(&candidates, &request), "{}", entry.name);
                let candidate = &candidates[picked.expect("some are left")];
                prop_assert!(candidate.is_left(&tried), "{} picked a tried one", entry.name);
                tried.insert(candidate.id);
            }
            let request = Request { source, turn, random, now_ms, tried: &tried };
            prop_assert_eq!(strategy.pick(&candidates, &request), None, "{}", entry.name);
        }
    }
}

#[test]
fn a_strategy_built_again_answers_the_same() {
    let (candidates, tried) = (with_open(&[3, 1, 2, 2], &[4, 1, 0, 2]), Tried::default());
    for entry in STRATEGIES {
        let built = || (entry.build)(&candidates, &Options::default());
        let (one, other) = (built(), built());
        for n in 0..100 {
            let request = client(n, &tried);
            assert_eq!(one.pick(&candidates, &request), other.pick(&candidates, &request));
        }
    }
}

#[test]
fn a_list_that_is_not_the_one_it_was_built_from_is_no_reason_to_panic() {
    let (built_from, tried) = (weighing(&[1, 2, 3]), Tried::default());
    for entry in STRATEGIES {
        let strategy = (entry.build)(&built_from, &Options::default());
        for candidates in [weighing(&[]), weighing(&[1]), weighing(&[0, 0, 0, 0])] {
            for n in 0..100 {
                let picked = strategy.pick(&candidates, &client(n, &tried));
                assert!(picked.is_none_or(|index| index < candidates.len()), "{}", entry.name);
            }
        }
    }
}

#[test]
fn names_and_options_are_those_of_a_configuration() {
    let is_word = |name: &str| {
        name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    for (place, entry) in STRATEGIES.iter().enumerate() {
        assert!(is_word(entry.name) && !entry.summary.is_empty());
        assert!(STRATEGIES[..place].iter().all(|other| other.name != entry.name));
        for option in entry.options {
            assert!(is_word(option.name) && !option.summary.is_empty());
            for value in [option.min, option.default, option.max] {
                assert_eq!(option.accept(value), Ok(()), "{}: {}", entry.name, option.name);
                let options = Options::new(vec![(option.name.into(), value)]);
                let candidates = weighing(&[1; 300]);
                let strategy = (entry.build)(&candidates, &options);
                assert!(strategy.pick(&candidates, &client(7, &Tried::default())).is_some());
            }
        }
    }
}
