//! [HH-1, HH-2, HH-8] Active checks: what they make of answers by script.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{checking, client_of, expect_checks, expect_service_of, pool, sequence, who};
use crate::support::{
    Answers, End, Node, PATIENCE, SLACK, TestBackend, eventually, ms, pause, procfs, throughout,
};

/// Two nodes of which the first is checked by `answers`, the second by answers that pass.
fn checked_pair(nodes: &[Node; 2], answers: [&Answers; 2], keys: &str) -> crate::support::Setup {
    let entry = |(node, answers): (&Node, &Answers)| {
        node.entry(&format!("health_port: {}", answers.port()))
    };
    let setup = crate::support::Setup::to(nodes.iter().zip(answers).map(entry));
    setup.pool(&checking(answers[0], keys))
}

fn pair() -> [Node; 2] {
    ["a", "b"].map(Node::named)
}

#[test]
fn fall_failures_in_a_row_evict_and_rise_passes_reinstate() {
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let proxy = checked_pair(&nodes, [&answers, &fine], ", rise: 3, fall: 2").start();
    expect_checks(&answers, 2);
    assert!(sequence(&proxy, 4).contains('a'));

    answers.go_on("F");
    let told = proxy.expect_told("evicted", "a");
    assert_eq!((told.cause.as_str(), told.more.as_str()), ("probe", "healthy -> unhealthy"));
    assert!(told.evidence.starts_with("2 checks failed in a row"), "{told:?}");
    pause(ms(10));
    assert_eq!(sequence(&proxy, 10), "b".repeat(10));

    answers.go_on("P");
    let told = proxy.expect_told("reinstated", "a");
    assert_eq!((told.cause.as_str(), told.more.as_str()), ("probe", "unhealthy -> healthy"));
    assert_eq!(told.evidence, "3 checks passed in a row");
    expect_service_of(&proxy, "a");
}

/// [HH-2]
#[test]
fn failures_that_are_not_in_a_row_never_evict() {
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let proxy = checked_pair(&nodes, [&answers, &fine], ", fall: 3").start();
    expect_checks(&answers, 1);
    answers.go_on(&("FFP".repeat(12) + "P"));
    expect_checks(&answers, 36);
    assert!(proxy.told("evicted", "a").is_empty());
    assert!(sequence(&proxy, 4).contains('a'));
}

/// [HH-2]
#[test]
fn passes_that_are_not_in_a_row_never_reinstate() {
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let proxy = checked_pair(&nodes, [&answers, &fine], ", rise: 3, fall: 1").start();
    expect_checks(&answers, 1);
    answers.go_on(&("F".to_owned() + &"PPF".repeat(12) + "F"));
    proxy.expect_told("evicted", "a");
    let start = nodes[0].accepted();
    eventually(PATIENCE, "the script is through", || {
        assert_eq!(who(&proxy), "b");
        answers.asked() >= 37
    });
    assert_eq!(nodes[0].accepted(), start);
    assert!(proxy.told("reinstated", "a").is_empty());
    answers.go_on("PPP");
    proxy.expect_told("reinstated", "a");
}

/// [HH-2] Hooks and events: as many as transitions.
#[test]
fn flapping_tells_each_transition_once() {
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let proxy = checked_pair(&nodes, [&answers, &fine], ", rise: 2, fall: 2").start();
    expect_checks(&answers, 1);
    // Seen by a machine that counts rows: down at FF, up at PP, and nothing else.
    let script = "FPFPFFPFPFPPFPFFPPFFFP";
    answers.go_on(&(script.to_owned() + "P"));
    eventually(PATIENCE, "the script is through", || proxy.told("reinstated", "a").len() >= 3);
    expect_checks(&answers, 3);
    let kinds: Vec<_> = proxy.events().into_iter().filter(|e| e.backend == "a").collect();
    let kinds: Vec<_> = kinds.iter().map(|event| event.kind.as_str()).collect();
    let pairs = ["evicted", "reinstated"].repeat(3);
    assert_eq!(kinds, pairs);
}

/// [HH-1] From an event until the next 10 ms have passed connections may go either way; then none.
#[test]
fn an_evicted_backend_gets_nothing_from_ten_milliseconds_after_the_event() {
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let proxy = checked_pair(&nodes, [&answers, &fine], ", rise: 2, fall: 2").start();
    for round in 1..=6 {
        expect_checks(&answers, 1);
        expect_service_of(&proxy, "a");
        answers.go_on("F");
        eventually(PATIENCE, "evicted", || proxy.told("evicted", "a").len() == round);
        pause(ms(10));
        let before = nodes[0].accepted();
        assert_eq!(sequence(&proxy, 6), "bbbbbb");
        assert_eq!(nodes[0].accepted(), before);
        answers.go_on("P");
        proxy.expect_told_again("reinstated", "a", round);
    }
}

/// [HH-1] Four threads, clients on all of them: from the answer that evicts until the last connection,
/// on whichever thread. 10 ms are promised; what a busy machine adds is many times that, so the middle
/// of the rounds is bounded too (`benches/peers/run.py in-force` measures it).
#[test]
fn a_decision_is_in_force_on_every_thread() {
    const ROUNDS: usize = 9;
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let setup = checked_pair(&nodes, [&answers, &fine], ", rise: 1, fall: 1").threads(4);
    let proxy = setup.start();
    let stop = AtomicBool::new(false);
    let clients = || {
        while !stop.load(SeqCst) {
            assert_ne!(who(&proxy), "", "somebody was served by nobody");
            pause(ms(1));
        }
    };
    let more_at = |node: &Node| {
        let before = node.accepted();
        eventually(PATIENCE, "it is used", || node.accepted() >= before + 20);
    };
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(clients)).collect();
        let _over = AtEnd(&stop);
        for _ in 0..ROUNDS {
            more_at(&nodes[0]);
            let (asked, said) = (answers.asked(), Instant::now());
            answers.go_on("F");
            // The second of these begins after the first has decided.
            eventually(PATIENCE, "it is checked", || answers.asked() >= asked + 3);
            more_at(&nodes[1]);
            let times = answers.times();
            let decided = *times.iter().find(|at| **at > said).unwrap();
            let last = *nodes[0].accept_times().last().unwrap();
            took.push(last.saturating_duration_since(decided));
            answers.go_on("P");
        }
        more_at(&nodes[0]);
        stop.store(true, SeqCst);
        clients.into_iter().for_each(|clients| clients.join().unwrap());
    });
    assert_eq!(proxy.told("evicted", "a").len(), ROUNDS);
    took.sort_unstable();
    assert!(took[ROUNDS / 2] < ms(10 + 50) && took[ROUNDS - 1] < ms(10) + SLACK, "{took:?}");
}

/// Ends the clients, also when the test fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn the_fast_interval_holds_for_the_first_check_and_while_a_change_is_under_way() {
    let (nodes, answers) = (pair(), Answers::by("FFP"));
    let timing = "interval: 1s, fast_interval: 100ms, timeout: 500ms, jitter: 0, rise: 2, fall: 3";
    let check = format!("health_check: {{{}, port: {}, {timing}}}", Answers::PROBE, answers.port());
    let proxy = pool(&nodes[..1]).pool(&check).start();
    // Unknown, F, F, P: fast. Then healthy: a second each.
    eventually(PATIENCE, "four checks", || answers.asked() >= 4);
    answers.go_on("FFFP");
    // After the first of the failures it is fast again, and slow once the third has evicted; then a
    // pass, and fast to the second.
    eventually(PATIENCE, "nine checks", || answers.asked() >= 9);
    proxy.expect_told("reinstated", "a");
    let times = answers.times();
    let gaps: Vec<_> = times.windows(2).map(|w| w[1].duration_since(w[0]).as_millis()).collect();
    let fast = |gap: &u128| (80..400).contains(gap);
    let slow = |gap: &u128| (800..1600).contains(gap);
    assert!(fast(&gaps[0]) && fast(&gaps[1]), "unknown: {gaps:?}");
    assert!(slow(&gaps[2]) && slow(&gaps[3]), "healthy: {gaps:?}");
    assert!(fast(&gaps[4]) && fast(&gaps[5]), "failing: {gaps:?}");
    assert!(slow(&gaps[6]), "unhealthy: {gaps:?}");
    assert!(fast(&gaps[7]), "rising: {gaps:?}");
}

/// [HH-8]
#[test]
fn silence_is_a_failure_after_the_timeout_and_not_before() {
    let (nodes, answers) = (pair(), Answers::by("P"));
    let timing = "interval: 2s, timeout: 500ms, jitter: 0, fall: 1";
    let check = format!("health_check: {{{}, port: {}, {timing}}}", Answers::PROBE, answers.port());
    let proxy = pool(&nodes[..1]).pool(&check).start();
    expect_checks(&answers, 0);
    eventually(PATIENCE, "the first check", || answers.asked() == 1);
    answers.go_on("S");
    eventually(PATIENCE, "the second check", || answers.asked() == 2);
    let begun = *answers.times().last().unwrap();
    let told = proxy.expect_told("evicted", "a");
    let took = begun.elapsed();
    assert!(took >= ms(450) && took < ms(550) + SLACK, "{took:?}");
    assert!(told.evidence.contains("timed out after 500ms"), "{told:?}");
}

/// [HH-8] A pass that comes when the check is over must not count for the next one.
#[test]
fn an_answer_after_the_timeout_counts_for_nothing() {
    let node = Node::named("a");
    let late = TestBackend::scripted(|peer| {
        let _ = peer.try_read(&mut [0; 8]);
        pause(ms(150));
        let _ = peer.try_send("fine");
    });
    let port = late.address().rsplit(':').next().unwrap().to_owned();
    let timing = "interval: 80ms, fast_interval: 80ms, timeout: 70ms, jitter: 0, rise: 1, fall: 2";
    let check = format!("health_check: {{{}, port: {port}, {timing}}}", Answers::PROBE);
    let proxy = pool([&node]).pool(&check).start();
    proxy.expect_told("evicted", "a");
    throughout(ms(600), "late answers never reinstate", || {
        proxy.told("reinstated", "a").is_empty()
    });
}

#[test]
fn checks_come_from_the_source_address_of_the_traffic() {
    let (node, answers) = (Node::named("a"), Answers::by("P"));
    let setup = pool([&node]).pool("connect: {source: 127.0.0.77}");
    let proxy = setup.pool(&checking(&answers, "")).start();
    expect_checks(&answers, 3);
    assert!(answers.sources().iter().all(|from| from.ip().to_string() == "127.0.0.77"));
    drop(proxy);
}

/// [HH-8] A backend that wants a PROXY header gets one from checks too: one that names nobody.
#[test]
fn checks_begin_with_the_header_that_traffic_has() {
    let signature = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let local = [&signature[..], &[0x20, 0, 0, 0]].concat();
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", local)] {
        let expected = header.clone();
        let backend = TestBackend::scripted(move |peer| {
            if peer.receive(expected.len()) == expected && peer.receive(1) == b"?" {
                let _ = peer.try_send("fine");
            }
        });
        let check = format!("health_check: {{{}, interval: 60ms, fall: 1}}", Answers::PROBE);
        let setup = crate::support::Setup::to([backend.address()]).pool(&check);
        let proxy = setup.pool(&format!("connect: {{send_proxy_protocol: {version}}}")).start();
        proxy.expect_line("1 check passed in a row");
        eventually(PATIENCE, "it goes on", || backend.accepted() >= 5);
        assert!(proxy.events().is_empty(), "{version}: {:?}", proxy.events());
    }
}

#[test]
fn the_health_port_of_a_backend_comes_before_the_port_of_the_check() {
    let (nodes, of_pool, of_backend) = (pair(), Answers::by("P"), Answers::by("P"));
    let own = format!("health_port: {}", of_backend.port());
    let setup = crate::support::Setup::to([nodes[0].entry(&own), nodes[1].entry("")]);
    let proxy = setup.pool(&checking(&of_pool, "")).start();
    expect_checks(&of_pool, 3);
    expect_checks(&of_backend, 3);
    assert_eq!((nodes[0].accepted(), nodes[1].accepted()), (0, 0), "checked elsewhere only");
    of_backend.go_on("F");
    proxy.expect_told("evicted", "a");
    assert_eq!(sequence(&proxy, 4), "bbbb");
}

/// [HH-8]
#[test]
fn checks_that_pass_leave_nothing_in_time_wait() {
    let node = Node::named("a");
    let check = "health_check: {interval: 10ms, fast_interval: 10ms, jitter: 0}";
    let mut proxy = pool([&node]).pool(check).start();
    eventually(PATIENCE, "sixty checks", || node.accepted() >= 60);
    let port: u16 = node.address().rsplit(':').next().unwrap().parse().unwrap();
    let of_checks =
        |socket: &procfs::Tcp| socket.remote.port() == port || socket.local.port() == port;
    let waiting = procfs::all_tcp(procfs::TIME_WAIT);
    let waiting = waiting.iter().filter(|socket| of_checks(socket)).count();
    assert_eq!(waiting, 0);
    // A hundred checks a second are not nothing to do: it need not show itself idle.
    proxy.signal(Signal::KILL);
    proxy.expect_exit(PATIENCE);
}

#[test]
fn failures_at_start_evict_and_run_no_action_nor_does_the_first_pass() {
    let (node, answers) = (Node::named("a"), Answers::by("F"));
    let scratch = crate::support::setup::Scratch::new();
    let ran = scratch.path().join("ran");
    let hook = format!("[{{exec: {{command: [touch, \"{}\"]}}}}]", ran.display());
    let setup = pool([&node]).pool(&checking(&answers, ", fall: 2, rise: 2"));
    let recovery = format!("recovery: {{on_evict: {hook}, on_pool_down: {hook}}}");
    let proxy = setup.pool(&recovery).start();
    let told = proxy.expect_told("evicted", "a");
    assert_eq!((told.cause.as_str(), told.more.as_str()), ("probe", "unknown -> unhealthy"));
    expect_checks(&answers, 4);
    assert!(!ran.exists(), "an action ran at start-up");
    answers.go_on("P");
    proxy.expect_told("reinstated", "a");
    answers.go_on("F");
    proxy.expect_told_again("evicted", "a", 2);
    eventually(PATIENCE, "the action ran", || ran.exists());
}

#[test]
fn an_unknown_backend_serves_until_one_of_its_priority_is_healthy() {
    let (nodes, silent, fine) = (pair(), Answers::by("S"), Answers::by("S"));
    let proxy = checked_pair(&nodes, [&silent, &fine], ", fall: 100").start();
    assert_eq!(sequence(&proxy, 4), "abab", "both unknown");
    fine.go_on("P");
    eventually(PATIENCE, "b is healthy", || sequence(&proxy, 2) == "bb");
    assert_eq!(sequence(&proxy, 6), "bbbbbb");
}

#[test]
fn a_disabled_backend_is_neither_checked_nor_used() {
    let (nodes, fine, answers) = (pair(), Answers::by("P"), Answers::by("P"));
    let keys = format!("disabled: true, health_port: {}", answers.port());
    let setup = crate::support::Setup::to([nodes[0].entry(&keys), nodes[1].entry("")]);
    let proxy = setup.pool(&checking(&fine, "")).start();
    expect_checks(&fine, 5);
    assert_eq!(sequence(&proxy, 6), "bbbbbb");
    assert_eq!((answers.asked(), nodes[0].accepted()), (0, 0));
}

#[test]
fn connections_of_an_evicted_backend_go_on_unless_they_are_to_be_closed() {
    for (keys, is_closed) in [("", false), ("evicted_connections: close", true)] {
        let (node, answers) = (Node::named("a"), Answers::by("P"));
        let mut setup = pool([&node]).pool(&checking(&answers, ", fall: 2"));
        if is_closed {
            setup = setup.pool(keys);
        }
        let proxy = setup.start();
        expect_checks(&answers, 1);
        let client = client_of(&proxy, "a");
        answers.go_on("F");
        proxy.expect_told("evicted", "a");
        if is_closed {
            client.expect_end(End::Fin);
            proxy.expect_ends(&["evicted"]);
        } else {
            pause(ms(50));
            client.expect_echo("still here");
            drop(client);
            proxy.expect_ends(&["client_closed"]);
        }
    }
}

/// [HH-1] Detection by refused checks: `fall` of them, the second and third soon after the first.
#[test]
fn a_killed_backend_is_evicted_within_its_bound_and_comes_back_within_its_own() {
    let nodes = pair();
    let timing = "interval: 400ms, fast_interval: 100ms, timeout: 300ms, jitter: 20";
    let setup = pool(&nodes).pool(&format!("health_check: {{{timing}, rise: 2, fall: 3}}"));
    let proxy = setup.start();
    eventually(PATIENCE, "checked", || nodes.iter().all(|node| node.accepted() > 0));
    let (mut away, mut back) = (Vec::new(), Vec::new());
    for round in 1..=5 {
        pause(Duration::from_millis(fastrand::u64(0..400)));
        nodes[0].kill();
        let start = Instant::now();
        proxy.expect_told_again("evicted", "a", round);
        away.push(start.elapsed());
        nodes[0].restart();
        let start = Instant::now();
        proxy.expect_told_again("reinstated", "a", round);
        back.push(start.elapsed());
    }
    // To the first failure an interval and its jitter, then two fast ones; back with one fast one. A
    // machine that is busy may be late once, and not in the middle of the five.
    for (mut times, bound) in [(away, ms(480 + 240)), (back, ms(480 + 120))] {
        times.sort_unstable();
        assert!(times[2] < bound + SLACK && times[4] < bound + 4 * SLACK, "{bound:?}: {times:?}");
    }
}

/// [HH-3] However often a file is read again in which nothing has changed.
#[test]
fn a_reload_that_changes_no_check_leaves_the_schedule_as_it_is() {
    let nodes = pair();
    let check = "health_check: {interval: 2s, fast_interval: 2s, jitter: 0}";
    let setup = pool(&nodes).pool(check);
    let proxy = setup.clone().start();
    eventually(PATIENCE, "both are checked", || nodes.iter().all(|node| node.accepted() > 0));
    let (before, start) = (nodes[0].accepted() + nodes[1].accepted(), Instant::now());
    for round in 1..=20 {
        std::fs::write(
            proxy.directory().join("tidegate.yaml"),
            setup.clone().runtime(&format!("shutdown_grace: {}s", 30 + round)).file(),
        )
        .unwrap();
        reload(&proxy, round);
        pause(ms(30));
    }
    let passed = start.elapsed();
    let more = nodes[0].accepted() + nodes[1].accepted() - before;
    let most = 2 * (passed.as_millis() as usize / 2000 + 1);
    assert!(more <= most, "{more} checks of two in {passed:?}, one every 2 s");
}

/// What says how connections are made says nothing about checks.
#[test]
fn failures_in_a_row_are_counted_over_reloads_that_change_no_check() {
    let nodes = pair();
    let check = "health_check: {interval: 300ms, fast_interval: 300ms, jitter: 0, fall: 4}";
    let setup = |round: usize| {
        let connect = format!("connect: {{timeout: {}ms, attempts: {round}}}", 1000 + round);
        pool(&nodes).pool(check).pool(&connect).pool("outlier_detection: off")
    };
    let proxy = setup(1).start();
    eventually(PATIENCE, "both are checked", || nodes.iter().all(|node| node.accepted() > 0));
    nodes[0].kill();
    // Reloads come more often than checks do.
    for round in 2..=60 {
        std::fs::write(proxy.directory().join("tidegate.yaml"), setup(round).file()).unwrap();
        reload(&proxy, round - 1);
        pause(ms(50));
        if !proxy.told("evicted", "a").is_empty() {
            return;
        }
    }
    panic!("never evicted");
}

/// Reads the file again, for the so manieth time.
fn reload(proxy: &crate::support::Proxy, time: usize) {
    proxy.signal(Signal::HUP);
    let told = || proxy.events().iter().filter(|event| event.kind == "reloaded").count();
    eventually(PATIENCE, "it is in force", || told() == time);
}
