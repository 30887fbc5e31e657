//! Scripted backends for the tests of probes: blocking sockets on threads of their own.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};

use super::{Outcome, Roots, Target, build, check};
use crate::config::model;
use crate::net::addr::Address;
use crate::net::dial::EphemeralPorts;

/// How long anything may take that has no time of its own.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ended for the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

/// A backend that serves each connection by a script, then reads until the end and tells it.
pub(super) struct Peer {
    pub(super) target: Target,
    ends: Receiver<End>,
}

impl Peer {
    pub(super) fn scripted(script: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = target(&Address::Tcp(listener.local_addr().unwrap()));
        let (sender, ends) = channel();
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, sender) = (Arc::clone(&script), sender.clone());
                thread::spawn(move || serve(stream.unwrap(), &*script, &sender));
            }
        });
        Self { target, ends }
    }

    /// Accepts and says nothing.
    pub(super) fn silent() -> Self {
        Self::scripted(|_| {})
    }

    /// Answers a first read with these pieces, a pause before each but the first.
    pub(super) fn answering(pieces: &'static [&'static [u8]], pause: Duration) -> Self {
        Self::scripted(move |stream| {
            if matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                let mut pieces = pieces.iter();
                while let Some(piece) = pieces.next()
                    && stream.write_all(piece).is_ok()
                {
                    if !pieces.as_slice().is_empty() {
                        rest(pause);
                    }
                }
            }
        })
    }

    /// How the next connection to end ended.
    pub(super) fn end(&self) -> End {
        self.ends.recv_timeout(PATIENCE).unwrap()
    }

    /// Checks it with this probe.
    pub(super) fn check(&self, options: &model::Probe, timeout: Duration) -> Outcome {
        ask(options, &self.target, timeout).0
    }
}

fn serve(mut stream: TcpStream, script: &dyn Fn(&mut TcpStream), ends: &Sender<End>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    script(&mut stream);
    let mut buffer = [0; 4096];
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break End::Fin,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => break End::Reset,
        }
    };
    let _ = ends.send(end);
}

/// A pause that belongs to a scenario.
pub(super) fn rest(time: Duration) {
    let (_held, never) = channel::<()>();
    let _ = never.recv_timeout(time);
}

pub(super) fn target(address: &Address) -> Target {
    Target {
        pool: "app".into(),
        backend: "app-1".into(),
        address: address.clone(),
        source: None,
        ports: EphemeralPorts::read(),
        preface: Arc::from([]),
    }
}

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Runs `work` on a runtime like the control thread's.
pub(super) fn on_control_thread<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(work)
}

/// One check, and how long it took.
pub(super) fn ask(
    options: &model::Probe,
    target: &Target,
    timeout: Duration,
) -> (Outcome, Duration) {
    let probe = build(options, &Roots::default()).unwrap();
    let started = Instant::now();
    let outcome = on_control_thread(check(&*probe, target, timeout));
    (outcome, started.elapsed())
}

/// Asserts a failure in these words.
#[track_caller]
pub(super) fn assert_fails(outcome: Outcome, words: &str) {
    assert_eq!(outcome, Outcome::Fail(words.to_owned()));
}

/// TCP sockets of the process's namespace to or from this port that are in TIME_WAIT.
pub(super) fn time_waits(address: &Address) -> usize {
    let Address::Tcp(address) = address else { return 0 };
    let port = format!(":{:04X} ", address.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&port) && line.contains(" 06 ")).count()
}
