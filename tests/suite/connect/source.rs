//! The address that connections to backends leave from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::support::{End, Setup, TestBackend, at_once};

/// How many connections came from which address.
fn sources(backend: &TestBackend) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for from in backend.sources() {
        *count.entry(from.ip().to_string()).or_default() += 1;
    }
    count
}

#[test]
fn one_source_address_is_used_for_all() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).pool("connect: {source: 127.0.0.2}").start();
    for _ in 0..3 {
        proxy.client().expect_echo("x");
    }
    assert_eq!(sources(&backend), BTreeMap::from([("127.0.0.2".into(), 3)]));
}

#[test]
fn a_list_of_source_addresses_is_used_in_turn() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()])
        .pool("connect: {source: [127.0.0.2, 127.0.0.3, 127.0.0.4]}")
        .start();
    at_once(3, |_| (0..10).for_each(|_| proxy.client().expect_echo("x")));
    let even = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|source| (source.into(), 10));
    assert_eq!(sources(&backend), BTreeMap::from(even));
}

#[test]
fn a_source_address_that_is_not_ours_is_passed_over() {
    let backend = TestBackend::echo();
    let proxy =
        Setup::to([backend.address()]).pool("connect: {source: [192.0.2.1, 127.0.0.2]}").start();
    for _ in 0..6 {
        proxy.client().expect_echo("x");
    }
    assert_eq!(sources(&backend), BTreeMap::from([("127.0.0.2".into(), 6)]));
}

#[test]
fn without_any_usable_source_address_it_is_a_local_error() {
    let backends = [TestBackend::echo(), TestBackend::echo()];
    let proxy = Setup::to(backends.each_ref().map(TestBackend::address))
        .pool("connect: {source: 192.0.2.1}")
        .start();
    proxy.client().expect_end(End::Reset);
    proxy.expect_ends(&["local_error"]);
}

#[test]
fn many_connections_may_leave_from_one_address() {
    // The port is chosen by the connection's four numbers, not reserved by a bind.
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).pool("connect: {source: 127.0.0.9}").start();
    let clients: Vec<_> = (0..200).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| client.expect_echo("x"));
    let here: IpAddr = [127, 0, 0, 9].into();
    assert!(backend.sources().iter().all(|source| source.ip() == here));
}
