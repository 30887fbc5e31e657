//! Waiting for a slot where every backend is full.

use std::time::{Duration, Instant};

use crate::support::{End, Proxy, SLACK, Setup, TestBackend, at_once, eventually, ms, pause};

fn one_at_a_time(backend: &TestBackend, queue: &str) -> Proxy {
    let backend = format!("{{address: \"{}\", max_connections: 1}}", backend.address());
    Setup::to([backend]).pool(&format!("queue: {queue}")).start()
}

#[test]
fn who_waits_gets_the_freed_slot_at_once_and_in_order() {
    let backend = TestBackend::echo();
    let proxy = one_at_a_time(&backend, "{timeout: 8s, max: 10}");
    let mut inside = proxy.client();
    inside.expect_echo("hello");
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let client = proxy.client();
            client.send("mine");
            pause(ms(30));
            client
        })
        .collect();
    for next in waiting {
        let start = Instant::now();
        drop(inside);
        next.expect("mine");
        assert!(start.elapsed() < SLACK, "took {:?}", start.elapsed());
        inside = next;
    }
    assert_eq!(backend.accepted(), 5);
}

#[test]
fn who_waits_for_too_long_or_is_too_many_is_reset() {
    let backend = TestBackend::echo();
    let proxy = one_at_a_time(&backend, "{timeout: 400ms, max: 1}");
    let inside = proxy.client();
    inside.expect_echo("hello");
    let waiting = proxy.client();
    waiting.send("?");
    pause(ms(50));
    assert!(proxy.client().time_to_end(End::Reset) < ms(250), "it is full");
    waiting.expect_end(End::Reset);
    proxy.expect_ends(&["queue_full", "queue_timeout"]);
    inside.expect_echo("still here");
}

#[test]
fn a_client_that_leaves_leaves_the_queue() {
    let backend = TestBackend::echo();
    let proxy = one_at_a_time(&backend, "{timeout: 8s, max: 1}");
    let inside = proxy.client();
    inside.expect_echo("hello");
    drop(proxy.client());
    proxy.expect_ends(&["client_closed"]);
    let waiting = proxy.client();
    waiting.send("?");
    pause(ms(50));
    waiting.reset();
    proxy.expect_ends(&["client_closed", "client_reset"]);
    let next = proxy.client();
    next.send("mine");
    pause(ms(50));
    drop(inside);
    next.expect("mine");
}

#[test]
fn in_a_storm_of_clients_that_break_off_no_slot_is_lost() {
    let backend = TestBackend::echo();
    let limited = format!("{{address: \"{}\", max_connections: 3}}", backend.address());
    let proxy = Setup::to([limited]).pool("queue: {timeout: 8s, max: 1000}").start();
    at_once(64, |thread| {
        for round in 0..20 {
            let client = proxy.client();
            let _ = client.try_send("x");
            match (thread + round) % 4 {
                0 => client.reset(),
                1 => drop(client),
                _ => drop(client.try_read(&mut [0])),
            }
        }
    });
    eventually(Duration::from_secs(8), "all are over", || proxy.ended().len() == 64 * 20);
    eventually(SLACK, "all sockets are closed", || proxy.extra_sockets() == 0);
    let inside: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    inside.iter().for_each(|client| client.expect_echo("all three"));
    assert!(!proxy.reasons().contains_key("queue_timeout"), "{:?}", proxy.reasons());
}
