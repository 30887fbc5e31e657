//! DI-4: a reset stays a reset, a FIN stays a FIN, and what came before is delivered.

use std::time::Duration;

use crate::support::pattern::Pace;
use crate::support::peer::Options;
use crate::support::{End, PATIENCE, Pattern, Peer, Proxy, SLACK, TestBackend, eventually};

/// Both ends of a fresh connection, the one that will end it first.
fn pair(proxy: &Proxy, backend: &TestBackend, from: Side) -> (Peer, Peer) {
    let options = Options { receive_buffer: Some(8 * 1024), ..Options::default() };
    let client = Peer::connect_with(proxy.address(), options).unwrap();
    let server = backend.accept();
    // Now it is known to be connected: an earlier reset would be a failed connect.
    client.expect_echo_by(&server);
    match from {
        Side::Client => (client, server),
        Side::Backend => (server, client),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Backend,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Client, Self::Backend];

    fn reset(self) -> &'static str {
        if self == Self::Client { "client_reset" } else { "backend_reset" }
    }

    fn closed(self) -> &'static str {
        if self == Self::Client { "client_closed" } else { "backend_closed" }
    }
}

/// Plays `scene` on one connection for each side, and checks how they are logged to have ended.
fn for_both_sides(reason: fn(Side) -> &'static str, scene: impl Fn(Peer, Peer)) {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    for side in Side::BOTH {
        let (from, to) = pair(&proxy, &backend, side);
        scene(from, to);
    }
    proxy.expect_ends(&Side::BOTH.map(reason));
    for end in proxy.ended() {
        assert_eq!(end.listener.as_deref(), Some("web"));
        assert_eq!(end.pool.as_deref(), Some("app"));
        assert_eq!(end.backend.as_deref(), Some(backend.address()));
    }
}

#[test]
fn a_reset_of_an_idle_connection_arrives_as_a_reset_at_once() {
    for_both_sides(Side::reset, |from, to| {
        from.reset();
        let time = to.time_to_end(End::Reset);
        assert!(time < Duration::from_millis(100) + SLACK, "took {time:?}");
    });
}

#[test]
fn a_reset_right_after_data_comes_after_the_data() {
    for_both_sides(Side::reset, |from, to| {
        Pattern::new(1).send(&from, 100_000);
        // A reset throws away what the sender's own kernel still has: wait until it has nothing.
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| Pattern::new(1).receive_all(&to));
            eventually(PATIENCE, "the data is taken", || from.unsent() == 0);
            from.reset();
            assert_eq!(reader.join().unwrap(), (100_000, End::Reset));
        });
    });
}

#[test]
fn a_reset_behind_a_slow_reader_waits_for_it() {
    for_both_sides(Side::reset, |from, to| {
        std::thread::scope(|scope| {
            let pace = Pace::per_second(400_000);
            let reader = scope.spawn(move || Pattern::new(2).receive_from(&to, 0, pace));
            Pattern::new(2).send(&from, 200_000);
            eventually(PATIENCE, "the data is taken", || from.unsent() == 0);
            from.reset();
            assert_eq!(reader.join().unwrap(), (200_000, End::Reset));
        });
    });
}

#[test]
fn a_reset_in_the_middle_of_data_cuts_nothing_but_the_rest() {
    for_both_sides(Side::reset, |from, to| {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| Pattern::new(3).receive_all(&to));
            Pattern::new(3).send(&from, 3 << 20);
            from.reset();
            // The reader checked each byte; how many there are is the sender's kernel's affair.
            assert_eq!(reader.join().unwrap().1, End::Reset);
        });
    });
}

#[test]
fn a_reset_while_the_other_way_is_busy_arrives_as_a_reset() {
    for_both_sides(Side::reset, |from, to| {
        let mut sent = 0;
        while to.try_send([1; 1000]).is_ok() && sent < 200 {
            sent += 1;
        }
        from.receive(10_000);
        from.reset();
        to.expect_end(End::Reset);
    });
}

#[test]
fn a_reset_after_a_fin_is_still_a_reset() {
    for_both_sides(Side::reset, |from, to| {
        from.fin();
        assert_eq!(to.receive_all(), (Vec::new(), End::Fin));
        to.send("still here");
        from.expect("still here");
        from.reset();
        // Its reading side has ended already; writing is where it shows.
        eventually(PATIENCE, "the reset is passed on", || to.try_send("x").is_err());
    });
}

#[test]
fn a_fin_never_becomes_a_reset() {
    for_both_sides(Side::closed, |from, to| {
        from.fin();
        to.expect_end(End::Fin);
        Pattern::new(4).send(&to, 50_000);
        to.fin();
        assert_eq!(Pattern::new(4).receive_all(&from), (50_000, End::Fin));
    });
}

#[test]
fn a_full_close_without_unread_bytes_is_a_fin() {
    for_both_sides(Side::closed, |from, to| {
        from.send("bye");
        drop(from);
        to.expect("bye");
        to.expect_end(End::Fin);
    });
}

impl Peer {
    /// A message each way.
    #[track_caller]
    fn expect_echo_by(&self, other: &Self) {
        self.send("ping");
        other.expect("ping");
        other.send("pong");
        self.expect("pong");
    }
}
