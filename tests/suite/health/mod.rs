//! Health, rotation, hot standby, what survives, and recovery: the real program on real sockets.
//!
//! Names in brackets are rows of the failure catalogue this was built by.

mod checks;
mod herd;
mod kinds;
mod passive;
mod recovery;
mod resume;
mod rotation;
mod standby;
mod survival;
mod switching;
mod told;

use std::collections::BTreeMap;

use crate::support::{Answers, Node, Peer, Proxy, Setup, eventually, ms};

/// Checks of this port that take a few milliseconds where nothing is wrong; with more keys.
fn checking(answers: &Answers, keys: &str) -> String {
    let probe = Answers::PROBE;
    let timing = "interval: 60ms, fast_interval: 30ms, timeout: 400ms, jitter: 0";
    format!("health_check: {{{probe}, port: {}, {timing}{keys}}}", answers.port())
}

/// A pool of these nodes, called by their names.
fn pool<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Setup {
    Setup::to(nodes.into_iter().map(|node| node.entry("")))
}

/// A hot standby of them.
fn standby<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Setup {
    pool(nodes).pool("strategy: hot_standby")
}

/// The node that a new client reaches; empty when none.
fn who(proxy: &Proxy) -> String {
    let client = proxy.client();
    let mut name = [0; 1];
    match client.try_read(&mut name) {
        Ok(1) => String::from_utf8(name.to_vec()).unwrap(),
        _ => String::new(),
    }
}

/// The nodes that so many clients reach, one after the other.
fn sequence(proxy: &Proxy, count: usize) -> String {
    (0..count).map(|_| who(proxy)).collect()
}

/// How many of so many clients reach which node.
fn tally(proxy: &Proxy, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    (0..count).for_each(|_| *tally.entry(who(proxy)).or_default() += 1);
    tally
}

/// A client that has reached this node, and stays.
#[track_caller]
fn client_of(proxy: &Proxy, name: &str) -> Peer {
    let client = proxy.client();
    client.expect(name);
    client
}

/// Waits until new clients reach this node.
#[track_caller]
fn expect_service_of(proxy: &Proxy, name: &str) {
    eventually(crate::support::PATIENCE, &format!("{name} serves"), || who(proxy) == name);
}

/// Waits for so many more checks.
#[track_caller]
fn expect_checks(answers: &Answers, more: usize) {
    let before = answers.asked();
    eventually(crate::support::PATIENCE, "checks go on", || answers.asked() >= before + more);
    // The last one is answered, and what it says is in force 10 ms later.
    crate::support::pause(ms(20));
}
