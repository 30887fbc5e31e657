//! Who may come, and how often.

use crate::support::{End, Peer, SLACK, Setup, TestBackend, eventually};

#[test]
fn deny_is_looked_at_before_allow() {
    let backend = TestBackend::echo();
    let rules = [
        ("deny: [127.0.0.1]", false),
        ("allow: [10.0.0.0/8]", false),
        ("allow: [127.0.0.0/8], deny: [\"127.0.0.1/32\"]", false),
        ("allow: [127.0.0.0/8], deny: [10.0.0.0/8]", true),
        ("allow: [unix]", false),
    ];
    for (rules, is_allowed) in rules {
        let proxy = Setup::to([backend.address()]).listener(rules).start();
        let client = proxy.client();
        if is_allowed {
            client.expect_echo("hello");
        } else {
            client.expect_end(End::Reset);
            proxy.expect_ends(&["denied"]);
        }
    }
}

#[test]
fn a_source_has_no_more_connections_than_it_may() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).listener("max_connections_per_source: 2").start();
    let inside: Vec<Peer> = (0..2).map(|_| proxy.client()).collect();
    inside.iter().for_each(|client| client.expect_echo("hello"));
    proxy.client().expect_end(End::Reset);
    drop(inside);
    eventually(SLACK, "both are over", || proxy.ended().len() == 3);
    proxy.client().expect_echo("again");
    proxy.expect_ends(&["client_closed", "client_closed", "source_limit", "client_closed"]);
}

#[test]
fn a_source_does_not_come_more_often_than_it_may() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).listener("connection_rate_per_source: 5/s").start();
    let clients: Vec<Peer> = (0..20).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| drop(client.try_send("?")));
    let served = clients.iter().filter(|c| c.try_read(&mut [0]).is_ok_and(|n| n == 1)).count();
    assert!((5..=8).contains(&served), "{served} got in");
    drop(clients);
    eventually(SLACK, "all are over", || proxy.ended().len() == 20);
    assert_eq!(proxy.reasons()["source_rate"], 20 - served);
}
