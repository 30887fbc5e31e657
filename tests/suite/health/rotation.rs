//! [HH-4, HH-6] Priorities, failback, slow start, panic.

use std::time::Instant;

use super::{checking, client_of, expect_checks, expect_service_of, sequence, tally, who};
use crate::support::admin::Admin;
use crate::support::{
    Answers, BlackHole, End, Node, PATIENCE, SLACK, Setup, eventually, ms, pause, throughout,
};

/// Two nodes that take turns, and one behind them.
fn tiers() -> [Node; 3] {
    ["a", "b", "c"].map(Node::named)
}

fn tiered(nodes: &[Node; 3], behind: &str) -> Setup {
    Setup::to([nodes[0].entry(""), nodes[1].entry(""), nodes[2].entry(behind)])
}

/// Refused connections may eject before checks see why; then a trial is soon.
const CHECK: &str = "health_check: {interval: 100ms, fast_interval: 40ms, timeout: 100ms, fall: 2}, \
     outlier_detection: {base_ejection: 150ms, max_ejection: 150ms}";

/// [HH-6]
#[test]
fn a_backup_serves_only_while_nobody_of_a_better_priority_can() {
    for behind in ["backup: true", "priority: 1", "priority: 7"] {
        let nodes = tiers();
        let proxy = tiered(&nodes, behind).pool(CHECK).start();
        assert_eq!(tally(&proxy, 20).get("c"), None);
        nodes[0].kill();
        proxy.expect_told("evicted", "a");
        assert_eq!(sequence(&proxy, 10), "b".repeat(10));
        nodes[1].kill();
        // Not one client fails from here on, whoever notices first.
        assert_eq!(sequence(&proxy, 30), "c".repeat(30));
        proxy.expect_told("evicted", "b");
        assert_eq!(sequence(&proxy, 10), "c".repeat(10));
        nodes[1].restart();
        // Ejected as it may be, one connection is its trial.
        expect_service_of(&proxy, "b");
        proxy.expect_told("reinstated", "b");
        pause(ms(10));
        assert_eq!(sequence(&proxy, 10), "b".repeat(10));
    }
}

#[test]
fn attempts_go_to_lower_priorities_once_these_are_tried() {
    let nodes = [Node::dead("a"), Node::dead("b"), Node::named("c")];
    let proxy = tiered(&nodes, "backup: true").pool("outlier_detection: off").start();
    // Two retries each: the budget allows as many as there are connections, and a few.
    assert_eq!(sequence(&proxy, 4), "cccc", "the third attempt of each");
    let two = tiered(&nodes, "backup: true").pool("outlier_detection: off");
    let two = two.pool("connect: {attempts: 2}").start();
    assert_eq!(who(&two), "");
    assert!(proxy.events().is_empty());
}

#[test]
fn failback_waits_until_the_better_priority_was_healthy_for_the_delay() {
    let nodes = [Node::named("a"), Node::named("b")];
    let setup = Setup::to([nodes[0].entry(""), nodes[1].entry("backup: true")]);
    let keys = "failover: {failback: auto, failback_delay: 900ms}";
    let proxy = setup.pool(CHECK).pool(keys).start();
    expect_service_of(&proxy, "a");
    nodes[0].kill();
    proxy.expect_told("evicted", "a");
    expect_service_of(&proxy, "b");
    nodes[0].restart();
    proxy.expect_told("reinstated", "a");
    let start = Instant::now();
    eventually(PATIENCE, "a serves again", || who(&proxy) == "a");
    let waited = start.elapsed();
    assert!(waited > ms(800) && waited < ms(900) + SLACK, "{waited:?}");
    assert_eq!(sequence(&proxy, 5), "aaaaa");
}

#[test]
fn manual_failback_waits_until_the_priority_in_use_has_nobody_left() {
    let nodes = [Node::named("a"), Node::named("b")];
    let setup = Setup::to([nodes[0].entry(""), nodes[1].entry("backup: true")]);
    let proxy = setup.pool(CHECK).pool("failover: {failback: manual}").start();
    expect_service_of(&proxy, "a");
    nodes[0].kill();
    expect_service_of(&proxy, "b");
    proxy.expect_told("evicted", "a");
    nodes[0].restart();
    proxy.expect_told("reinstated", "a");
    throughout(ms(400), "b goes on", || who(&proxy) == "b");
    nodes[1].kill();
    assert_eq!(who(&proxy), "a", "the very next client");
    expect_service_of(&proxy, "a");
}

#[test]
fn priorities_may_close_what_they_leave_behind() {
    let nodes = [Node::named("a"), Node::named("b")];
    let answers = Answers::by("P");
    let port = format!("health_port: {}", answers.port());
    let fine = Answers::by("P");
    let setup = Setup::to([nodes[0].entry(&port), nodes[1].entry("backup: true")]);
    let setup = setup.pool(&checking(&fine, ", fall: 2"));
    let keys = "failover: {demotion: {connections: close, grace: 200ms}}";
    let proxy = setup.pool(keys).start();
    expect_checks(&answers, 2);
    let client = client_of(&proxy, "a");
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    let start = Instant::now();
    client.expect_end(End::Fin);
    assert!(start.elapsed() > ms(100) && start.elapsed() < ms(250) + SLACK);
    proxy.expect_ends(&["demoted"]);
}

/// [HH-4] Linear from 10 percent, in a pool of two: 1 of 11 at the start, half at the end.
#[test]
fn slow_start_grows_from_a_tenth_and_is_never_made_at_start_up() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine) = (Answers::by("P"), Answers::by("P"));
    let port = format!("health_port: {}", answers.port());
    let setup = Setup::to([nodes[0].entry(&port), nodes[1].entry("")]);
    let proxy = setup.pool(&checking(&fine, ", fall: 1, rise: 1")).pool("slow_start: 3s").start();
    expect_checks(&answers, 1);
    expect_checks(&fine, 1);
    assert_eq!(tally(&proxy, 40).get("a"), Some(&20), "at start-up it has its full share");
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    answers.go_on("P");
    proxy.expect_told("reinstated", "a");
    let start = Instant::now();
    let mut shares = Vec::new();
    while start.elapsed() < ms(3300) {
        let at = start.elapsed().as_secs_f64();
        let share = tally(&proxy, 40).get("a").copied().unwrap_or(0) as f64 / 40.0;
        let after = start.elapsed().as_secs_f64();
        shares.push((at, share));
        // Its weight is between those of the beginning and the end of the sample, a step more or less.
        let weight = |at: f64| (0.1 + 0.9 * at / 3.0).min(1.0);
        let share_of = |weight: f64| weight / (1.0 + weight);
        let (least, most) = (share_of(weight(at) - 0.12), share_of(weight(after) + 0.12));
        assert!(share >= least - 0.06 && share <= most + 0.06, "{least} {most}: {shares:?}");
        pause(ms(100));
    }
    assert!(shares[0].1 < 0.2 && shares.len() > 8, "{shares:?}");
    assert_eq!(tally(&proxy, 40).get("a"), Some(&20));
}

/// [HH-4] Below the threshold all but disabled ones are used, whatever is known of them.
#[test]
fn in_panic_everybody_but_the_disabled_is_used() {
    let nodes = ["a", "b", "c", "d"].map(Node::named);
    let bad: Vec<_> = (0..2).map(|_| Answers::by("P")).collect();
    let fine = Answers::by("P");
    let entries = [
        nodes[0].entry(&format!("health_port: {}", bad[0].port())),
        nodes[1].entry(&format!("health_port: {}", bad[1].port())),
        nodes[2].entry(""),
        nodes[3].entry("disabled: true"),
    ];
    let setup = Setup::to(entries).pool(&checking(&fine, ", fall: 1, rise: 1"));
    let proxy = setup.pool("panic_threshold: 50").start();
    bad.iter().for_each(|answers| expect_checks(answers, 1));
    bad[0].go_on("F");
    proxy.expect_told("evicted", "a");
    pause(ms(10));
    assert!(!sequence(&proxy, 12).contains('a'), "two of three are no panic");
    bad[1].go_on("F");
    proxy.expect_told("evicted", "b");
    pause(ms(10));
    let tally = tally(&proxy, 12);
    assert_eq!(tally.values().copied().collect::<Vec<_>>(), [4, 4, 4], "{tally:?}");
    bad[0].go_on("P");
    proxy.expect_told("reinstated", "a");
    pause(ms(10));
    assert!(!sequence(&proxy, 12).contains('b'));
}

/// [HH-4]
#[test]
fn without_panic_a_pool_that_is_down_closes_at_once_and_comes_back() {
    let nodes = [Node::named("a")];
    let answers = Answers::by("P");
    let setup = Setup::to([nodes[0].entry("")]).pool(&checking(&answers, ", fall: 1, rise: 1"));
    let proxy = setup.start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    pause(ms(10));
    let waited = proxy.client().time_to_end(End::Reset);
    assert!(waited < ms(10) + SLACK, "{waited:?}");
    proxy.expect_ends(&["no_backend"]);
    proxy.expect_line("the pool is down");
    answers.go_on("P");
    proxy.expect_told("reinstated", "a");
    proxy.expect_line("the pool is up");
    pause(ms(10));
    assert_eq!(who(&proxy), "a");
}

/// [HH-6] Primaries die one by one and come back, under load: nobody fails, nobody is at the backup
/// while a primary is there.
#[test]
fn primaries_that_come_and_go_under_load_lose_nobody() {
    let nodes = tiers();
    let proxy = tiered(&nodes, "backup: true").pool(CHECK).start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        let load = || {
            let mut names = String::new();
            while !stopped() {
                names.push_str(&match who(&proxy) {
                    name if name.is_empty() => "!".to_owned(),
                    name => name,
                });
            }
            names
        };
        let loads: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
        for round in 1..=2 {
            nodes[0].kill();
            proxy.expect_told_again("evicted", "a", round);
            nodes[1].kill();
            proxy.expect_told_again("evicted", "b", round);
            nodes[0].restart();
            proxy.expect_told_again("reinstated", "a", round);
            pause(ms(10));
            let before = nodes[2].accept_times().len();
            pause(ms(100));
            // Its checks come there too: ten a second.
            let after = nodes[2].accept_times().len() - before;
            assert!(after <= 4, "{after} at the backup while a is there");
            nodes[1].restart();
            proxy.expect_told_again("reinstated", "b", round);
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // A connection that was open to a node when it was killed may be cut before its first byte.
        let names: String = loads.into_iter().map(|load| load.join().unwrap()).collect();
        let failed = names.matches('!').count();
        assert!(names.len() > 100 && failed <= 4, "{failed} of {} failed", names.len());
    });
    assert!(!proxy.reasons().contains_key("connect_failed"), "{:?}", proxy.reasons());
    assert!(!proxy.reasons().contains_key("no_backend"), "{:?}", proxy.reasons());
}

/// Whatever takes a backend out for good takes out the connections that are on their way to it.
#[test]
fn a_connection_under_way_to_a_backend_that_is_disabled_goes_elsewhere() {
    let (hole, good) = (BlackHole::new(), Node::named("b"));
    let first = format!("{{address: \"{}\", name: hole}}", hole.address());
    let setup = Setup::to([first, good.entry("")]).head("admin: {bind: \"127.0.0.1:0\"}");
    let patient = "strategy: first_available, connect: {timeout: 30s, deadline: 30s, hedge: off}";
    let proxy = setup.pool(patient).start();
    let admin = Admin::of(&proxy);
    let client = proxy.client();
    eventually(PATIENCE, "it is under way", || hole.dials_of(proxy.pid()) == 1);
    admin.post("/api/v1/pools/app/backends/hole/disable", "{}").ok();
    assert_eq!(client.receive(1), b"b");
    assert_eq!(hole.dials_of(proxy.pid()), 0);
}

/// [HH-6] Who waits for a slot of the backup is served by the primary once that is back: what a backup
/// has free after that is nobody's.
#[test]
fn the_backup_takes_nothing_from_the_queue_once_a_primary_is_back() {
    let (nodes, answers, fine) =
        ([Node::named("a"), Node::named("b")], Answers::by("P"), Answers::by("P"));
    let keys = |answers: &Answers, more: &str| format!("health_port: {}{more}", answers.port());
    let setup = Setup::to([
        nodes[0].entry(&keys(&answers, "")),
        nodes[1].entry(&keys(&fine, ", backup: true, max_connections: 1")),
    ]);
    let setup = setup.pool(&checking(&answers, ", fall: 1, rise: 2"));
    let proxy = setup.pool("queue: {timeout: 8s, max: 50}").start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    pause(ms(10));
    let inside = client_of(&proxy, "b");
    let waiting: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    waiting.iter().for_each(|client| client.send("!"));
    pause(ms(100));
    assert_eq!((nodes[0].accepted(), nodes[1].accepted()), (0, 1), "they wait");
    answers.go_on("P");
    // At once, while the slot of the backup is still taken; then that is free.
    waiting.iter().for_each(|client| client.expect("a"));
    proxy.expect_told("reinstated", "a");
    drop(inside);
    assert_eq!(sequence(&proxy, 10), "a".repeat(10));
    assert_eq!(nodes[1].accepted(), 1);
}
