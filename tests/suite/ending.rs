//! Stopping: what is open goes on for a while, nothing new comes in, and the exit code says 0.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::admin::Admin;
use crate::support::peer::Options;
use crate::support::{
    End, PATIENCE, Pattern, Peer, Proxy, SLACK, Setup, TestBackend, at_once, eventually, ms,
    throughout,
};

/// Whether a new client is told at once that nobody listens: one that hangs cannot go elsewhere.
fn refuses(proxy: &Proxy) -> bool {
    let refused = ErrorKind::ConnectionRefused;
    let client = std::net::TcpStream::connect(proxy.address());
    client.is_err_and(|error| error.kind() == refused)
}

#[test]
fn a_stop_waits_for_open_connections_and_takes_no_new_ones() {
    for signal in [Signal::TERM, Signal::INT] {
        let backend = TestBackend::echo();
        let mut proxy = Proxy::before(&backend);
        let client = proxy.client();
        client.expect_echo("before");
        proxy.signal(signal);
        eventually(SLACK + ms(500), "new clients are refused", || refuses(&proxy));
        throughout(ms(300), "it runs on", || proxy.exit_status().is_none());
        client.expect_echo("after");
        client.fin();
        client.expect_end(End::Fin);
        let status = proxy.expect_exit(SLACK + ms(500));
        assert_eq!(status.code(), Some(0));
        assert!(proxy.ended().iter().any(|end| end.reason == "client_closed"));
    }
}

#[test]
fn clients_that_were_queued_when_the_stop_came_are_served() {
    // Closing a listening socket resets those that the kernel has connected and nobody accepted.
    for _ in 0..5 {
        let backend = TestBackend::echo();
        let mut proxy = Proxy::before(&backend);
        let clients: Vec<_> = (0..30).map(|_| proxy.client()).collect();
        proxy.signal(Signal::TERM);
        clients.iter().for_each(|client| client.expect_echo("here before the stop"));
        drop(clients);
        assert_eq!(proxy.expect_exit(SLACK + ms(500)).code(), Some(0));
    }
}

#[test]
fn while_it_stops_it_is_not_ready_and_lives() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).head("admin: {bind: \"127.0.0.1:0\"}").start();
    let admin = Admin::of(&proxy);
    let client = proxy.client();
    client.expect_echo("before");
    assert_eq!(admin.get("/readyz").code, 200);
    proxy.signal(Signal::TERM);
    eventually(PATIENCE, "it is not ready", || admin.get("/readyz").code == 503);
    assert_eq!(admin.get("/livez").code, 200);
    client.expect_echo("after");
}

#[test]
fn fifty_that_queue_at_a_limit_when_the_stop_comes_are_served_one_after_the_other() {
    let backend = TestBackend::echo();
    let mut proxy = Setup::to([backend.address()]).listener("max_connections: 1").start();
    let first = proxy.client();
    first.expect_echo("first");
    let queued: Vec<_> = (0..50).map(|_| proxy.client()).collect();
    proxy.signal(Signal::TERM);
    // At once: not by a connect that nobody answers.
    eventually(PATIENCE, "new clients are refused", || {
        Peer::connect_with(proxy.address(), Options::default())
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    first.expect_echo("goes on");
    drop(first);
    at_once(50, |n| {
        queued[n].expect_echo("here before the stop");
        queued[n].fin();
        queued[n].expect_end(End::Fin);
    });
    assert_eq!(proxy.expect_exit(PATIENCE).code(), Some(0));
}

#[test]
fn what_waits_at_a_limit_ends_with_the_grace() {
    let backend = TestBackend::echo();
    let setup = Setup::to([backend.address()]).listener("max_connections: 1");
    let mut proxy = setup.runtime("shutdown_grace: 300ms").start();
    let first = proxy.client();
    first.expect_echo("first");
    let queued = proxy.client();
    proxy.signal(Signal::TERM);
    first.expect_end(End::Fin);
    assert_eq!(proxy.expect_exit(PATIENCE).code(), Some(0));
    let _ = queued.receive_all();
}

#[test]
fn a_stop_without_connections_is_immediate() {
    let backend = TestBackend::echo();
    let mut proxy = Proxy::before(&backend);
    proxy.client().expect_echo("hello");
    proxy.expect_ends(&["client_closed"]);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.expect_exit(SLACK + ms(500)).code(), Some(0));
}

#[test]
fn after_the_grace_connections_are_ended_by_fin() {
    let backend = TestBackend::manual();
    let mut proxy = Setup::to([backend.address()]).runtime("shutdown_grace: 1s").start();
    let client = proxy.client();
    let server = backend.accept();
    client.send("hello");
    server.expect("hello");
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    client.expect_end(End::Fin);
    server.expect_end(End::Fin);
    assert!((ms(900)..ms(1_100) + SLACK).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(proxy.expect_exit(SLACK + ms(500)).code(), Some(0));
    proxy.expect_ends(&["shutdown"]);
}

#[test]
fn what_was_read_before_the_grace_ended_is_delivered() {
    let backend = TestBackend::manual();
    let mut proxy = Setup::to([backend.address()]).runtime("shutdown_grace: 200ms").start();
    let options = Options { receive_buffer: Some(4096), ..Options::default() };
    let client = Peer::connect_with(proxy.address(), options).unwrap();
    let server = backend.accept();
    Pattern::new(1).send(&server, 60_000);
    eventually(PATIENCE, "it is taken", || server.unsent() == 0);
    proxy.signal(Signal::TERM);
    server.expect_end(End::Fin);
    assert_eq!(Pattern::new(1).receive_all(&client), (60_000, End::Fin));
    assert_eq!(proxy.expect_exit(PATIENCE).code(), Some(0));
}

/// A client that reads nothing, and a backend that has sent it more than fits on the way.
fn stuck(proxy: &Proxy, backend: &TestBackend) -> (Peer, Peer) {
    let client = proxy.client();
    let server = backend.accept();
    server.socket().set_write_timeout(Some(ms(200))).unwrap();
    let _ = Pattern::new(1).try_send(&server, 0..64 << 20);
    (client, server)
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_end() {
    // Neither that of its connection nor that of the process: both at once, because five seconds
    // are what an undelivered rest is given.
    at_once(2, |scene| {
        let backend = TestBackend::manual();
        let setup = Setup::to([backend.address()]);
        if scene == 0 {
            let proxy = setup.listener("timeouts: {idle: 1s}").start();
            let _peers = stuck(&proxy, &backend);
            eventually(ms(7_000), "it is closed", || proxy.extra_sockets() == 0);
            proxy.expect_ends(&["idle_timeout"]);
        } else {
            let mut proxy = setup.runtime("shutdown_grace: 200ms").start();
            let _peers = stuck(&proxy, &backend);
            proxy.signal(Signal::TERM);
            assert_eq!(proxy.expect_exit(ms(7_000)).code(), Some(0));
        }
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let backend = TestBackend::echo();
        let mut proxy = Proxy::before(&backend);
        let client = proxy.client();
        client.expect_echo("hello");
        proxy.signal(Signal::TERM);
        eventually(SLACK + ms(500), "new clients are refused", || refuses(&proxy));
        client.expect_echo("draining");
        proxy.signal(second);
        proxy.expect_exit(SLACK + ms(500));
    }
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_is_being_connected_for_ever() {
    let hole = crate::support::BlackHole::new();
    let mut proxy = Setup::to([hole.address()])
        .runtime("shutdown_grace: 500ms")
        .pool("connect: {timeout: 20s, deadline: 30s}")
        .start();
    let client = proxy.client();
    eventually(PATIENCE, "it is dialled", || hole.dials_of(proxy.pid()) == 1);
    proxy.signal(Signal::TERM);
    let time = client.time_to_end(End::Reset);
    assert!(time < ms(500) + 2 * SLACK, "took {time:?}");
    assert_eq!(proxy.expect_exit(Duration::from_secs(1)).code(), Some(0));
}

#[test]
fn a_killed_backend_resets_its_clients_and_the_rest_goes_on() {
    let backends = [TestBackend::manual(), TestBackend::echo()];
    let proxy = Setup::to(backends.each_ref().map(TestBackend::address)).start();
    let first = proxy.client();
    let server = backends[0].accept();
    // From here on it is connected: a reset before that would be a connect that failed, and retried.
    first.send("hello");
    server.expect("hello");
    let second = proxy.client();
    second.expect_echo("hello");
    server.reset();
    first.expect_end(End::Reset);
    second.expect_echo("still here");
}

#[test]
fn every_end_is_logged_with_listener_pool_and_backend() {
    let backend = TestBackend::echo();
    let named = format!("{{address: \"{}\", name: one}}", backend.address());
    let proxy = Setup::to([named]).start();
    proxy.client().expect_echo("hello");
    proxy.expect_ends(&["client_closed"]);
    let end = proxy.ended().remove(0);
    assert_eq!(end.listener.as_deref(), Some("web"));
    assert_eq!(end.pool.as_deref(), Some("app"));
    assert_eq!(end.backend.as_deref(), Some("one"));
    let lines = proxy.log().lines();
    let line = lines.iter().find(|line| line.field("end").is_some()).unwrap();
    assert_eq!(line.level(), "DEBUG");
}
