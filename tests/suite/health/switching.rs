//! Fifty takeovers in a row: never two active ones, and nobody who fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{checking, expect_checks};
use crate::support::{Answers, Node, PATIENCE, Proxy, Setup, eventually, ms};

const MOVES: usize = 50;

/// One client: when it began, when it was greeted, and by whom.
struct Served {
    began: Instant,
    greeted: Instant,
    name: String,
}

/// The role of one backend, from the moment that a move was asked for.
struct Reign {
    asked: Instant,
    name: &'static str,
}

/// Clients one after the other on each of so many threads, until they are told to stop.
fn under_load(proxy: &Proxy, threads: usize, work: impl FnOnce()) -> Vec<Served> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = || {
            let mut served = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                let name = super::who(proxy);
                served.push(Served { began, greeted: Instant::now(), name });
            }
            served
        };
        let loads: Vec<_> = (0..threads).map(|_| scope.spawn(load)).collect();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::SeqCst);
        let served = loads.into_iter().flat_map(|load| load.join().unwrap()).collect();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served
    })
}

/// In each reign: once somebody who came in it was served by its holder, nobody who comes later is
/// served by another.
#[track_caller]
fn expect_one_at_a_time(reigns: &[Reign], served: &[Served]) {
    for (index, reign) in reigns.iter().enumerate() {
        let until = reigns.get(index + 1).map(|next| next.asked);
        let within = |one: &&Served| {
            one.began > reign.asked && until.is_none_or(|until| one.greeted < until)
        };
        let within: Vec<_> = served.iter().filter(within).collect();
        let of_holder = within.iter().filter(|one| one.name == reign.name);
        let opened = of_holder.map(|one| one.greeted).min();
        let opened = opened.unwrap_or_else(|| panic!("nobody was served in reign {index}"));
        let astray = within.iter().filter(|one| one.began > opened && one.name != reign.name);
        let astray: Vec<_> = astray.map(|one| (one.began - opened, &one.name)).collect();
        assert!(astray.is_empty(), "reign {index} of {}: {astray:?}", reign.name);
    }
}

fn pair(threads: u32, interval: u32, keys: &str, answers: [&Answers; 2]) -> ([Node; 2], Proxy) {
    let nodes = ["a", "b"].map(Node::named);
    let entry = |(node, answers): (&Node, &Answers)| {
        node.entry(&format!("health_port: {}", answers.port()))
    };
    let setup = Setup::to(nodes.iter().zip(answers).map(entry)).threads(threads);
    let timing = format!(", interval: {interval}ms, fast_interval: 10ms, rise: 1, fall: 1");
    let check = checking(answers[0], "").replace(", interval: 60ms, fast_interval: 30ms", &timing);
    let setup = setup.pool("strategy: hot_standby").pool(&check).pool(keys);
    let proxy = setup.start();
    expect_checks(answers[0], 1);
    expect_checks(answers[1], 1);
    (nodes, proxy)
}

/// By checks: both backends live and would serve anybody.
fn moved_by_checks(threads: u32) {
    let (answers, fine) = (Answers::by("P"), Answers::by("P"));
    let keys = "failover: {failback: auto, demotion: {connections: keep}}";
    let (nodes, proxy) = pair(threads, 20, keys, [&answers, &fine]);
    let mut reigns = Vec::new();
    let served = under_load(&proxy, 4, || {
        for _ in 0..MOVES / 2 {
            for (script, node) in [("F", &nodes[1]), ("P", &nodes[0])] {
                let before = node.accepted();
                reigns.push(Reign { asked: Instant::now(), name: node.name() });
                answers.go_on(script);
                eventually(PATIENCE, "the role has moved", || node.accepted() > before + 20);
            }
        }
    });
    assert_eq!(reigns.len(), MOVES);
    expect_one_at_a_time(&reigns, &served);
    let failed = served.iter().filter(|one| one.name.is_empty()).count();
    assert_eq!(failed, 0, "of {}: {:?}", served.len(), proxy.reasons());
    let takeovers = || proxy.events().iter().filter(|event| event.kind == "takeover").count();
    eventually(PATIENCE, "every move is reported", || takeovers() == MOVES);
    // By the accept logs, too: what is accepted a little late was connected before.
    let logs = nodes.each_ref().map(Node::accept_times);
    for (index, reign) in reigns.iter().enumerate() {
        let (own, other) =
            if reign.name == "a" { (&logs[0], &logs[1]) } else { (&logs[1], &logs[0]) };
        let until = reigns.get(index + 1).map_or_else(Instant::now, |next| next.asked);
        let Some(opened) = own.iter().find(|at| **at > reign.asked) else { continue };
        let late = |at: &&Instant| **at > *opened + ms(100) && **at < until;
        assert_eq!(other.iter().filter(late).count(), 0, "reign {index}");
    }
}

#[test]
fn fifty_moves_by_checks_with_one_thread() {
    moved_by_checks(1);
}

#[test]
fn fifty_moves_by_checks_with_two_threads() {
    moved_by_checks(2);
}

#[test]
fn fifty_moves_by_checks_with_four_threads() {
    moved_by_checks(4);
}

/// By death: the active one is killed, and gets the role back when its ejection is over.
fn moved_by_death(threads: u32) {
    let (answers, fine) = (Answers::by("P"), Answers::by("P"));
    let keys = "failover: {failback: auto}, \
                outlier_detection: {base_ejection: 250ms, max_ejection: 250ms}";
    let (nodes, proxy) = pair(threads, 200, keys, [&answers, &fine]);
    let mut reigns = Vec::new();
    let served = under_load(&proxy, 4, || {
        for _ in 0..MOVES / 2 {
            let before = nodes[1].accepted();
            reigns.push(Reign { asked: Instant::now(), name: "b" });
            nodes[0].kill();
            eventually(PATIENCE, "b serves", || nodes[1].accepted() > before + 20);
            let before = nodes[0].accepted();
            nodes[0].restart();
            reigns.push(Reign { asked: Instant::now(), name: "a" });
            eventually(PATIENCE, "a serves again", || nodes[0].accepted() > before + 20);
        }
    });
    // In its second part b's reign is the old one of the move back.
    expect_one_at_a_time(&reigns, &served);
    // A check that times out on a busy machine may be one more.
    let takeovers = || proxy.events().iter().filter(|event| event.kind == "takeover").count();
    eventually(PATIENCE, "every move is reported", || takeovers() >= MOVES);
    // Those that the dying one had accepted are cut.
    let failed = served.iter().filter(|one| one.name.is_empty()).count();
    assert!(failed <= MOVES * 2, "{failed} of {} failed", served.len());
    let reasons = proxy.reasons();
    for reason in ["connect_failed", "no_backend", "queue_timeout", "local_error"] {
        assert!(!reasons.contains_key(reason), "{reasons:?}");
    }
}

#[test]
fn fifty_moves_by_death_with_one_thread() {
    moved_by_death(1);
}

#[test]
fn fifty_moves_by_death_with_four_threads() {
    moved_by_death(4);
}
