//! The library from outside: a strategy of one's own, and what its faults may cost.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tidegate::balance::{Candidate, Entry, Options, Registry, Request, Strategy};
use tidegate::net::addr::Address;
use tidegate::process::Server;

/// Takes the last backend, and panics at every third pick.
struct Faulty;

impl Strategy for Faulty {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        assert_ne!(request.turn % 3, 1, "this strategy fails on purpose");
        (0..candidates.len()).rev().find(|index| !request.tried.contains(candidates[*index].id))
    }
}

const FAULTY: Entry = Entry {
    name: "faulty",
    summary: "fails at every third pick",
    options: &[],
    build: |_: &[Candidate], _: &Options| Box::new(Faulty),
};

/// A backend that answers one byte with its name.
fn named(name: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if stream.read_exact(&mut [0]).is_ok() {
                stream.write_all(&[name]).unwrap();
            }
        }
    });
    address
}

fn ask(address: SocketAddr) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"?")?;
    let mut name = [0];
    stream.read_exact(&mut name).map(|()| name[0])
}

#[test]
fn a_panic_in_one_connection_ends_that_connection_only() {
    let mut registry = Registry::default();
    registry.register(FAULTY);
    let text = format!(
        "runtime: {{ threads: 2 }}\n\
         listeners: {{ web: {{ bind: '127.0.0.1:0', pool: app, max_connections: 1 }} }}\n\
         pools: {{ app: {{ strategy: faulty, backends: ['{}', '{}'] }} }}\n",
        named(b'a'),
        named(b'b'),
    );
    let config = tidegate::config::load(&text, &|_| None, &registry).unwrap();
    let mut server = Server::start(&config, &registry).unwrap();
    let Address::Tcp(address) = server.addresses()[0].1 else { panic!("no TCP address") };
    // One connection at a time is let in: a slot that a panic kept would stop everything.
    let answers: Vec<_> = (0..9).map(|_| ask(address)).collect();
    let served = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|name| *name == b'b'));
    assert_eq!(served.count(), 6, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 3, "{answers:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.stop(Some(Duration::from_secs(5))));
    assert_eq!(server.connections(), 0);
}
