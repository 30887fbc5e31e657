//! Limits hold exactly, at every moment: of a listener, of the process, of a backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    End, Peer, Proxy, SLACK, Setup, TestBackend, at_once, eventually, median, ms, pause,
};

#[test]
fn over_the_limit_of_a_listener_clients_wait_until_one_leaves() {
    let backend = TestBackend::echo();
    let proxy =
        Setup::to([backend.address()]).listener("max_connections: 3, over_limit: wait").start();
    let mut inside: Vec<_> = (0..3).map(|_| greeted(&proxy)).collect();
    let times = (0..7).map(|_| {
        let waiting = proxy.client();
        waiting.send("let me in");
        waiting.expect_silence(ms(100));
        assert_eq!(backend.open(), 3);
        drop(inside.remove(0));
        let start = Instant::now();
        waiting.expect("let me in");
        inside.push(waiting);
        start.elapsed()
    });
    let time = median(times.collect());
    assert!(time < ms(50), "a free place was taken after {time:?}");
    inside.iter().for_each(|client| client.expect_echo("still here"));
}

#[test]
fn waiting_is_what_happens_over_a_limit_unless_said() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).listener("max_connections: 1").start();
    let inside = greeted(&proxy);
    let waiting = proxy.client();
    waiting.send("let me in");
    waiting.expect_silence(ms(150));
    assert!(proxy.processor_share(ms(150)) < 0.05, "busy though nobody may come in");
    drop(inside);
    waiting.expect("let me in");
}

#[test]
fn over_the_limit_of_a_listener_clients_can_be_closed_at_once() {
    let backend = TestBackend::echo();
    let proxy =
        Setup::to([backend.address()]).listener("max_connections: 2, over_limit: close").start();
    let mut inside: Vec<_> = (0..2).map(|_| greeted(&proxy)).collect();
    for _ in 0..5 {
        let time = proxy.client().time_to_end(End::Reset);
        assert!(time < SLACK, "took {time:?}");
    }
    assert_eq!(backend.accepted(), 2);
    proxy.expect_ends(&["over_limit"; 5]);
    inside.pop();
    eventually(SLACK, "its place is free", || proxy.ended().len() == 6);
    inside.push(greeted(&proxy));
}

#[test]
fn the_limit_of_the_process_holds_over_all_listeners() {
    let backend = TestBackend::echo();
    let text = format!(
        "listeners:\n  one: {{bind: \"127.0.0.1:0\", pool: app}}\n  \
         two: {{bind: \"127.0.0.1:0\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        backend.address()
    );
    let proxy = Setup::yaml(text).runtime("max_connections: 4").listening(2).start();
    let addresses = ["one", "two"].map(|name| proxy.addresses_of(name)[0].to_owned());
    let clients: Vec<_> = (0..12)
        .map(|i| {
            let client = Peer::connect(&addresses[i % 2]);
            client.send("x");
            client
        })
        .collect();
    eventually(SLACK, "four are in", || backend.accepted() >= 4);
    pause(ms(150));
    assert_eq!(backend.accepted(), 4);
    drop(clients);
    // All the others were in the backlog; they come in, find their clients gone, and end.
    eventually(Duration::from_secs(3), "all are over", || proxy.ended().len() == 12);
    greeted(&proxy).expect_echo("and it is open again");
}

#[test]
fn the_limit_of_a_backend_is_never_exceeded_in_a_storm() {
    let most = Arc::new(AtomicUsize::new(0));
    let limited = || {
        let (now, most) = (AtomicUsize::new(0), Arc::clone(&most));
        TestBackend::scripted(move |peer| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            peer.receive(1);
            pause(ms(1));
            // Counted out before the balancer can know, so that the count is never too high.
            now.fetch_sub(1, Ordering::SeqCst);
            let _ = peer.try_send("!");
        })
    };
    let backends = [limited(), limited()];
    let with = |b: &TestBackend| format!("{{address: \"{}\", max_connections: 5}}", b.address());
    let proxy = Setup::to(backends.each_ref().map(with)).start();
    let served: usize =
        at_once(64, |_| (0..30).filter(|_| is_served(&proxy)).count()).into_iter().sum();
    let most = most.load(Ordering::SeqCst);
    assert!((2..=5).contains(&most), "{most} connections of a backend at the same time");
    assert!(served >= 60, "only {served} got in");
    eventually(ms(3_000), "all are over", || proxy.ended().len() == 64 * 30);
    let ends = proxy.ended();
    let count = |reason| ends.iter().filter(|end| end.reason == reason).count();
    assert_eq!(count("queue_full"), 64 * 30 - served, "{:?}", proxy.reasons());
    // The answer is the last byte: which of the two ends first after it is a race.
    assert_eq!(count("backend_closed") + count("client_closed"), served);
}

/// Sends a byte and says whether one came back, rather than a reset.
fn is_served(proxy: &Proxy) -> bool {
    let client = proxy.client();
    client.try_send("?").is_ok() && client.try_read(&mut [0; 8]).is_ok_and(|count| count == 1)
}

#[test]
fn clients_that_break_off_give_their_places_back() {
    let backend = TestBackend::echo();
    let limited = format!("{{address: \"{}\", max_connections: 5}}", backend.address());
    let proxy = Setup::to([limited]).start();
    at_once(8, |thread| {
        for round in 0..25 {
            let client = proxy.client();
            let _ = client.try_send("x");
            if (round + thread) % 2 == 0 {
                client.reset();
            }
        }
    });
    eventually(Duration::from_secs(3), "all are over", || proxy.ended().len() == 200);
    eventually(Duration::from_secs(3), "all places are free", || proxy.extra_sockets() == 0);
    let all: Vec<_> = (0..5).map(|_| greeted(&proxy)).collect();
    proxy.client().expect_end(End::Reset);
    all.iter().for_each(|client| client.expect_echo("here"));
}

#[test]
fn when_every_backend_is_full_the_client_is_reset_at_once() {
    let backends = [TestBackend::echo(), TestBackend::echo()];
    let with = |b: &TestBackend| format!("{{address: \"{}\", max_connections: 1}}", b.address());
    let proxy = Setup::to(backends.each_ref().map(with)).start();
    let inside = [greeted(&proxy), greeted(&proxy)];
    let time = proxy.client().time_to_end(End::Reset);
    assert!(time < SLACK, "took {time:?}");
    proxy.expect_ends(&["queue_full"]);
    inside.iter().for_each(|client| client.expect_echo("not affected"));
    assert_eq!(backends.each_ref().map(TestBackend::accepted), [1, 1]);
}

/// A client that has been served.
fn greeted(proxy: &Proxy) -> Peer {
    let client = proxy.client();
    client.expect_echo("hello");
    client
}
