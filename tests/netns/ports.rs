//! Few local ports: connections to oneself, and none left.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::netns::set_local_ports;
use crate::support::peer::Options;
use crate::support::{PATIENCE, Peer, Proxy, SLACK, Setup, at_once, eventually, ms};
use crate::{echo_on, entered, local};

const LISTEN: &str = "127.0.0.1:8000";

fn before(backend: &str, connect: &str) -> Setup {
    Setup::yaml(format!(
        "listeners: {{web: {{bind: \"{LISTEN}\", pool: app}}}}\n\
         pools: {{app: {{backends: [\"{backend}\"], connect: {connect}}}}}\n"
    ))
}

/// A client from an address and port that no connection of the proxy wants.
fn client(number: u16) -> Peer {
    let from = SocketAddr::from(([127, 0, 9, 9], 20_000 + number));
    let options = Options { from: Some(from), ..Options::default() };
    Peer::connect_with(LISTEN, options).unwrap()
}

/// Whether the client gets through to the echo, and after which time that is clear.
fn is_served(client: &Peer) -> (bool, Duration) {
    let start = Instant::now();
    let sent = client.try_send("x").is_ok();
    let served = sent && matches!(client.try_read(&mut [0; 8]), Ok(1));
    (served, start.elapsed())
}

fn count_lines(proxy: &Proxy, message: &str, reason: &str) -> usize {
    let lines = proxy.log().lines();
    let wanted = lines.iter().filter(|line| line.text().contains(message));
    wanted.filter(|line| line.field("reason").as_deref() == Some(reason)).count()
}

/// [BF-7] A connect to a free port of the local range can meet itself: TCP's simultaneous open.
#[test]
fn a_socket_connected_to_itself_is_refused_and_no_session() {
    const CONNECTS: usize = 10_000;
    if !entered(concat!(module_path!(), "::a_socket_connected_to_itself_is_refused_and_no_session")) {
        return;
    }
    set_local_ports(40_000, 40_009);
    let proxy = before("127.0.0.1:40004", "{attempts: 1}").start();
    let threads = 4;
    at_once(threads, |thread| {
        for i in 0..CONNECTS / threads {
            let number = u16::try_from(thread * 5_000 + i % 5_000).unwrap();
            assert!(!is_served(&client(number)).0, "nobody is there to answer");
        }
    });
    eventually(PATIENCE, "all have ended", || proxy.ended().len() >= CONNECTS);
    let ends = proxy.ended();
    assert_eq!(ends.len(), CONNECTS);
    assert!(ends.iter().all(|end| end.reason == "connect_failed"), "{ends:?}");
    assert_eq!(count_lines(&proxy, "connect failed", "refused"), CONNECTS);
}

/// [RX-3] The kernel has no port left: that is nobody's fault but this host's.
#[test]
fn a_client_without_a_port_ends_at_once_and_blames_no_backend() {
    if !entered(concat!(
        module_path!(),
        "::a_client_without_a_port_ends_at_once_and_blames_no_backend"
    )) {
        return;
    }
    let backend = echo_on(9000);
    let proxy = before(backend.address(), "{}").start();
    set_local_ports(40_000, 40_019);
    let clients: Vec<_> = (0..60).map(client).collect();
    let results: Vec<_> = clients.iter().map(is_served).collect();
    assert_eq!(results.iter().filter(|(served, _)| *served).count(), 20, "as many as ports");
    let slowest = results.iter().map(|(_, time)| *time).max().unwrap();
    assert!(slowest < ms(10) + SLACK, "{slowest:?}");
    proxy.expect_ends(&["local_error"; 40]);
    assert!(!proxy.log().lines().iter().any(|line| line.text().contains("connect failed")));

    drop(clients);
    let mut number = 100;
    eventually(PATIENCE, "ports are free again, and used", || {
        number += 1;
        is_served(&client(number)).0
    });
}

/// [RX-3] Every source address has ports of its own.
#[test]
fn three_source_addresses_have_three_times_the_ports() {
    if !entered(concat!(module_path!(), "::three_source_addresses_have_three_times_the_ports")) {
        return;
    }
    let backend = echo_on(9000);
    let sources = "{source: [127.0.0.2, 127.0.0.3, 127.0.0.4]}";
    let proxy = before(backend.address(), sources).start();
    set_local_ports(40_000, 40_019);
    let clients: Vec<_> = (0..60).map(client).collect();
    for client in &clients {
        let (served, time) = is_served(client);
        assert!(served && time < ms(10) + SLACK, "served: {served}, after {time:?}");
    }
    let one_more = client(60);
    assert!(!is_served(&one_more).0);
    proxy.expect_ends(&["local_error"]);
    let mut from: Vec<_> = backend.sources().iter().map(SocketAddr::ip).collect();
    from.sort_unstable();
    let each = from.chunk_by(|a, b| a == b).map(<[_]>::len).collect::<Vec<_>>();
    assert_eq!((each, local(0).ip() < from[0]), (vec![20; 3], true), "{from:?}");
}
