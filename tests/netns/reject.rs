//! [HH-1, BF-2] Backends that the network takes away and gives back: by silence, by refusal, by resets
//! of what is open.

use std::time::{Duration, Instant};

use crate::hole::{counted, filter, nft};
use crate::support::{
    End, Node, PATIENCE, Proxy, SLACK, Setup, TestBackend, eventually, ms, pause,
};
use crate::{echo_on, entered, has};

const CHECK: &str = "health_check: {interval: 200ms, fast_interval: 100ms, timeout: 100ms, rise: 2, fall: 3, jitter: 20}";

/// From the loss to the eviction: an interval with its jitter, two fast ones, a timeout.
const DETECT: Duration = ms(240 + 2 * 120 + 100);

/// From the return to the reinstatement: an interval with its jitter, and a fast one.
const REINSTATE: Duration = ms(240 + 120);

fn name_of(proxy: &Proxy) -> String {
    let client = proxy.client();
    let mut name = [0; 1];
    let count = client.try_read(&mut name).unwrap_or(0);
    String::from_utf8(name[..count].to_vec()).unwrap()
}

/// Two nodes, of which the first is lost by these rules and comes back, over and over at a random
/// moment of its checks. Clients are not asked to find out: `outlier_detection` is off.
fn lost_and_found(rules: &str) {
    const ROUNDS: usize = 5;
    let nodes = ["a", "b"].map(Node::named);
    let keys = "outlier_detection: off, connect: {timeout: 300ms, hedge: off}";
    let setup = Setup::to(nodes.iter().map(|node| node.entry(""))).pool(CHECK).pool(keys);
    let proxy = setup.start();
    eventually(PATIENCE, "checked", || nodes.iter().all(|node| node.accepted() > 0));
    let address = nodes[0].address();
    let port = address.rsplit(':').next().unwrap();
    for round in 1..=ROUNDS {
        pause(Duration::from_millis(fastrand::u64(0..200)));
        filter("loss", &rules.replace("PORT", port));
        // From here on, for the program that sets it takes its time.
        let start = Instant::now();
        // Whoever comes before it is noticed is served by the other.
        assert_eq!(name_of(&proxy) + &name_of(&proxy), "bb");
        proxy.expect_told_again("evicted", "a", round);
        assert!(start.elapsed() < DETECT + SLACK, "{:?}", start.elapsed());
        pause(ms(10));
        let start = Instant::now();
        assert_eq!((0..10).map(|_| name_of(&proxy)).collect::<String>(), "b".repeat(10));
        assert!(start.elapsed() < ms(100) + SLACK, "nobody waits for it: {:?}", start.elapsed());
        nft("delete table inet loss");
        let start = Instant::now();
        let told = proxy.expect_told_again("reinstated", "a", round);
        assert!(start.elapsed() < REINSTATE + SLACK, "{:?}", start.elapsed());
        assert_eq!(told.evidence, "2 checks passed in a row");
        eventually(PATIENCE, "it serves", || name_of(&proxy) == "a");
    }
    let reasons = proxy.reasons();
    assert!(!reasons.contains_key("connect_failed"), "{reasons:?}");
}

#[test]
fn a_backend_whose_packets_are_dropped_is_evicted_and_comes_back() {
    let name =
        concat!(module_path!(), "::a_backend_whose_packets_are_dropped_is_evicted_and_comes_back");
    if has("nft", "-v") && entered(name) {
        lost_and_found("  tcp dport PORT drop\n");
    }
}

#[test]
fn a_backend_that_a_firewall_rejects_is_evicted_and_comes_back() {
    let name =
        concat!(module_path!(), "::a_backend_that_a_firewall_rejects_is_evicted_and_comes_back");
    if has("nft", "-v") && entered(name) {
        lost_and_found("  tcp dport PORT reject\n");
        lost_and_found("  tcp dport PORT reject with icmpx type admin-prohibited\n");
    }
}

#[test]
fn a_backend_whose_connects_are_reset_is_evicted_and_comes_back() {
    let name =
        concat!(module_path!(), "::a_backend_whose_connects_are_reset_is_evicted_and_comes_back");
    if has("nft", "-v") && entered(name) {
        lost_and_found("  tcp dport PORT reject with tcp reset\n");
    }
}

/// A firewall that resets what is open after its first byte: those connections are lost and blame
/// nobody, and those that come are served there as before.
#[test]
fn established_connections_that_the_network_resets_blame_nobody() {
    let name =
        concat!(module_path!(), "::established_connections_that_the_network_resets_blame_nobody");
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let backend = echo_on(9001);
    let keys = "outlier_detection: {consecutive_failures: 1, max_ejected_percent: 100}";
    let proxy = Setup::to([backend.address()]).pool(keys).pool(CHECK).start();
    for _ in 0..3 {
        let open: Vec<_> = (0..5).map(|_| proxy.client()).collect();
        open.iter().for_each(|client| client.expect_echo("open"));
        filter("cut", "  tcp dport 9001 tcp flags & (syn | ack) == ack reject with tcp reset\n");
        open.iter().for_each(|client| {
            client.send("x");
            client.expect_end(End::Reset);
        });
        nft("delete table inet cut");
        proxy.client().expect_echo("as before");
    }
    let told = proxy.events();
    assert!(told.iter().all(|event| event.cause != "outlier"), "{told:?}");
    assert_eq!(proxy.reasons().get("backend_reset"), Some(&15), "{:?}", proxy.reasons());
}

/// [BF-2] Once it is ejected nothing is sent there but its checks, which go elsewhere here.
#[test]
fn an_ejected_backend_in_a_black_hole_is_sent_not_one_packet() {
    let name =
        concat!(module_path!(), "::an_ejected_backend_in_a_black_hole_is_sent_not_one_packet");
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let backends: Vec<TestBackend> = [9001, 9002].map(echo_on).into();
    let setup = Setup::to(backends.iter().map(TestBackend::address));
    let keys = "connect: {hedge: off, timeout: 200ms}, outlier_detection: {base_ejection: 1m}";
    let proxy = setup.pool(keys).start();
    filter("hole", "  tcp dport 9001 drop\n");
    crate::support::at_once(8, |_| proxy.client().expect_echo("x"));
    proxy.expect_told("evicted", backends[0].address());
    // Whatever was under way has been given up by now.
    pause(ms(300));
    filter("watch", "  tcp dport 9001 counter\n");
    for _ in 0..50 {
        let start = Instant::now();
        proxy.client().expect_echo("x");
        assert!(start.elapsed() < ms(150) + SLACK, "{:?}", start.elapsed());
    }
    assert_eq!(counted("watch"), 0);
}
