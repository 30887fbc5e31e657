//! Backends that do not answer a SYN: hedges, timeouts, the deadline, impatient clients.

use std::time::{Duration, Instant};

use crate::support::procfs::{SYN_SENT, tcp_sockets};
use crate::support::{
    BlackHole, End, PATIENCE, Proxy, SLACK, Setup, TestBackend, eventually, ms, pause, throughout,
};

/// A pool that tries its backends in the order given.
fn in_order(backends: &[&str], connect: &str) -> Setup {
    Setup::to(backends).pool("strategy: first_available").pool(&format!("connect: {connect}"))
}

#[track_caller]
fn assert_between(time: Duration, least: Duration, most: Duration) {
    assert!(least <= time && time < most + SLACK, "took {time:?}, not {least:?} to {most:?}");
}

/// Time until a new client has its first byte back.
fn time_to_echo(proxy: &Proxy) -> Duration {
    let start = Instant::now();
    proxy.client().expect_echo("hello");
    start.elapsed()
}

#[test]
fn a_silent_backend_is_hedged_by_another() {
    let (hole, up) = (BlackHole::new(), TestBackend::echo());
    let connect = "{hedge: 100ms, timeout: 8s, deadline: 9s}";
    let proxy = in_order(&[&hole.address(), up.address()], connect).start();
    for _ in 0..5 {
        let start = Instant::now();
        let client = proxy.client();
        client.expect_echo("hello");
        assert_between(start.elapsed(), ms(80), ms(100));
        // The attempt that lost is given up at once, not left to its timeout.
        eventually(SLACK, "no dial is left", || hole.dials_of(proxy.pid()) == 0);
        client.expect_echo("and the winner lives");
    }
    assert_eq!(up.accepted(), 5);
    proxy.expect_ends(&["client_closed"; 5]);
}

#[test]
fn a_hedge_does_not_stop_the_first_attempt() {
    let (first, second) = (BlackHole::new(), BlackHole::new());
    let addresses = [first.address(), second.address()];
    let connect = "{hedge: 100ms, timeout: 8s, deadline: 9s}";
    let proxy = in_order(&[&addresses[0], &addresses[1]], connect).start();
    let client = proxy.client();
    let pid = proxy.pid();
    eventually(PATIENCE, "both are tried", || {
        first.dials_of(pid) == 1 && second.dials_of(pid) == 1
    });
    // The kernel sends its SYN again after a second: the first attempt wins after all.
    let first = first.open();
    let server = first.accept();
    client.send("?");
    server.expect("?");
    eventually(SLACK, "the hedge is given up", || second.dials_of(pid) == 0);
    drop(server);
    client.expect_end(End::Fin);
    drop(client);
    proxy.expect_ends(&["backend_closed"]);
    assert_eq!(proxy.ended()[0].backend.as_ref(), Some(&addresses[0]));
}

#[test]
fn a_hedge_that_comes_too_late_is_reset() {
    // Both answer the same SYN retransmission; one connection is kept, the other is cut.
    let (first, second) = (BlackHole::new(), BlackHole::new());
    let connect = "{hedge: 20ms, timeout: 8s, deadline: 9s}";
    let proxy = in_order(&[&first.address(), &second.address()], connect).start();
    let client = proxy.client();
    let pid = proxy.pid();
    eventually(PATIENCE, "both are tried", || first.dials_of(pid) + second.dials_of(pid) == 2);
    let (_first, _second) = (first.open(), second.open());
    // The client's own socket and the winner's.
    eventually(Duration::from_secs(3), "one of two is left", || proxy.extra_sockets() == 2);
    assert!(tcp_sockets(pid, Some(SYN_SENT)).is_empty());
    drop(client);
}

#[test]
fn without_hedging_the_next_backend_is_tried_after_the_timeout() {
    let (hole, up) = (BlackHole::new(), TestBackend::echo());
    for off in ["off", "\"off\""] {
        let connect = format!("{{hedge: {off}, timeout: 500ms}}");
        let proxy = in_order(&[&hole.address(), up.address()], &connect).start();
        assert_between(time_to_echo(&proxy), ms(450), ms(550));
        assert_eq!(hole.dials_of(proxy.pid()), 0);
    }
}

#[test]
fn a_hedge_counts_as_an_attempt() {
    let (hole, up) = (BlackHole::new(), TestBackend::echo());
    let connect = "{hedge: 50ms, timeout: 400ms, attempts: 1}";
    let proxy = in_order(&[&hole.address(), up.address()], connect).start();
    assert_between(proxy.client().time_to_end(End::Reset), ms(360), ms(440));
    assert_eq!(up.accepted(), 0);
    proxy.expect_ends(&["connect_failed"]);
}

#[test]
fn a_silent_single_backend_fails_after_the_timeout() {
    let hole = BlackHole::new();
    let proxy = in_order(&[&hole.address()], "{timeout: 1s, hedge: 100ms}").start();
    assert_between(proxy.client().time_to_end(End::Reset), ms(900), ms(1_100));
    assert_eq!(hole.dials_of(proxy.pid()), 0);
    proxy.expect_ends(&["connect_failed"]);
}

#[test]
fn the_deadline_ends_all_attempts_together() {
    let holes = [BlackHole::new(), BlackHole::new(), BlackHole::new()];
    let addresses: Vec<_> = holes.iter().map(BlackHole::address).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let connect = "{hedge: off, timeout: 700ms, deadline: 1s}";
    let proxy = in_order(&addresses, connect).start();
    assert_between(proxy.client().time_to_end(End::Reset), ms(900), ms(1_100));
    proxy.expect_ends(&["connect_failed"]);
}

#[test]
fn a_client_that_resets_while_it_waits_takes_its_attempt_along() {
    let hole = BlackHole::new();
    let proxy = in_order(&[&hole.address()], "{timeout: 8s, deadline: 9s}").start();
    let client = proxy.client();
    eventually(PATIENCE, "it is dialled", || hole.dials_of(proxy.pid()) == 1);
    client.reset();
    eventually(SLACK, "it is given up", || hole.dials_of(proxy.pid()) == 0);
    proxy.expect_ends(&["client_reset"]);
}

#[test]
fn a_client_that_ends_while_it_waits_is_still_connected() {
    let hole = BlackHole::new();
    let proxy = in_order(&[&hole.address()], "{timeout: 8s, deadline: 9s}").start();
    let client = proxy.client();
    client.send("a question");
    client.fin();
    let pid = proxy.pid();
    eventually(PATIENCE, "it is dialled", || hole.dials_of(pid) == 1);
    throughout(ms(200), "the dial goes on", || hole.dials_of(pid) == 1);
    let server = hole.open().accept();
    assert_eq!(server.receive_all(), (b"a question".to_vec(), End::Fin));
    server.send("an answer");
    drop(server);
    assert_eq!(client.receive_all(), (b"an answer".to_vec(), End::Fin));
    proxy.expect_ends(&["client_closed"]);
}

#[test]
fn waiting_for_a_backend_uses_no_processor() {
    let hole = BlackHole::new();
    let proxy = in_order(&[&hole.address()], "{timeout: 2s, deadline: 2s}").start();
    let waiting: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    // Bytes and an end that wait for a backend must not be polled for ever.
    for client in &waiting {
        client.send("impatient");
        client.fin();
    }
    eventually(PATIENCE, "all are dialled", || proxy.extra_sockets() == 40);
    pause(ms(20));
    let share = proxy.processor_share(ms(300));
    assert!(share < 0.05, "uses {share} of a core");
    waiting.iter().for_each(|client| client.expect_end(End::Reset));
    proxy.expect_ends(&["connect_failed"; 20]);
}
