//! Few local ports: connections to oneself, and none left.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use crate::support::netns::set_local_ports;
use crate::support::peer::{Options, is_reset};
use crate::support::{PATIENCE, Peer, Proxy, SLACK, Setup, at_once, eventually, ms};
use crate::{echo_on, entered, local};

const LISTEN: &str = "127.0.0.1:8000";

fn before(backend: &str, connect: &str) -> Setup {
    Setup::yaml(format!(
        "listeners: {{web: {{bind: \"{LISTEN}\", pool: app}}}}\n\
         pools: {{app: {{backends: [\"{backend}\"], connect: {connect}}}}}\n"
    ))
}

/// A client that is served, and stays; `None` when it is reset. Comes from an address and port that
/// no connection of the proxy wants.
fn served(number: u16) -> Option<Peer> {
    let from = SocketAddr::from(([127, 0, 9, 9], 20_000 + number));
    let options = Options { from: Some(from), ..Options::default() };
    let client = match Peer::connect_with(LISTEN, options) {
        Err(error) if is_reset(&error) => return None,
        client => client.unwrap(),
    };
    let echoed = client.try_send("x").and_then(|()| client.try_read(&mut [0; 8]));
    match echoed {
        Err(error) if is_reset(&error) => None,
        echoed => Some(client).filter(|_| echoed.unwrap() == 1),
    }
}

/// Tries clients of these numbers in turn; nobody waits long to be served or reset.
fn served_of(numbers: Range<u16>) -> Vec<Peer> {
    let at_once = |number| {
        let start = Instant::now();
        let client = served(number);
        assert!(start.elapsed() < ms(10) + SLACK, "{:?}", start.elapsed());
        client
    };
    numbers.filter_map(at_once).collect()
}

fn count_lines(proxy: &Proxy, message: &str, reason: &str) -> usize {
    let lines = proxy.log().lines();
    let wanted = lines.iter().filter(|line| line.text().contains(message));
    wanted.filter(|line| line.field("reason").as_deref() == Some(reason)).count()
}

/// [BF-7] A connect to a free port of the local range can meet itself: TCP's simultaneous open.
#[test]
fn a_socket_connected_to_itself_is_refused_and_no_session() {
    const ROUNDS: usize = 10;
    const THREADS: usize = 4;
    const EACH: usize = 250;
    const CONNECTS: usize = ROUNDS * THREADS * EACH;
    if !entered(concat!(module_path!(), "::a_socket_connected_to_itself_is_refused_and_no_session"))
    {
        return;
    }
    set_local_ports(40_000, 40_009);
    let proxy = before("127.0.0.1:40004", "{attempts: 1}").start();
    for round in 1..=ROUNDS {
        at_once(THREADS, |thread| {
            let numbers = u16::try_from(thread * EACH).unwrap()..;
            numbers.take(EACH).for_each(|number| assert!(served(number).is_none()));
        });
        // Two lines each; a log that cannot keep up would drop some.
        let lines = 2 * round * THREADS * EACH;
        eventually(PATIENCE, "it keeps up", || proxy.log().len() >= lines);
    }
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
    let clients = served_of(0..60);
    assert_eq!(clients.len(), 20, "as many as ports");
    proxy.expect_ends(&["local_error"; 40]);
    assert!(!proxy.log().lines().iter().any(|line| line.text().contains("connect failed")));

    drop(clients);
    let mut number = 100;
    eventually(PATIENCE, "ports are free again, and used", || {
        number += 1;
        served(number).is_some()
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
    let clients = served_of(0..61);
    assert_eq!(clients.len(), 60);
    proxy.expect_ends(&["local_error"]);
    let mut from: Vec<_> = backend.sources().iter().map(SocketAddr::ip).collect();
    from.sort_unstable();
    let each = from.chunk_by(|a, b| a == b).map(<[_]>::len).collect::<Vec<_>>();
    assert_eq!((each, local(0).ip() < from[0]), (vec![20; 3], true), "{from:?}");
}
