//! DI-2: the end of one direction leaves the other alone.

use std::time::Duration;

use crate::support::{End, Pattern, Peer, Proxy, SLACK, TestBackend, eventually, ms, pause};

const MUCH: u64 = if cfg!(debug_assertions) { 8 << 20 } else { 64 << 20 };

#[test]
fn after_the_client_has_ended_the_backend_can_send_much() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    client.send("a question");
    client.fin();
    assert_eq!(server.receive_all(), (b"a question".to_vec(), End::Fin));
    much_then_fin(&server, &client);
    expect_prompt_end(&proxy, "client_closed");
}

#[test]
fn after_the_backend_has_ended_the_client_can_send_much() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    server.send("a greeting");
    server.fin();
    assert_eq!(client.receive_all(), (b"a greeting".to_vec(), End::Fin));
    much_then_fin(&client, &server);
    expect_prompt_end(&proxy, "backend_closed");
}

#[test]
fn data_and_fin_sent_together_both_arrive() {
    // A FIN that comes in the same moment as data must not be missed, nor overtake it.
    let backend = TestBackend::scripted(|peer| {
        let (question, end) = peer.receive_all();
        assert_eq!((question.as_slice(), end), (b"all I have".as_slice(), End::Fin));
        peer.send("and this is the answer");
    });
    let proxy = Proxy::before(&backend);
    for _ in 0..200 {
        let client = proxy.client();
        client.send("all I have");
        client.fin();
        assert_eq!(client.receive_all(), (b"and this is the answer".to_vec(), End::Fin));
    }
    backend.expect_finished();
    proxy.expect_ends(&["client_closed"; 200]);
}

#[test]
fn a_fin_does_not_overtake_data_that_the_reader_has_not_taken() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    let (pattern, size) = (Pattern::new(9), 6 << 20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pattern.send(&server, size);
            server.fin();
        });
        pause(ms(300));
        assert_eq!(pattern.receive_all(&client), (size, End::Fin));
    });
    client.fin();
    assert_eq!(server.receive_all(), (Vec::new(), End::Fin));
}

#[test]
fn half_closed_connections_wait_without_using_the_processor() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let pairs = (0..10).map(|i| {
        let (client, server) = (proxy.client(), backend.accept());
        if i % 2 == 0 { (client, server) } else { (server, client) }
    });
    let pairs: Vec<_> = pairs.collect();
    for (first, second) in &pairs {
        first.fin();
        second.expect_end(End::Fin);
    }
    if proxy.is_tidegate() {
        let share = proxy.processor_share(ms(300));
        assert!(share < 0.05, "uses {share} of a core");
    }
    for (first, second) in &pairs {
        second.fin();
        first.expect_end(End::Fin);
    }
}

fn much_then_fin(from: &Peer, to: &Peer) {
    pause(Duration::from_secs(1));
    let pattern = Pattern::new(4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pattern.send(from, MUCH);
            from.fin();
        });
        assert_eq!(pattern.receive_all(to), (MUCH, End::Fin));
    });
}

/// The connection is over at once after the second FIN, on both sides of it.
#[track_caller]
fn expect_prompt_end(proxy: &Proxy, reason: &str) {
    if proxy.is_tidegate() {
        eventually(SLACK, "its sockets are closed", || proxy.extra_sockets() == 0);
        proxy.expect_ends(&[reason]);
    }
}
