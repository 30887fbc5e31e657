//! What holds for every kind of probe, and for `tcp`.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::peer::{
    End, PATIENCE, Peer, ask, assert_fails, ms, on_control_thread, target, time_waits,
};
use super::*;
use crate::net::addr::Address;

const PAGE: &str = include_str!("../../docs/probes.md");

/// One of each kind, for a backend that answers `PING` with `HTTP/1.1 200 OK`.
fn kinds() -> Vec<(&'static str, model::Probe)> {
    let exec = model::ExecProbe { command: vec!["/bin/true".into()] };
    let send_expect = model::SendExpectProbe { send: "PING".into(), expect: "200".into() };
    let tls = model::TlsProbe { server_name: None, verify: false };
    vec![
        ("tcp", model::Probe::Tcp),
        ("tls", model::Probe::Tls(tls)),
        ("http", model::Probe::Http(model::HttpProbe::default())),
        ("send_expect", model::Probe::SendExpect(send_expect)),
        ("exec", model::Probe::Exec(exec)),
    ]
}

/// Those that need an answer.
fn talking() -> Vec<(&'static str, model::Probe)> {
    kinds().into_iter().filter(|(name, _)| !["tcp", "exec"].contains(name)).collect()
}

fn free_address() -> Address {
    Address::Tcp(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn every_kind_of_the_configuration_is_in_the_table_and_on_the_page() {
    let names: Vec<_> = PROBES.iter().map(|entry| entry.name).collect();
    assert_eq!(names, kinds().iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let schema = serde_json::to_string(&schemars::schema_for!(model::Probe)).unwrap();
    for (index, (name, options)) in kinds().iter().enumerate() {
        assert!(schema.contains(&format!("\"{name}\"")), "{name} is no choice of the schema");
        for (other, entry) in PROBES.iter().enumerate() {
            let is_built = (entry.build)(options, &Roots::default()).is_some();
            assert_eq!(is_built, index == other, "{name} by {}", entry.name);
        }
    }
    let rows: Vec<_> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
    for (entry, row) in PROBES.iter().zip(&rows) {
        let begin = format!("| `{}` | {} |", entry.name, entry.summary);
        assert!(row.starts_with(&begin), "{row} should begin with {begin}");
    }
    assert_eq!(rows.len(), PROBES.len());
}

#[test]
fn a_closed_port_refuses_every_kind_that_connects() {
    for (name, options) in kinds().iter().filter(|(name, _)| *name != "exec") {
        let (outcome, _) = ask(options, &target(&free_address()), PATIENCE);
        assert_eq!(outcome, Outcome::Refused, "{name}");
    }
}

#[test]
fn silence_is_a_failure_when_the_time_is_over_and_the_connection_is_reset() {
    let waits = [
        ("tls", "making the TLS handshake"),
        ("http", "waiting for the answer"),
        ("send_expect", "waiting for the answer"),
    ];
    for ((name, options), (kind, wait)) in talking().iter().zip(waits) {
        assert_eq!(*name, kind);
        let peer = Peer::silent();
        let (outcome, took) = ask(options, &peer.target, ms(500));
        assert_fails(outcome, &format!("timed out after 500ms while {wait}"));
        assert!((ms(500)..ms(550)).contains(&took), "{name} took {took:?}");
        assert_eq!(peer.end(), End::Reset, "{name}");
    }
}

#[test]
fn silence_while_connecting_is_a_failure_when_the_time_is_over() {
    // A backlog of one connection (and one more), which is full: the SYN gets no answer.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fills = std::net::TcpStream::connect(address).unwrap();
    for (name, options) in kinds().iter().filter(|(name, _)| *name != "exec") {
        let (outcome, took) = ask(options, &target(&Address::Tcp(address)), ms(500));
        assert_fails(outcome, "timed out after 500ms while connecting");
        assert!((ms(500)..ms(550)).contains(&took), "{name} took {took:?}");
    }
}

#[test]
fn a_check_that_is_dropped_resets_its_connection() {
    for (name, options) in talking() {
        let peer = Peer::silent();
        let probe = build(&options, &Roots::default()).unwrap();
        on_control_thread(async {
            let under_way = check(&*probe, &peer.target, PATIENCE);
            assert!(tokio::time::timeout(ms(50), under_way).await.is_err(), "{name} is silent");
        });
        assert_eq!(peer.end(), End::Reset, "{name}");
    }
}

#[test]
fn a_peer_that_closes_before_its_answer_fails_every_kind_that_needs_one() {
    let words = [
        "closed by the peer in the TLS handshake",
        "closed by the peer before the answer was complete",
        "closed by the peer before an answer",
    ];
    for ((name, options), words) in talking().iter().zip(words) {
        let peer = Peer::scripted(|stream| {
            let _ = std::io::Read::read(stream, &mut [0; 4096]);
            let _ = stream.shutdown(std::net::Shutdown::Write);
        });
        assert_eq!(peer.check(options, PATIENCE), Outcome::Fail(words.into()), "{name}");
    }
}

#[test]
fn a_hundred_checks_of_any_outcome_leave_no_time_wait() {
    for (name, options) in kinds() {
        let peer = Peer::answering(&[b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], ms(0));
        for _ in 0..100 {
            let outcome = peer.check(&options, PATIENCE);
            assert!(matches!(outcome, Outcome::Pass) != (name == "tls"), "{name}: {outcome:?}");
        }
        assert_eq!(time_waits(&peer.target.address), 0, "{name}");
    }
}

#[test]
fn a_tcp_check_that_passed_ends_with_a_reset() {
    let peer = Peer::silent();
    assert_eq!(peer.check(&model::Probe::Tcp, PATIENCE), Outcome::Pass);
    assert_eq!(peer.end(), End::Reset);
}

#[test]
fn a_check_comes_from_its_source_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut target = target(&Address::Tcp(listener.local_addr().unwrap()));
    target.source = Some("127.0.0.77".parse().unwrap());
    assert_eq!(ask(&model::Probe::Tcp, &target, PATIENCE).0, Outcome::Pass);
    assert_eq!(listener.accept().unwrap().1.ip(), target.source.unwrap());
}

#[test]
fn a_source_address_that_this_host_lacks_says_nothing_about_the_backend() {
    let peer = Peer::silent();
    let mut target = peer.target.clone();
    // Of the range for documentation (RFC 5737).
    target.source = Some("192.0.2.1".parse().unwrap());
    for (name, options) in kinds().iter().filter(|(name, _)| *name != "exec") {
        let (outcome, _) = ask(options, &target, PATIENCE);
        assert!(matches!(&outcome, Outcome::Unjudged(why) if why.starts_with("cannot connect")));
        assert!(!name.is_empty());
    }
}

#[test]
fn the_preface_is_sent_first() {
    let (sender, got) = std::sync::mpsc::channel();
    let peer = Peer::scripted(move |stream| {
        let mut first = [0; 12];
        std::io::Read::read_exact(stream, &mut first).unwrap();
        sender.send(first).unwrap();
        std::io::Write::write_all(stream, b"+PONG").unwrap();
    });
    let mut target = peer.target.clone();
    target.preface = b"PREFACE.".as_slice().into();
    let options = model::SendExpectProbe { send: "PING".into(), expect: "+PONG".into() };
    let (outcome, _) = ask(&model::Probe::SendExpect(options), &target, PATIENCE);
    assert_eq!(outcome, Outcome::Pass);
    assert_eq!(&got.recv().unwrap(), b"PREFACE.PING");
}

#[test]
fn a_unix_socket_is_checked_where_it_is_and_refuses_when_it_is_gone() {
    let path = std::env::temp_dir().join(format!("tidegate-probe-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let target = target(&Address::Unix(path.clone()));
    assert_eq!(ask(&model::Probe::Tcp, &target, PATIENCE).0, Outcome::Pass);
    drop(listener);
    assert_eq!(ask(&model::Probe::Tcp, &target, PATIENCE).0, Outcome::Refused);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ask(&model::Probe::Tcp, &target, PATIENCE).0, Outcome::Refused);
}
