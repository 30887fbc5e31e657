//! Who may come, and how often.

use crate::support::setup::Scratch;
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

/// A client of IPv4 on a socket of both families comes as an address of IPv6.
#[test]
fn mapped_addresses_count_as_ipv4() {
    let backend = TestBackend::echo();
    let rules = [
        ("deny: [\"127.0.0.0/8\"]", false),
        ("deny: [\"::ffff:127.0.0.1\"]", false),
        ("allow: [\"::/0\"]", false),
        ("allow: [\"0.0.0.0/0\"]", true),
        ("allow: [\"127.0.0.1\"], deny: [\"::/0\"]", true),
    ];
    let header = "PROXY TCP6 ::ffff:127.0.0.1 ::1 1 2\r\n";
    for (rules, is_allowed) in rules {
        let proxy = Setup::to([backend.address()])
            .listener("accept_proxy_protocol: [127.0.0.1]")
            .listener(rules)
            .start();
        let client = proxy.client();
        client.send(header);
        if is_allowed {
            client.expect_echo("hello");
        } else {
            client.expect_end(End::Reset);
            proxy.expect_ends(&["denied"]);
        }
    }
}

#[test]
fn mapped_and_plain_are_one_source_and_so_is_a_64() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()])
        .listener("accept_proxy_protocol: [127.0.0.1], max_connections_per_source: 1")
        .start();
    let from = |source: &str| {
        let client = proxy.client();
        client.send(format!("PROXY {source} 1 2\r\n"));
        client
    };
    let kept = [
        from("TCP4 192.0.2.1 192.0.2.9"),
        from("TCP6 2001:db8::1 ::9"),
        from("TCP6 2001:db8:0:1::1 ::9"),
    ];
    kept.iter().for_each(|client| client.expect_echo("in"));
    from("TCP6 ::ffff:192.0.2.1 ::9").expect_end(End::Reset);
    from("TCP6 2001:db8::2 ::9").expect_end(End::Reset);
    proxy.expect_ends(&["source_limit", "source_limit"]);
}

#[test]
fn clients_of_a_unix_socket_are_unix_to_the_rules_and_have_no_source() {
    let backend = TestBackend::echo();
    let scratch = Scratch::new();
    let rules = [
        ("allow: [unix]", true),
        ("allow: [\"0.0.0.0/0\", \"::/0\"]", false),
        ("deny: [unix]", false),
        ("deny: [\"0.0.0.0/0\", \"::/0\"]", true),
        ("allow: [unix], deny: [unix]", false),
    ];
    for (number, (rules, is_allowed)) in rules.into_iter().enumerate() {
        let bind = format!("unix:{}/{number}", scratch.path().display());
        let proxy = Setup::yaml(format!(
            "listeners:\n  web: {{bind: \"{bind}\", {rules}, max_connections_per_source: 1, \
             pool: app}}\npools:\n  app: {{backends: [\"{}\"]}}\n",
            backend.address()
        ))
        .start();
        let clients = [Peer::connect(&bind), Peer::connect(&bind)];
        for client in clients {
            if is_allowed {
                client.expect_echo("hello");
            } else {
                client.expect_end(End::Fin);
            }
        }
        let end = if is_allowed { "client_closed" } else { "denied" };
        proxy.expect_ends(&[end; 2]);
    }
}
