//! The relay between two real sockets; the peers are plain blocking sockets on threads.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::net::clock::Tick;
use crate::net::drive::drive;
use crate::net::reactor::Reactor;

/// The far ends of a relayed connection.
struct Peers {
    client: TcpStream,
    backend: TcpStream,
    relay: thread::JoinHandle<(Stop, u64, u64)>,
    /// What the watch has noted, once the relay has ended.
    heard: std::sync::mpsc::Receiver<(u32, u32)>,
}

/// A connection that says how it ended.
struct Told {
    limits: Limits,
    meter: Rc<Meter>,
    end: oneshot::Sender<Stop>,
    /// How often the backend was heard for the first time, and found silent.
    heard: Rc<Cell<(u32, u32)>>,
    panics: bool,
}

impl Watch for Told {
    fn first_byte(&self) {
        assert!(!self.panics, "a bug");
        self.heard.set((self.heard.get().0 + 1, self.heard.get().1));
    }

    fn silence(&self) -> Option<Tick> {
        Some(50)
    }

    fn silent(&self, _: Tick) {
        self.heard.set((self.heard.get().0, self.heard.get().1 + 1));
    }
}

impl Carried for Told {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn ended(self, stop: Stop) {
        self.end.send(stop).unwrap();
    }
}

/// Two sockets that are connected to each other: ours, which does not block, and the peer's.
fn connected() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (ours.into(), peer)
}

fn relayed(limits: Limits) -> Peers {
    relayed_until(limits, None)
}

fn relayed_until(limits: Limits, told_after: Option<Duration>) -> Peers {
    let ((near_client, client), (near_backend, backend)) = (connected(), connected());
    let (noted, heard_by) = std::sync::mpsc::channel();
    let relay = thread::spawn(move || {
        let clock = Clock::start();
        let engine = Rc::new(Engine::new(clock, 4));
        let reactor = Reactor::new().unwrap();
        let relays = Rc::new(Relays::new(&reactor));
        let meter = Rc::new(Meter::new(0));
        let (end, ended) = oneshot::channel();
        let heard = Rc::new(Cell::new((0, 0)));
        let told =
            Told { limits, meter: Rc::clone(&meter), end, heard: Rc::clone(&heard), panics: false };
        let pair = Pair {
            client: Stream::new(near_client, true),
            backend: Stream::new(near_backend, true),
            unread: Vec::new(),
        };
        let (stop, is_stopped) = std::sync::mpsc::channel();
        let main = {
            let (engine, relays, meter) =
                (Rc::clone(&engine), Rc::clone(&relays), Rc::clone(&meter));
            async move {
                relays.carry(&engine, pair, told);
                if let Some(after) = told_after {
                    let at = clock.now() + crate::net::clock::ticks(after);
                    engine.deadlines.sleep_until(clock, at).await;
                    meter.stop();
                }
                stop.send(ended.await.unwrap()).unwrap();
            }
        };
        drive(&engine, (&reactor, &relays), main);
        noted.send(heard.get()).unwrap();
        (is_stopped.recv().unwrap(), meter.bytes_in(), meter.bytes_out())
    });
    Peers { client, backend, relay, heard: heard_by }
}

fn read_all(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).map(|_| all)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect()
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn bytes_go_both_ways_and_each_end_is_passed_on_alone() {
    let mut peers = relayed(Limits::default());
    peers.client.write_all(b"question").unwrap();
    peers.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&peers.backend).unwrap(), b"question");
    peers.backend.write_all(b"an answer after the end of the question").unwrap();
    drop(peers.backend);
    assert_eq!(read_all(&peers.client).unwrap(), b"an answer after the end of the question");
    assert_eq!(peers.relay.join().unwrap(), (Stop::Closed(Side::Client), 8, 39));
}

#[test]
fn bulk_data_of_odd_sizes_arrives_whole_both_ways_at_once() {
    for bytes in [SCRATCH_BYTES - 1, SCRATCH_BYTES, SCRATCH_BYTES + 1, 20_000_003] {
        let peers = relayed(Limits::default());
        let up = pattern(bytes);
        let down = { pattern(bytes + 5) }.split_off(5);
        let (to_backend, to_client) = (up.clone(), down.clone());
        let (client, backend) =
            (peers.client.try_clone().unwrap(), peers.backend.try_clone().unwrap());
        let writers = [
            thread::spawn(move || {
                { &client }.write_all(&to_backend).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            }),
            thread::spawn(move || {
                { &backend }.write_all(&to_client).unwrap();
                backend.shutdown(Shutdown::Write).unwrap();
            }),
        ];
        let backend = peers.backend;
        let reader = thread::spawn(move || read_all(&backend).unwrap());
        assert!(read_all(&peers.client).unwrap() == down, "{bytes} bytes to the client");
        assert!(reader.join().unwrap() == up, "{bytes} bytes to the backend");
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let (stop, bytes_in, bytes_out) = peers.relay.join().unwrap();
        assert!(matches!(stop, Stop::Closed(_)));
        assert_eq!((bytes_in, bytes_out), (bytes as u64, bytes as u64));
    }
}

#[test]
fn a_reset_arrives_as_a_reset_after_the_bytes_before_it() {
    let mut peers = relayed(Limits::default());
    peers.client.write_all(b"last words").unwrap();
    let mut words = [0; 10];
    peers.backend.read_exact(&mut words).unwrap();
    reset(peers.client);
    let error = peers.backend.read(&mut words).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(peers.relay.join().unwrap().0, Stop::Reset(Side::Client));
}

#[test]
fn what_a_backend_said_before_it_reset_reaches_a_slow_client() {
    let mut peers = relayed(Limits::default());
    // Bytes that the backend never reads make its close a reset.
    peers.client.write_all(b"unread").unwrap();
    peers.backend.peek(&mut [0; 6]).unwrap();
    let answer = pattern(3_000_000);
    let sent = answer.clone();
    let backend = peers.backend;
    let writer = thread::spawn(move || {
        { &backend }.write_all(&sent).unwrap();
        while socket2::SockRef::from(&backend).is_unsent() {
            thread::yield_now();
        }
        drop(backend);
    });
    let mut got = Vec::new();
    let mut buf = vec![0; 10_000];
    let error = loop {
        match peers.client.read(&mut buf) {
            Ok(0) => break None,
            Ok(n) => got.extend_from_slice(&buf[..n]),
            Err(e) => break Some(e.kind()),
        }
    };
    writer.join().unwrap();
    let (stop, _, bytes_out) = peers.relay.join().unwrap();
    assert_eq!((got.len() as u64, got == answer), (bytes_out, true));
    assert_eq!(error, Some(io::ErrorKind::ConnectionReset));
    assert_eq!(stop, Stop::Reset(Side::Backend));
}

/// Whether the peer has not acknowledged everything yet.
trait IsUnsent {
    fn is_unsent(&self) -> bool;
}

impl IsUnsent for socket2::SockRef<'_> {
    fn is_unsent(&self) -> bool {
        crate::net::sys::unsent(&**self).unwrap() > 0
    }
}

#[test]
fn a_connection_without_bytes_ends_at_its_idle_limit_with_a_fin_to_both() {
    let peers = relayed(Limits { idle: Some(50), ..Limits::default() });
    assert_eq!(read_all(&peers.client).unwrap(), b"");
    assert_eq!(read_all(&peers.backend).unwrap(), b"");
    assert_eq!(peers.relay.join().unwrap().0, Stop::Idle);
}

#[test]
fn the_first_end_ends_both_where_half_closed_is_zero() {
    let mut peers = relayed(Limits { half_closed: Some(0), ..Limits::default() });
    peers.backend.write_all(b"bye").unwrap();
    peers.backend.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&peers.client).unwrap(), b"bye");
    assert_eq!(read_all(&peers.backend).unwrap(), b"");
    assert_eq!(peers.relay.join().unwrap().0, Stop::Closed(Side::Backend));
}

#[test]
fn a_half_closed_connection_ends_when_nothing_moves_in_the_other_direction() {
    let peers = relayed(Limits { half_closed: Some(50), ..Limits::default() });
    peers.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&peers.client).unwrap(), b"");
    assert_eq!(peers.relay.join().unwrap().0, Stop::HalfClosed);
}

#[test]
fn a_stopped_connection_delivers_what_was_read_and_says_fin() {
    let mut peers = relayed_until(Limits::default(), Some(Duration::from_millis(50)));
    peers.client.write_all(b"before the end").unwrap();
    assert_eq!(read_all(&peers.backend).unwrap(), b"before the end");
    assert_eq!(read_all(&peers.client).unwrap(), b"");
    assert_eq!(peers.relay.join().unwrap().0, Stop::Told);
}

#[test]
fn an_end_after_a_long_quiet_leaves_the_other_direction_its_whole_time() {
    let mut peers = relayed(Limits { half_closed: Some(2_000), ..Limits::default() });
    peers.client.write_all(b"early").unwrap();
    peers.backend.read_exact(&mut [0; 5]).unwrap();
    peers.client.set_read_timeout(Some(Duration::from_millis(2_500))).unwrap();
    assert!(peers.client.read(&mut [0]).is_err(), "it is quiet for longer than the limit");
    peers.client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    peers.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&peers.backend).unwrap(), b"");
    peers.backend.write_all(b"late").unwrap();
    drop(peers.backend);
    assert_eq!(read_all(&peers.client).unwrap(), b"late");
    assert_eq!(peers.relay.join().unwrap().0, Stop::Closed(Side::Client));
}

#[test]
fn a_reset_after_a_fin_is_passed_on_though_nobody_writes() {
    let mut peers = relayed(Limits::default());
    peers.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&peers.backend).unwrap(), b"");
    reset(peers.client);
    // The end of the client's bytes was read already: what comes now shows in a write alone.
    let gone = (0..10_000).find(|_| {
        thread::yield_now();
        peers.backend.write_all(b"x").is_err()
    });
    assert!(gone.is_some());
    assert_eq!(peers.relay.join().unwrap().0, Stop::Reset(Side::Client));
}

#[test]
fn a_connection_whose_peer_is_gone_does_not_wait_for_its_bytes_to_arrive() {
    let mut peers = relayed(Limits { half_closed: Some(60_000), ..Limits::default() });
    peers.backend.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&peers.client).unwrap(), b"");
    peers.client.write_all(b"nobody reads this").unwrap();
    reset(peers.client);
    assert!(matches!(peers.relay.join().unwrap().0, Stop::Reset(_)));
}

#[test]
fn bytes_around_the_urgent_mark_arrive_small_and_in_bulk() {
    for bytes in [3, 8_000_000] {
        let peers = relayed(Limits::default());
        let (before, after) = (pattern(bytes), pattern(bytes + 1));
        let (first, second) = (before.clone(), after.clone());
        let client = peers.client.try_clone().unwrap();
        let writer = thread::spawn(move || {
            { &client }.write_all(&first).unwrap();
            socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
            { &client }.write_all(&second).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let got = read_all(&peers.backend).unwrap();
        writer.join().unwrap();
        // The urgent byte itself stays behind, as it does for every reader that does not ask for it.
        assert!(got == [before, after].concat(), "{} of {} bytes", got.len(), 2 * bytes + 1);
        drop(peers.backend);
        assert_eq!(peers.relay.join().unwrap().0, Stop::Closed(Side::Client));
    }
}

/// Relays two connections on this thread; the first one's watch panics when it hears its backend.
#[test]
fn a_panic_ends_its_connection_and_no_other() {
    let ends: Vec<_> = (0..2).map(|_| (connected(), connected())).collect();
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for ((near_client, client), (near_backend, backend)) in ends {
        near.push((near_client, near_backend));
        far.push((client, backend));
    }
    let thread = thread::spawn(move || {
        let engine = Rc::new(Engine::new(Clock::start(), 4));
        let reactor = Reactor::new().unwrap();
        let relays = Rc::new(Relays::new(&reactor));
        let (carrier, carried) = (Rc::clone(&relays), Rc::clone(&engine));
        let main = async move {
            let mut ended = Vec::new();
            for (index, (client, backend)) in near.into_iter().enumerate() {
                let (end, when_ended) = oneshot::channel();
                let told = Told {
                    limits: Limits::default(),
                    meter: Rc::new(Meter::new(0)),
                    end,
                    heard: Rc::default(),
                    panics: index == 0,
                };
                let (client, backend) = (Stream::new(client, true), Stream::new(backend, true));
                carrier.carry(&carried, Pair { client, backend, unread: Vec::new() }, told);
                ended.push(when_ended);
            }
            let second = ended.pop().unwrap().await;
            assert_eq!(second, Ok(Stop::Closed(Side::Client)));
            assert!(ended.pop().unwrap().await.is_err(), "the first one never ended in order");
        };
        drive(&engine, (&reactor, &relays), main);
    });
    let (mut first, mut second) = (far.remove(0), far.remove(0));
    first.1.write_all(b"boom").unwrap();
    let mut all = Vec::new();
    let _ = first.0.read_to_end(&mut all);
    second.1.write_all(b"still here").unwrap();
    let mut got = [0; 10];
    second.0.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still here");
    drop(second.0);
    assert_eq!(read_all(&second.1).unwrap(), b"");
    drop(second.1);
    thread.join().unwrap();
}

#[test]
fn a_silent_backend_and_its_first_byte_are_told_of_once_each() {
    let mut peers = relayed(Limits { idle: Some(400), ..Limits::default() });
    peers.client.write_all(b"question").unwrap();
    peers.backend.read_exact(&mut [0; 8]).unwrap();
    // Longer than the 50 ms after which it counts as silent, more than twice.
    peers.client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(peers.client.read(&mut [0]).is_err());
    for part in ["an", "swer"] {
        peers.backend.write_all(part.as_bytes()).unwrap();
        peers.client.read_exact(&mut vec![0; part.len()]).unwrap();
    }
    assert_eq!(peers.relay.join().unwrap().0, Stop::Idle);
    assert_eq!(peers.heard.recv().unwrap(), (1, 1));
}
