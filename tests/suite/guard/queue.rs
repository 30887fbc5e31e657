//! Waiting for a slot where every backend is full.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::admin::Admin;
use crate::support::log::Line;
use crate::support::{
    End, Node, PATIENCE, Peer, Proxy, SLACK, Setup, TestBackend, at_once, eventually, median, ms,
    pause,
};

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

/// Two nodes with one slot each, the first one tried first, and both slots taken.
fn two_that_are_full(keys: &str) -> (Node, Node, Proxy, [Peer; 2]) {
    let (first, second) = (Node::named("first"), Node::named("second"));
    let entries = [&first, &second].map(|node| node.entry("max_connections: 1"));
    let proxy = Setup::to(entries)
        .pool(&format!("strategy: first_available, outlier_detection: off, {keys}"))
        .start();
    let inside = ["first", "second"].map(|name| {
        let client = proxy.client();
        client.expect(name);
        client
    });
    (first, second, proxy, inside)
}

#[test]
fn who_was_called_to_a_backend_that_is_dead_has_its_place_again() {
    let (first, _second, proxy, [in_first, in_second]) =
        two_that_are_full("queue: {timeout: 8s, max: 3}");
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = proxy.client();
            pause(ms(50));
            client
        })
        .collect();
    // Frees its slot: both are called, one after the other, and both are refused.
    first.kill();
    in_first.expect_end(End::Reset);
    let refused = |line: &Line| line.text().contains("connect failed");
    eventually(SLACK * 4, "both were refused", || {
        proxy.log().lines().iter().filter(|line| refused(line)).count() == 2
    });
    pause(ms(50));
    // It lives again, and serves who comes next: those two do not try it again.
    first.restart();
    let late = proxy.client();
    late.expect("first");
    drop(in_second);
    for client in waiting {
        client.expect("second");
        client.expect_echo("mine");
    }
}

#[test]
fn who_waits_for_longer_than_connecting_may_take_is_served_all_the_same() {
    let backend = TestBackend::echo();
    let proxy = one_at_a_time(&backend, "{timeout: 8s, max: 1}, connect: {deadline: 300ms}");
    let inside = proxy.client();
    inside.expect_echo("hello");
    let waiting = proxy.client();
    waiting.send("mine");
    pause(ms(600));
    drop(inside);
    waiting.expect("mine");
}

#[test]
fn a_connection_whose_backend_fails_waits_for_one_that_was_full_before() {
    let (full, dead) = (Node::named("full"), Node::dead("dead"));
    let entries = [&full, &dead].map(|node| node.entry("max_connections: 1"));
    let proxy = Setup::to(entries)
        .pool("strategy: first_available, outlier_detection: off, queue: {timeout: 8s, max: 1}")
        .start();
    let inside = proxy.client();
    inside.expect("full");
    let waiting = proxy.client();
    proxy.expect_line("connect failed");
    pause(ms(50));
    drop(inside);
    waiting.expect("full");
}

#[test]
fn the_gauge_says_how_many_wait_and_they_cost_no_processor_time() {
    let backend = TestBackend::echo();
    let limited = format!("{{address: \"{}\", max_connections: 1}}", backend.address());
    let proxy = Setup::to([limited])
        .pool("queue: {timeout: 2s, max: 100}")
        .head("admin: {bind: \"127.0.0.1:0\"}")
        .start();
    let admin = Admin::of(&proxy);
    let queued = || admin.metric("tidegate_queued_connections", &["pool=\"app\""]);
    assert_eq!(queued(), 0.0);
    let inside = proxy.client();
    inside.expect_echo("hello");
    let waiting: Vec<_> = (0..40).map(|_| proxy.client()).collect();
    eventually(SLACK, "all wait", || queued() == 40.0);
    let is_idle = (0..20).any(|_| proxy.processor_share(ms(50)) < 0.15);
    assert!(is_idle, "waiting takes the processor");
    drop(waiting);
    eventually(SLACK, "none waits", || queued() == 0.0);
    let last = proxy.client();
    let time = last.time_to_end(End::Reset);
    assert!(time > ms(1_950) && time < ms(2_050) + SLACK, "took {time:?}");
    assert_eq!(queued(), 0.0);
    inside.expect_echo("still here");
}

#[test]
fn a_freed_slot_is_used_within_ten_milliseconds() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let (freed, shared) = (Mutex::new(None::<Instant>), Arc::clone(&times));
    let backend = TestBackend::scripted(move |peer| {
        let mut last = freed.lock().unwrap();
        if let Some(last) = *last {
            shared.lock().unwrap().push(last.elapsed());
        }
        let _ = peer.try_send("served");
        *last = Some(Instant::now());
        // Within the lock, so that the next one cannot come before the time is noted.
        peer.reset();
    });
    let limited = format!("{{address: \"{}\", max_connections: 1}}", backend.address());
    let proxy = Setup::to([limited])
        .pool("outlier_detection: off, queue: {timeout: 30s, max: 1000}")
        .start();
    at_once(32, |_| {
        for _ in 0..20 {
            let _ = proxy.client().receive_all();
        }
    });
    eventually(PATIENCE, "all are over", || proxy.ended().len() == 32 * 20);
    assert!(!proxy.reasons().contains_key("queue_timeout"), "{:?}", proxy.reasons());
    // The middle one: others share the processors.
    let middle = median(times.lock().unwrap().clone());
    assert!(middle < ms(10), "{middle:?}");
}

/// Row BF-5: two backends with five slots each, 64 clients with 200 connections each, some of which
/// break off, while backends die and come back.
#[test]
fn in_a_storm_with_backends_that_die_no_limit_is_exceeded_and_nobody_is_left_waiting() {
    const SLOTS: usize = 5;
    let nodes = [Node::named("one"), Node::named("two")];
    let proxy = Setup::to(nodes.each_ref().map(|node| node.entry("max_connections: 5")))
        .pool("queue: {timeout: 30s, max: 1000}")
        .pool("outlier_detection: {base_ejection: 300ms, max_ejection: 1s}")
        .head("admin: {bind: \"127.0.0.1:0\"}")
        .start();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut draw = fastrand::Rng::with_seed(1);
            while !is_over.load(Relaxed) {
                let node = &nodes[draw.usize(..2)];
                pause(ms(draw.u64(20..200)));
                node.kill();
                pause(ms(draw.u64(1..60)));
                node.restart();
            }
        });
        at_once(64, |thread| {
            let mut draw = fastrand::Rng::with_seed(thread as u64);
            for _ in 0..200 {
                let client = proxy.client();
                let _ = client.try_send("x");
                match draw.u8(..10) {
                    0 => client.reset(),
                    1 => drop(client),
                    2 => {
                        pause(ms(draw.u64(..8)));
                        client.reset();
                    }
                    _ => drop(client.try_read(&mut [0; 8])),
                }
            }
        });
        is_over.store(true, Relaxed);
        killer.join().unwrap();
    });
    eventually(PATIENCE, "all are over", || proxy.ended().len() == 64 * 200);
    assert!(!proxy.reasons().contains_key("queue_timeout"), "{:?}", proxy.reasons());
    for node in &nodes {
        assert!(node.most_open() <= SLOTS, "{} at once", node.most_open());
        assert!(node.accepted() > 500, "{} were served", node.accepted());
    }
    let admin = Admin::of(&proxy);
    assert_eq!(admin.metric("tidegate_queued_connections", &[]), 0.0);
    assert_eq!(admin.metric("tidegate_backend_connections_active", &[]), 0.0);
    // None of the slots is lost, and none is there twice.
    let full = |clients: &[Peer]| {
        clients.iter().filter(|c| c.try_read(&mut [0; 8]).is_ok_and(|n| n > 0)).count()
    };
    eventually(PATIENCE, "both are back", || {
        let in_rotation = admin.metric("tidegate_backend_in_rotation", &[]);
        drop(proxy.client().try_read(&mut [0]));
        in_rotation == 2.0
    });
    let inside: Vec<_> = (0..2 * SLOTS).map(|_| proxy.client()).collect();
    assert_eq!(full(&inside), 2 * SLOTS);
    proxy.client().expect_silence(ms(100));
}
