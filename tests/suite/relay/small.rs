//! DI-7 to DI-9: who speaks first, sessions without a byte, small messages.

use std::time::{Duration, Instant};

use crate::support::{End, Proxy, TestBackend, at_once, eventually, median, ms};

#[test]
fn a_server_that_speaks_first_is_heard_within_50_ms() {
    let backend = TestBackend::named("220 ready\r\n");
    let proxy = Proxy::before(&backend);
    let times = (0..20).map(|_| {
        let start = Instant::now();
        proxy.client().expect("220 ready\r\n");
        start.elapsed()
    });
    let time = median(times.collect());
    assert!(time < ms(50), "took {time:?}");
}

#[test]
fn a_client_that_ends_at_once_still_reaches_the_backend() {
    // It may have a greeting to hear, so the connection is made and its FIN passed on.
    let backend = TestBackend::scripted(|peer| {
        peer.expect_end(End::Fin);
        peer.send("hello and goodbye");
    });
    let proxy = Proxy::before(&backend);
    at_once(8, |_| {
        for _ in 0..10 {
            let client = proxy.client();
            client.fin();
            assert_eq!(client.receive_all(), (b"hello and goodbye".to_vec(), End::Fin));
        }
    });
    backend.expect_finished();
    proxy.expect_ends(&["client_closed"; 80]);
}

#[test]
fn a_client_that_resets_at_once_leaves_nothing_behind() {
    let backend = TestBackend::echo();
    let proxy = Proxy::before(&backend);
    for _ in 0..100 {
        proxy.client().reset();
    }
    if proxy.is_tidegate() {
        eventually(Duration::from_secs(2), "all are over", || proxy.extra_sockets() == 0);
        // Some may be gone before they are accepted: those are not connections.
        let ends = proxy.ended();
        assert!(ends.iter().all(|end| end.reason == "client_reset"), "{ends:?}");
    }
    proxy.client().expect_echo("and it goes on");
}

#[test]
fn a_session_without_a_byte_is_a_session() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    drop(server);
    client.expect_end(End::Fin);
    drop(client);
    proxy.expect_ends(&["backend_closed"]);
}

#[test]
fn thousands_of_small_messages_meet_no_delayed_acknowledgement() {
    let backend = TestBackend::echo();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let mut slow = 0;
    let rounds = if cfg!(debug_assertions) { 3_000 } else { 10_000 };
    for round in 0..rounds {
        let start = Instant::now();
        client.expect_echo("x");
        slow += usize::from(start.elapsed() >= ms(35));
        assert!(slow <= 20, "{slow} of {round} messages took 35 ms and more");
    }
}

#[test]
fn a_message_in_two_pieces_is_not_held_back() {
    // Nagle's algorithm would keep the second piece for 40 ms.
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    let times = (0..50).map(|_| {
        let start = Instant::now();
        client.send("head");
        server.expect("head");
        client.send("body");
        server.expect("body");
        server.send("ok");
        client.expect("ok");
        start.elapsed()
    });
    let time = median(times.collect());
    assert!(time < ms(35), "took {time:?}");
}
