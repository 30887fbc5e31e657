//! [BF-2] Backends whose packets are dropped by the network.

use std::fmt::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{End, Peer, Proxy, SLACK, Setup, TestBackend, at_once, ms};
use crate::{echo_on, entered, has};

/// Three backends on ports 9001 to 9003, before them a pool with these keys of `connect`.
fn three_backends(connect: &str) -> (Vec<TestBackend>, Proxy) {
    let backends: Vec<_> = [9001, 9002, 9003].map(echo_on).into();
    let setup = Setup::to(backends.iter().map(TestBackend::address));
    let proxy = setup.pool(&format!("connect: {connect}")).start();
    (backends, proxy)
}

/// From now on no packet to these ports arrives, and none from them.
pub(crate) fn drop_packets(ports: &[u16]) {
    let mut rules = String::new();
    for port in ports {
        let _ = write!(rules, " tcp dport {port} drop\n tcp sport {port} drop\n");
    }
    filter("hole", &rules);
}

/// A table of rules for packets that arrive; another of this name is replaced.
pub(crate) fn filter(table: &str, rules: &str) {
    let chain = format!("chain in {{\n type filter hook input priority 0\n{rules} }}\n");
    nft(&format!("table inet {table} {{}}\ndelete table inet {table}\n"));
    nft(&format!("table inet {table} {{\n {chain}}}\n"));
}

/// Runs these commands.
pub(crate) fn nft(commands: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut nft.stdin.take().unwrap(), commands.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{commands}");
}

/// How many packets a rule with `counter` has seen in this table; one rule has one.
pub(crate) fn counted(table: &str) -> u64 {
    let output = Command::new("nft").args(["list", "table", "inet", table]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("counter packets ").unwrap_or_else(|| panic!("{text}"));
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// The time a new client waits for its echo.
fn time_to_echo(proxy: &Proxy) -> Duration {
    let start = Instant::now();
    proxy.client().expect_echo("x");
    start.elapsed()
}

#[test]
fn a_hedge_saves_clients_from_a_backend_whose_packets_are_dropped() {
    let name =
        concat!(module_path!(), "::a_hedge_saves_clients_from_a_backend_whose_packets_are_dropped");
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let (backends, proxy) = three_backends("{hedge: 250ms}");
    drop_packets(&[9002]);
    let times = at_once(30, |_| time_to_echo(&proxy));
    let slowest = times.iter().max().unwrap();
    assert!(*slowest < ms(300) + SLACK, "{slowest:?}");
    let late = times.iter().filter(|time| **time >= ms(200)).count();
    assert!((5..=15).contains(&late), "about a third meets the hole: {times:?}");
    assert_eq!(backends[1].accepted(), 0);
}

#[test]
fn without_a_hedge_the_timeout_of_one_attempt_bounds_the_wait() {
    let name =
        concat!(module_path!(), "::without_a_hedge_the_timeout_of_one_attempt_bounds_the_wait");
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let (_backends, proxy) = three_backends("{hedge: off, timeout: 400ms}");
    drop_packets(&[9002]);
    let times = at_once(30, |_| time_to_echo(&proxy));
    let slowest = times.iter().max().unwrap();
    assert!(*slowest >= ms(400) && *slowest < ms(450) + SLACK, "{slowest:?}");
}

#[test]
fn when_all_packets_are_dropped_attempts_times_timeout_bound_the_wait() {
    let name = concat!(
        module_path!(),
        "::when_all_packets_are_dropped_attempts_times_timeout_bound_the_wait"
    );
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let (_backends, proxy) = three_backends("{hedge: off, timeout: 200ms, attempts: 2}");
    drop_packets(&[9001, 9002, 9003]);
    let client: Peer = proxy.client();
    let waited = client.time_to_end(End::Reset);
    assert!(waited >= ms(390) && waited < ms(400) + SLACK, "{waited:?}");
    proxy.expect_ends(&["connect_failed"]);
}
