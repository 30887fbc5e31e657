//! What the machine lacks is no fault of a backend: RX-2, RX-3, BF-6 and BF-7.

use std::net::SocketAddr;

use crate::support::netns;
use crate::support::peer::Options;
use crate::support::{End, Peer, Proxy, SLACK, Setup, TestBackend, ms};

#[test]
fn without_descriptors_for_a_backend_the_client_is_told_at_once() {
    let backends = [TestBackend::echo(), TestBackend::echo()];
    let proxy = Setup::to(backends.each_ref().map(TestBackend::address)).start();
    let early = proxy.client();
    early.expect_echo("early");
    // One more descriptor is enough for a client and too little for its backend.
    proxy.leave_descriptors(1);
    let time = proxy.client().time_to_end(End::Reset);
    assert!(time < ms(100) + SLACK, "took {time:?}");
    for _ in 0..2 {
        // These may find that accepting is paused, which ends within a second.
        let time = proxy.client().time_to_end(End::Reset);
        assert!(time < ms(1_000) + SLACK, "took {time:?}");
    }
    early.expect_echo("not affected");
    proxy.expect_ends(&["local_error"; 3]);
    proxy.leave_all_descriptors();
    proxy.client().expect_echo("and all is well again");
}

/// A client whose own port is outside the small range of ports the test leaves.
fn client_on(proxy: &Proxy, number: u16) -> Peer {
    let from = SocketAddr::from(([127, 0, 1, 1], 20_000 + number));
    let options = Options { from: Some(from), ..Options::default() };
    Peer::connect_with(proxy.address(), options).unwrap()
}

#[test]
fn when_ports_run_out_the_next_source_address_is_used() {
    if !netns::entered(concat!(
        module_path!(),
        "::when_ports_run_out_the_next_source_address_is_used"
    )) {
        return;
    }
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()])
        .pool("connect: {source: [127.0.0.2, 127.0.0.3, 127.0.0.4]}")
        .start();
    netns::set_local_ports(40_000, 40_009);
    let clients: Vec<_> = (0..30).map(|i| client_on(&proxy, i)).collect();
    clients.iter().for_each(|client| client.expect_echo("x"));
    let time = client_on(&proxy, 30).time_to_end(End::Reset);
    assert!(time < SLACK, "took {time:?}");
    proxy.expect_ends(&["local_error"]);
    clients[0].expect_echo("still");
}

#[test]
fn a_connection_to_itself_is_detected() {
    if !netns::entered(concat!(module_path!(), "::a_connection_to_itself_is_detected")) {
        return;
    }
    // Nobody listens on 40004, but a socket that happens to leave from there would reach itself.
    let proxy = Setup::to(["127.0.0.1:40004"]).start();
    netns::set_local_ports(40_000, 40_009);
    for i in 0..500 {
        let client = client_on(&proxy, i);
        let _ = client.try_send("is anybody there?");
        client.expect_end(End::Reset);
    }
    proxy.expect_ends(&["connect_failed"; 500]);
}

#[test]
fn unreachable_backends_are_passed_over_at_once() {
    if !netns::entered(concat!(module_path!(), "::unreachable_backends_are_passed_over_at_once")) {
        return;
    }
    let up = TestBackend::echo();
    for (i, kind) in ["unreachable", "prohibit", "blackhole"].into_iter().enumerate() {
        netns::run("ip", &["route", "add", kind, &format!("10.9.{i}.0/24")]);
    }
    for down in ["10.9.0.1:80", "10.9.1.1:80", "10.9.2.1:80", "10.8.0.1:80"] {
        let proxy = Setup::to([down, up.address()]).pool("strategy: first_available").start();
        let start = std::time::Instant::now();
        proxy.client().expect_echo("hello");
        assert!(start.elapsed() < SLACK, "{down}: took {:?}", start.elapsed());
    }
}
