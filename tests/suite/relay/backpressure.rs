//! DI-5 and DI-6: a slow reader slows its writer, costs no memory and loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::pattern::Pace;
use crate::support::peer::Options;
use crate::support::{
    End, PATIENCE, Pattern, Peer, Proxy, Setup, TestBackend, at_once, eventually, ms, pause,
};

const CLIENTS: usize = 200;
const EACH: u64 = 2 << 20;
/// DI-5 of the failure table: what a connection may take in the program itself.
const MEMORY_EACH: u64 = 160 * 1024;

#[test]
fn two_hundred_clients_that_read_nothing_cost_no_memory_and_then_get_everything() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let backend = TestBackend::scripted(move |peer| {
        peer.socket().set_send_buffer_size(32 * 1024).unwrap();
        let pattern = Pattern::new(1);
        for position in (0..EACH).step_by(16 * 1024) {
            if peer.try_send(pattern.at(position, 16 * 1024)).is_err() {
                return;
            }
            counter.fetch_add(16 * 1024, Ordering::Relaxed);
        }
    });
    let proxy = Proxy::before(&backend);
    let before = if proxy.is_tidegate() { proxy.resident() } else { 0 };
    let segment = Some(1_448);
    let options = Options { receive_buffer: Some(16 * 1024), segment, ..Options::default() };
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| Peer::connect_with(proxy.address(), options).unwrap()).collect();
    eventually(PATIENCE, "the senders are blocked", || {
        let then = sent.load(Ordering::Relaxed);
        pause(ms(200));
        backend.accepted() == CLIENTS && sent.load(Ordering::Relaxed) == then
    });
    let stuck = sent.load(Ordering::Relaxed) / CLIENTS as u64;
    assert!(stuck < EACH / 2, "senders were not slowed: {stuck} bytes each are on their way");
    if proxy.is_tidegate() {
        let growth = proxy.resident().saturating_sub(before) / CLIENTS as u64;
        assert!(growth < MEMORY_EACH, "{growth} bytes of memory for each connection");
        assert!(proxy.processor_share(ms(200)) < 0.05, "busy though nothing can move");
    }
    at_once(8, |part| {
        for client in clients.iter().skip(part).step_by(8) {
            assert_eq!(Pattern::new(1).receive_all(client), (EACH, End::Fin));
        }
    });
    backend.expect_finished();
}

#[test]
fn a_backend_that_reads_nothing_stops_its_client() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    let pattern = Pattern::new(2);
    client.socket().set_send_buffer_size(32 * 1024).unwrap();
    client.socket().set_write_timeout(Some(ms(300))).unwrap();
    let mut sent = 0;
    while client.socket().send(pattern.at(sent, 4096)).is_ok_and(|count| count == 4096) {
        sent += 4096;
        assert!(sent < 64 << 20, "nothing holds the client back");
    }
    drop(client);
    let (received, _) = pattern.receive_all(&server);
    assert!(received >= sent, "{received} of {sent} bytes arrived");
}

#[test]
fn a_close_behind_a_slow_reader_is_not_cut_by_the_timeouts() {
    let backend = TestBackend::scripted(|peer| Pattern::new(3).send(&peer, 2 << 20));
    let proxy =
        Setup::to([backend.address()]).listener("timeouts: {idle: 1s, half_closed: 1s}").start();
    let options = Options { receive_buffer: Some(8 * 1024), ..Options::default() };
    let client = Peer::connect_with(proxy.address(), options).unwrap();
    let pace = Pace::per_second(1 << 20);
    assert_eq!(Pattern::new(3).receive_from(&client, 0, pace), (2 << 20, End::Fin));
    drop(client);
    proxy.expect_ends(&["backend_closed"]);
}

#[test]
fn one_stuck_connection_does_not_hold_up_another_on_the_same_thread() {
    let backend = TestBackend::manual();
    let proxy = Setup::to([backend.address()]).threads(1).start();
    let stuck = proxy.client();
    let writer = backend.accept();
    let flood = {
        let writer = writer.clone();
        std::thread::spawn(move || (0..1000).all(|_| writer.try_send([0; 65_536]).is_ok()))
    };
    pause(ms(100));
    let client = proxy.client();
    let server = backend.accept();
    for _ in 0..100 {
        client.send("?");
        server.expect("?");
    }
    drop((writer, stuck));
    assert!(!flood.join().unwrap(), "64 MB went somewhere");
}

#[test]
fn a_reset_that_waits_for_its_reader_waits_quietly_and_not_for_ever() {
    let backend = TestBackend::manual();
    // What is undelivered keeps the program from reading on to the reset: the kernel's patience
    // with the client's closed window ends it.
    let proxy = Setup::to([backend.address()]).listener("tcp: {user_timeout: 1s}").start();
    let options = Options { receive_buffer: Some(8 * 1024), ..Options::default() };
    let client = Peer::connect_with(proxy.address(), options).unwrap();
    let server = backend.accept();
    let pattern = Pattern::new(5);
    // As much as goes: the client reads nothing, so some of it stays in the program.
    server.socket().set_write_timeout(Some(ms(200))).unwrap();
    let _ = pattern.try_send(&server, 0..64 << 20);
    server.reset();
    if proxy.is_tidegate() {
        pause(ms(100));
        let share = proxy.processor_share(ms(300));
        assert!(share < 0.05, "uses {share} of a core");
        eventually(ms(5_000), "it is given up", || proxy.extra_sockets() == 0);
    }
    pattern.receive_all(&client);
}
