//! How fast each direction of a connection may go, where that is limited.

use super::Side;
use super::meter::Limits;
use crate::net::clock::Tick;
use crate::net::throttle::Throttle;

/// The limits of both directions; there is none for a connection without any.
#[derive(Debug)]
pub(super) struct Pace {
    /// Client to backend.
    inward: Option<Lane>,
    /// Backend to client.
    outward: Option<Lane>,
}

/// One direction with a limit.
#[derive(Debug)]
struct Lane {
    throttle: Throttle,
    /// Nothing is read before, whatever news there are: not to be woken for a few bytes.
    rests_until: Option<Tick>,
}

impl Lane {
    fn new(rate: u64, now: Tick) -> Self {
        Self { throttle: Throttle::new(rate, now), rests_until: None }
    }
}

impl Pace {
    /// The pace of a connection that begins at `now`, of which `bytes_in` have been read already.
    pub(super) fn new(limits: &Limits, bytes_in: u64, now: Tick) -> Option<Box<Self>> {
        let lane = |rate: Option<u64>| rate.map(|rate| Lane::new(rate, now));
        let (inward, outward) = (lane(limits.bandwidth.0), lane(limits.bandwidth.1));
        if inward.is_none() && outward.is_none() {
            return None;
        }
        let mut pace = Box::new(Self { inward, outward });
        pace.passed(Side::Client, usize::try_from(bytes_in).unwrap_or(usize::MAX));
        Some(pace)
    }

    fn lane(&mut self, source: Side) -> Option<&mut Lane> {
        match source {
            Side::Client => self.inward.as_mut(),
            Side::Backend => self.outward.as_mut(),
        }
    }

    /// Ends the rests whose time has come.
    pub(super) fn begin_turn(&mut self, now: Tick) {
        for lane in [&mut self.inward, &mut self.outward].into_iter().flatten() {
            lane.rests_until.take_if(|at| *at <= now);
        }
    }

    /// How many bytes may be read of `source` at `now`.
    pub(super) fn allowed(&mut self, source: Side, now: Tick) -> usize {
        match self.lane(source) {
            None => usize::MAX,
            Some(lane) if lane.rests_until.is_some() => 0,
            Some(lane) => lane.throttle.allowed(now),
        }
    }

    /// Takes note of bytes that were read of `source`.
    pub(super) fn passed(&mut self, source: Side, bytes: usize) {
        if let Some(lane) = self.lane(source) {
            lane.throttle.take(bytes);
        }
    }

    /// `source` has more than it may send.
    pub(super) fn rest(&mut self, source: Side) {
        if let Some(lane) = self.lane(source) {
            let at = lane.throttle.next_at();
            lane.rests_until.get_or_insert(at);
        }
    }

    /// When a direction that rests goes on.
    pub(super) fn next(&self) -> Option<Tick> {
        let lanes = [&self.inward, &self.outward].into_iter().flatten();
        lanes.filter_map(|lane| lane.rests_until).min()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use rustix::event::epoll::EventFlags;

    use super::super::two_way::{Turn, TwoWay};
    use super::super::{Clock, Engine, Meter, Pair};
    use super::*;
    use crate::net::stream::Stream;

    /// A relay on a clock of its own, whose peers send and read as much as the kernel takes.
    struct Track<S> {
        relay: TwoWay,
        engine: Engine,
        limits: Limits,
        meter: Meter,
        client: S,
        backend: S,
    }

    /// The byte counts in and out after each time.
    type Seen = Vec<(Tick, u64, u64)>;

    impl<S> Track<S>
    where
        for<'a> &'a S: Read + Write,
    {
        fn new((near, client): (OwnedFd, S), (far, backend): (OwnedFd, S), limits: Limits) -> Self {
            let is_tcp = std::any::type_name::<S>().contains("TcpStream");
            let pair = Pair {
                client: Stream::new(near, is_tcp),
                backend: Stream::new(far, is_tcp),
                unread: Vec::new(),
            };
            let (meter, engine) = (Meter::new(0), Engine::new(Clock::start(), 4));
            let relay = TwoWay::new(pair, &limits, &meter, 0);
            Self { relay, engine, limits, meter, client, backend }
        }

        /// Runs for `end` milliseconds, looking every `step`.
        fn run(&mut self, end: Tick, step: usize) -> Seen {
            let mut seen = Vec::new();
            let mut bytes = vec![7; 256 * 1024];
            for now in (0..end).step_by(step) {
                // More than once: one turn is bounded, and the buffers are smaller than it.
                for _ in 0..64 {
                    let before = self.meter.bytes_in() + self.meter.bytes_out();
                    for mut peer in [&self.client, &self.backend] {
                        let _ = peer.write(&bytes);
                    }
                    for side in [Side::Client, Side::Backend] {
                        self.relay.end(side).hear(EventFlags::IN | EventFlags::OUT);
                    }
                    let turn = self.relay.turn(&self.engine, &self.limits, (&self.meter, &()), now);
                    assert!(!matches!(turn, Turn::Over(_)));
                    for mut peer in [&self.client, &self.backend] {
                        while peer.read(&mut bytes).is_ok() {}
                    }
                    if self.meter.bytes_in() + self.meter.bytes_out() == before {
                        break;
                    }
                }
                seen.push((now, self.meter.bytes_in(), self.meter.bytes_out()));
            }
            seen
        }
    }

    fn unix() -> (OwnedFd, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        (near.into(), far)
    }

    fn tcp() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        (near.into(), far)
    }

    /// The rate holds to a tenth over the whole time, and no stretch of it exceeds the rate by more
    /// than a quarter of a second's worth.
    fn check(rate: u64, seen: impl Iterator<Item = (Tick, u64)>) {
        let seen: Vec<_> = seen.collect();
        let (end, total) = *seen.last().unwrap();
        let wanted = rate * end / 1000;
        assert!(total <= wanted + wanted / 10, "{total} of {wanted}");
        assert!(total >= wanted - wanted / 10, "{total} of {wanted}");
        let mut lowest = 0_i128;
        for (at, bytes) in seen {
            let ahead = i128::from(bytes * 1000) - i128::from(rate * at);
            assert!(ahead - lowest <= i128::from(rate * 250), "a burst before {at} ms");
            lowest = lowest.min(ahead);
        }
    }

    fn limits(rate_in: u64, rate_out: u64) -> Limits {
        Limits { bandwidth: (Some(rate_in), Some(rate_out)), ..Limits::default() }
    }

    #[test]
    fn copies_keep_each_direction_to_its_rate() {
        let mut track = Track::new(unix(), unix(), limits(100_000, 1_000_000));
        let seen = track.run(4_000, 4);
        check(100_000, seen.iter().map(|(at, bytes, _)| (*at, *bytes)));
        check(1_000_000, seen.iter().map(|(at, _, bytes)| (*at, *bytes)));
        assert_eq!(track.engine.pipes.open(), 0, "this is about copies");
    }

    #[test]
    fn splices_keep_each_direction_to_its_rate() {
        let mut track = Track::new(tcp(), tcp(), limits(20_000_000, 50_000_000));
        let seen = track.run(2_000, 4);
        check(20_000_000, seen.iter().map(|(at, bytes, _)| (*at, *bytes)));
        check(50_000_000, seen.iter().map(|(at, _, bytes)| (*at, *bytes)));
        assert!(track.engine.pipes.open() > 0, "this is about splices");
    }

    #[test]
    fn a_direction_at_its_limit_asks_for_a_turn_and_gets_nothing_before() {
        let limits = Limits { bandwidth: (None, Some(1_000_000)), ..Limits::default() };
        let mut track = Track::new(unix(), unix(), limits);
        let seen = track.run(49, 1);
        let moved: std::collections::BTreeSet<_> = seen.iter().map(|(.., out)| *out).collect();
        assert_eq!(moved.into_iter().collect::<Vec<_>>(), [50_000]);
        assert_eq!(track.relay.due(), 50);
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_keep() {
        assert!(Pace::new(&Limits::default(), 1 << 40, 0).is_none());
    }

    #[test]
    fn what_was_read_before_the_relay_is_made_up_for() {
        let mut pace = Pace::new(&limits(100_000, 100_000), 15_000, 0).unwrap();
        assert_eq!(pace.allowed(Side::Client, 0), 0);
        pace.rest(Side::Client);
        assert_eq!((pace.next(), pace.allowed(Side::Backend, 0)), (Some(150), 5_000));
    }
}
