//! [HH-5, BF-1, BF-3, BF-6] Passive detection: what becomes of real connections.

use std::time::{Duration, Instant};

use super::{client_of, expect_service_of, pool, sequence, tally, who};
use crate::support::{
    End, Mode, Node, PATIENCE, Proxy, SLACK, Setup, at_once, eventually, ms, pause, throughout,
};

fn trio() -> [Node; 3] {
    ["a", "b", "c"].map(Node::named)
}

/// A pool that ejects for so long at first.
fn ejecting(nodes: &[Node], keys: &str) -> Setup {
    pool(nodes).pool(&format!("outlier_detection: {{{keys}}}"))
}

#[test]
fn three_refusals_in_a_row_eject_and_no_client_notices() {
    let nodes = trio();
    let proxy = pool(&nodes).start();
    assert_eq!(sequence(&proxy, 3), "abc");
    nodes[0].kill();
    let served = sequence(&proxy, 12);
    assert!(!served.contains('a') && served.len() == 12, "{served}");
    let told = proxy.expect_told("evicted", "a");
    assert_eq!((told.cause.as_str(), told.more.as_str()), ("outlier", "healthy -> ejected"));
    assert_eq!(told.evidence, "3 connections failed in a row: refused");
    let refused =
        || proxy.log().lines().iter().filter(|l| l.text().contains("connect failed")).count();
    // As many as it takes, and those that came while it was being decided.
    assert!((3..=6).contains(&refused()), "{} of 12", refused());
}

/// [BF-1]
#[test]
fn a_backend_killed_under_load_cuts_its_own_clients_and_no_new_one_fails() {
    let nodes = trio();
    let proxy = pool(&nodes).start();
    let clients: Vec<_> = (0..90).map(|_| proxy.client()).collect();
    let names: Vec<_> = clients.iter().map(|client| client.receive(1)).collect();
    nodes[0].kill();
    let start = Instant::now();
    at_once(4, |_| (0..50).for_each(|_| assert_ne!(who(&proxy), "")));
    for (client, name) in clients.iter().zip(&names) {
        if name == b"a" {
            client.expect_end(End::Reset);
        } else {
            client.expect_echo("unharmed");
        }
    }
    assert!(start.elapsed() < PATIENCE);
    proxy.expect_told("evicted", "a");
}

#[test]
fn a_connection_that_is_served_between_failures_ends_the_row() {
    let nodes = [Node::named("a")];
    // One thread: two may disagree for a moment on which of two events came first.
    let setup = ejecting(&nodes, "consecutive_failures: 3, max_ejected_percent: 100");
    let proxy = setup.threads(1).start();
    for round in 0..5 {
        nodes[0].set(Mode::Resets);
        for failure in 1..=2 {
            let client = proxy.client();
            client.send("x");
            client.expect_end(End::Reset);
            // Judged on the thread that served it: before the next one begins.
            eventually(PATIENCE, "it has ended", || {
                proxy.reasons().get("backend_reset") == Some(&(2 * round + failure))
            });
        }
        nodes[0].set(Mode::Greets);
        expect_service_of(&proxy, "a");
    }
    assert!(proxy.told("evicted", "a").is_empty());
}

#[test]
fn resets_before_the_first_byte_eject() {
    let nodes = trio();
    let proxy = ejecting(&nodes, "consecutive_failures: 3").start();
    nodes[1].set(Mode::Resets);
    for _ in 0..9 {
        let client = proxy.client();
        let _ = client.try_send("x");
        let _ = client.receive_all_within(ms(30));
    }
    let told = proxy.expect_told("evicted", "b");
    assert!(told.evidence.ends_with("reset before the first byte"), "{told:?}");
}

#[test]
fn a_reset_after_the_first_byte_is_no_failure() {
    let cutting = crate::support::TestBackend::scripted(|peer| {
        let _ = peer.try_send("hello");
        pause(ms(20));
        peer.reset();
    });
    let proxy = Setup::to([cutting.address()])
        .pool("outlier_detection: {max_ejected_percent: 100}")
        .start();
    for _ in 0..8 {
        let (bytes, end) = proxy.client().receive_all();
        assert_eq!((bytes.as_slice(), end), (b"hello".as_slice(), End::Reset));
    }
    assert!(proxy.events().is_empty(), "{:?}", proxy.events());
}

/// An ejection doubles with each trial that fails, within a fifth; one connection is the trial.
#[test]
fn an_ejection_doubles_until_a_trial_passes() {
    let nodes = [Node::dead("a"), Node::named("b")];
    let proxy = ejecting(&nodes, "base_ejection: 300ms, max_ejection: 1s").start();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    proxy.expect_told("evicted", "a");
    let tries = |proxy: &Proxy| {
        let lines = proxy.log().lines();
        lines.iter().filter(|line| line.text().contains("connect failed")).count()
    };
    let mut begun = Instant::now();
    let mut lengths = Vec::new();
    // One more may have been under way when the third had failed.
    let mut known = tries(&proxy);
    assert!((3..=4).contains(&known), "{known}");
    while lengths.len() < 4 {
        assert_eq!(who(&proxy), "b");
        if tries(&proxy) > known {
            known += 1;
            assert_eq!(tries(&proxy), known, "one trial at a time");
            lengths.push(begun.elapsed());
            begun = Instant::now();
        }
        pause(ms(4));
    }
    let nominal = [300, 600, 1000, 1000];
    for (length, nominal) in lengths.iter().zip(nominal) {
        let (least, most) = (ms(nominal * 8 / 10 - 20), ms(nominal * 12 / 10) + SLACK);
        assert!(*length >= least && *length < most, "{lengths:?}");
    }
    assert_eq!(proxy.told("evicted", "a").len(), 1, "a trial that fails is no eviction");

    nodes[0].restart();
    eventually(PATIENCE, "the trial passes", || who(&proxy) == "a");
    let told = proxy.expect_told("reinstated", "a");
    assert_eq!((told.cause.as_str(), told.more.as_str()), ("outlier", "ejected -> healthy"));
    assert_eq!(told.evidence, "the trial after the ejection passed");
    eventually(PATIENCE, "both serve again", || tally(&proxy, 4).get("a") == Some(&2));
}

/// A pool whose `a` has been ejected, is back and echoes, with `b` as another one if there is one.
fn after_an_ejection<const N: usize>(names: [&'static str; N]) -> ([Node; N], Proxy) {
    let nodes = names.map(Node::named);
    let keys = "max_ejected_percent: 100, base_ejection: 150ms, max_ejection: 150ms";
    let proxy = ejecting(&nodes, keys).start();
    nodes[0].kill();
    (0..4 * N).for_each(|_| drop(who(&proxy)));
    proxy.expect_told("evicted", "a");
    nodes.iter().for_each(|node| node.set(Mode::Echoes));
    nodes[0].restart();
    (nodes, proxy)
}

#[test]
fn a_silent_client_that_is_the_trial_of_the_last_backend_keeps_nobody_out() {
    let (nodes, proxy) = after_an_ejection(["a"]);
    let mut silent = None;
    eventually(PATIENCE, "a client is the trial", || {
        silent = Some(proxy.client());
        pause(ms(2));
        nodes[0].accepted() > 0
    });
    let client = proxy.client();
    client.expect_echo("not shut out");
    proxy.expect_told("reinstated", "a");
    silent.unwrap().expect_echo("nor is this one");
}

#[test]
fn a_trial_that_a_silent_client_leaves_open_is_given_to_another() {
    let (nodes, proxy) = after_an_ejection(["a", "b"]);
    let mut silent = Vec::new();
    eventually(PATIENCE, "one is the trial", || {
        silent.push(proxy.client());
        pause(ms(2));
        nodes[0].accepted() > 0
    });
    eventually(PATIENCE, "a serves again", || {
        proxy.client().expect_echo("x");
        !proxy.told("reinstated", "a").is_empty()
    });
    silent.iter().for_each(|client| client.expect_echo("still here"));
}

/// [HH-5] Sixty percent fail traffic; half may be ejected.
#[test]
fn no_more_are_ejected_than_the_limit_allows() {
    let nodes = ["a", "b", "c", "d", "e"].map(Node::named);
    let proxy = ejecting(&nodes, "max_ejected_percent: 40, base_ejection: 1m");
    // Three of the five may be met before one that answers.
    let proxy = proxy.pool("connect: {attempts: 5}").start();
    // There are to be more retries than clients for a while, and no more than clients in all.
    let _ = sequence(&proxy, 40);
    nodes[..3].iter().for_each(Node::kill);
    for _ in 0..60 {
        let name = who(&proxy);
        assert!("de".contains(&name) && !name.is_empty(), "{name:?}");
    }
    eventually(PATIENCE, "two are ejected", || proxy.events().len() == 2);
    throughout(ms(200), "two of five are all", || {
        let _ = who(&proxy);
        proxy.events().len() == 2
    });
}

#[test]
fn zero_percent_never_ejects_and_the_last_usable_one_stays() {
    for keys in ["max_ejected_percent: 0", "max_ejected_percent: 50"] {
        let nodes = [Node::dead("a")];
        let proxy = ejecting(&nodes, keys).start();
        (0..10).for_each(|_| assert_eq!(who(&proxy), ""));
        assert!(proxy.events().is_empty());
        nodes[0].restart();
        assert_eq!(who(&proxy), "a");
    }
}

#[test]
fn a_hundred_percent_may_eject_all() {
    let nodes = [Node::dead("a"), Node::dead("b")];
    let proxy = ejecting(&nodes, "max_ejected_percent: 100, base_ejection: 1m").start();
    (0..10).for_each(|_| assert_eq!(who(&proxy), ""));
    proxy.expect_told("evicted", "a");
    proxy.expect_told("evicted", "b");
    eventually(PATIENCE, "nobody is left", || {
        who(&proxy).is_empty() && proxy.reasons().contains_key("no_backend")
    });
}

#[test]
fn switched_off_nothing_is_ever_ejected() {
    let nodes = [Node::dead("a"), Node::named("b")];
    let proxy = pool(&nodes).pool("outlier_detection: off").start();
    assert_eq!(sequence(&proxy, 40), "b".repeat(40));
    assert!(proxy.events().is_empty());
}

/// [BF-3] A process that is frozen: its kernel accepts and nothing answers.
#[test]
fn a_backend_that_accepts_and_never_answers_is_ejected_by_first_byte() {
    let nodes = trio();
    let proxy = ejecting(&nodes, "first_byte: 150ms, base_ejection: 1m").start();
    nodes[0].set(Mode::Silent);
    let ask = |_| {
        let client = proxy.client();
        client.send("hello");
        client
    };
    let waiting: Vec<_> = (0..9).map(ask).collect();
    let start = Instant::now();
    let told = proxy.expect_told("evicted", "a");
    assert!(start.elapsed() < ms(150) + SLACK, "{:?}", start.elapsed());
    assert_eq!(told.evidence, "3 connections failed in a row: no first byte within 150ms");
    assert!(!sequence(&proxy, 12).contains('a'));
    drop(waiting);
}

/// Connections from before an ejection show by their silence how the backend fares now.
#[test]
fn a_silence_counts_from_what_the_client_said_and_not_from_when_it_came() {
    let nodes = [Node::named("a"), Node::named("b")];
    nodes[0].set(Mode::Silent);
    // One thread: they take turns in the order in which they came.
    let setup = ejecting(&nodes, "first_byte: 100ms, base_ejection: 150ms").threads(1);
    let proxy = setup.start();
    let clients: Vec<_> = (0..12).map(|_| proxy.client()).collect();
    eventually(PATIENCE, "half are there", || nodes[0].accepted() == 6);
    // Three of the six get it ejected, and it comes back.
    clients[..6].iter().for_each(|client| client.send("hello"));
    proxy.expect_told("evicted", "a");
    nodes[0].set(Mode::Greets);
    eventually(PATIENCE, "a is back", || {
        let _ = who(&proxy);
        !proxy.told("reinstated", "a").is_empty()
    });
    clients[6..].iter().for_each(|client| client.send("hello"));
    eventually(PATIENCE, "ejected again", || proxy.told("evicted", "a").len() == 2);
}

/// [BF-3] Connections stay open at a frozen one, so it seems the least loaded no longer; and its limit
/// holds whatever the strategy thinks of it.
#[test]
fn least_connections_piles_no_more_on_a_frozen_backend_than_its_share_and_its_limit() {
    let nodes = [Node::named("a"), Node::named("b")];
    let entry = |node: &Node| node.entry("max_connections: 5");
    let keys = "strategy: least_connections, outlier_detection: off";
    let proxy = Setup::to(nodes.iter().map(entry)).pool(keys).start();
    nodes[0].set(Mode::Silent);
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for count in 1..=10 {
        let client = proxy.client();
        eventually(PATIENCE, "it is somewhere", || {
            nodes[0].accepted() + nodes[1].accepted() == count
        });
        if nodes[0].accepted() > at_a.len() { at_a.push(client) } else { at_b.push(client) }
    }
    assert_eq!((at_a.len(), at_b.len()), (5, 5));
    // Whoever comes now is served by nobody, not on a sixth place.
    assert_eq!(who(&proxy), "");
    proxy.expect_ends(&["queue_full"]);
    drop(at_b);
    eventually(PATIENCE, "b is empty", || proxy.ended().len() == 6);
    assert_eq!(sequence(&proxy, 20), "b".repeat(20), "nobody joins the five that hang");
    assert_eq!(nodes[0].accepted(), 5);
}

/// What is waited for is the answer to what the client has said: who says nothing waits for nothing.
#[test]
fn a_client_that_is_silent_itself_blames_nobody() {
    let nodes = [Node::named("a")];
    nodes[0].set(Mode::Silent);
    let proxy = ejecting(&nodes, "first_byte: 60ms, max_ejected_percent: 100").start();
    let clients: Vec<_> = (0..5).map(|_| proxy.client()).collect();
    throughout(ms(400), "silence of both sides", || proxy.events().is_empty());
    drop(clients);
}

#[test]
fn idle_expiry_never_counts() {
    let nodes = [Node::named("a")];
    nodes[0].set(Mode::Silent);
    let setup = ejecting(&nodes, "consecutive_failures: 1, max_ejected_percent: 100");
    let proxy = setup.listener("timeouts: {idle: 100ms}").start();
    let clients: Vec<_> = (0..6).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| client.send("hello"));
    clients.iter().for_each(|client| client.expect_end(End::Fin));
    proxy.expect_ends(&["idle_timeout"; 6]);
    assert!(proxy.events().is_empty());
}

#[test]
fn clients_that_go_away_before_an_answer_never_count() {
    let nodes = [Node::named("a")];
    nodes[0].set(Mode::Silent);
    let proxy = ejecting(&nodes, "consecutive_failures: 1, max_ejected_percent: 100").start();
    for _ in 0..6 {
        let client = proxy.client();
        client.send("hello");
        client.reset();
    }
    eventually(PATIENCE, "all end", || proxy.ended().len() == 6);
    assert!(proxy.events().is_empty());
}

/// [BF-6] No descriptor left: nobody's fault but this host's.
#[test]
fn what_this_host_lacks_never_counts() {
    let nodes = [Node::named("a"), Node::named("b")];
    let keys = "consecutive_failures: 1, max_ejected_percent: 100";
    let proxy = ejecting(&nodes, keys).start();
    for _ in 0..8 {
        // One for the client, none for the backend.
        proxy.leave_descriptors(1);
        proxy.client().expect_end(End::Reset);
        proxy.leave_all_descriptors();
    }
    proxy.expect_ends(&["local_error"; 8]);
    assert!(proxy.events().is_empty());
    assert_ne!(who(&proxy), "");
}

/// [BF-6]
#[test]
fn a_source_address_that_is_not_here_never_counts() {
    let nodes = [Node::named("a"), Node::named("b")];
    let keys = "consecutive_failures: 1, max_ejected_percent: 100";
    let proxy = ejecting(&nodes, keys).pool("connect: {source: 192.0.2.7}").start();
    (0..6).for_each(|_| assert_eq!(who(&proxy), ""));
    proxy.expect_ends(&["local_error"; 6]);
    assert!(proxy.events().is_empty());
}

/// [BF-6] Packets that nobody answers.
#[test]
fn connects_that_time_out_eject() {
    let (hole, node) = (crate::support::BlackHole::new(), Node::named("b"));
    let proxy = Setup::to([format!("\"{}\"", hole.address()).trim_matches('"'), &node.entry("")])
        .pool("connect: {hedge: off, timeout: 100ms}, outlier_detection: {base_ejection: 1m}")
        .start();
    at_once(6, |_| assert_eq!(who(&proxy), "b"));
    let told = proxy.expect_told("evicted", &hole.address());
    assert_eq!(told.evidence, "3 connections failed in a row: timed out");
    let start = Instant::now();
    assert_eq!(sequence(&proxy, 6), "bbbbbb");
    assert!(start.elapsed() < ms(90) + SLACK, "nobody waits any more");
    assert_eq!(hole.dials_of(proxy.pid()), 0);
}

/// Ejected by traffic, `unhealthy` by checks: the checks that saw it go decide when it is back.
#[test]
fn checks_that_saw_a_backend_go_reinstate_it_before_its_ejection_is_over() {
    let nodes = [Node::named("a"), Node::named("b")];
    let check = "health_check: {interval: 100ms, fast_interval: 50ms, timeout: 100ms}";
    let keys = "base_ejection: 1h, max_ejection: 1h";
    let proxy = ejecting(&nodes, keys).pool(check).start();
    expect_service_of(&proxy, "a");
    nodes[0].kill();
    (0..8).for_each(|_| assert_eq!(who(&proxy), "b"));
    let told = proxy.expect_told("evicted", "a");
    if told.cause == "outlier" {
        proxy.expect_line("\"to\":\"unhealthy\"");
    }
    nodes[0].restart();
    let told = proxy.expect_told("reinstated", "a");
    assert_eq!(told.cause, "probe");
    assert_eq!(proxy.told("evicted", "a").len(), 1, "out once, back once");
}

/// Passes of checks do not end an ejection: what fails connections may pass checks.
#[test]
fn checks_that_pass_all_the_time_do_not_end_an_ejection() {
    let nodes = [Node::named("a"), Node::named("b")];
    let check = "health_check: {interval: 40ms, fast_interval: 20ms, timeout: 40ms}";
    let keys = "base_ejection: 800ms, first_byte: 50ms";
    let proxy = ejecting(&nodes, keys).pool(check).start();
    expect_service_of(&proxy, "a");
    nodes[0].set(Mode::Silent);
    let silent: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    silent.iter().for_each(|client| client.send("x"));
    proxy.expect_told("evicted", "a");
    drop(silent);
    nodes[0].set(Mode::Greets);
    let start = Instant::now();
    eventually(PATIENCE, "back", || who(&proxy) == "a");
    assert!(start.elapsed() > ms(500), "{:?}", start.elapsed());
    assert_eq!(proxy.expect_told("reinstated", "a").cause, "outlier");
}

/// The trial is one connection: while it is open and says nothing, nobody else is sent there.
#[test]
fn only_one_connection_at_a_time_is_the_trial() {
    let nodes = [Node::dead("a"), Node::named("b")];
    let proxy = ejecting(&nodes, "base_ejection: 200ms, first_byte: 5s").start();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    proxy.expect_told("evicted", "a");
    nodes[0].set(Mode::Silent);
    nodes[0].restart();
    let mut clients = Vec::new();
    eventually(PATIENCE, "the trial is under way", || {
        clients.push(proxy.client());
        pause(ms(2));
        nodes[0].accepted() == 1
    });
    assert_eq!(sequence(&proxy, 20), "b".repeat(20));
    assert_eq!(nodes[0].accepted(), 1);
    // It ends without a word: the next one is the trial.
    nodes[0].set(Mode::Greets);
    drop(clients);
    eventually(PATIENCE, "another is", || who(&proxy) == "a");
    let _ = client_of(&proxy, "b");
    assert!(Duration::ZERO < PATIENCE);
}
