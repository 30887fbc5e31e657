//! Worker nodes that die, come back and misbehave on one address, and answers to checks by script.

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use super::backend::{drain, echo};
use super::{Peer, TestBackend};

/// What a [`Node`] does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Says its name at once, then sends back what it gets.
    Greets,
    /// Sends back what it gets.
    Echoes,
    /// Reads and never answers: as a frozen process looks from outside.
    Silent,
    /// Resets it as soon as there is something to read.
    Resets,
}

/// A worker node that keeps its address while it is dead.
pub(crate) struct Node {
    name: &'static str,
    address: SocketAddr,
    /// Bound and never listening: keeps the port from others, and refuses while nobody listens.
    _guard: Socket,
    life: Mutex<Option<Arc<Life>>>,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    /// When each connection was accepted.
    accepted: Mutex<Vec<Instant>>,
    /// The most that were open at once.
    most_open: AtomicUsize,
}

/// From a start to a death.
struct Life {
    listener: Socket,
    is_over: AtomicBool,
    open: Mutex<Vec<Weak<Socket>>>,
}

impl Node {
    /// A node that lives and greets.
    pub(crate) fn named(name: &'static str) -> Self {
        let node = Self::dead(name);
        node.restart();
        node
    }

    /// A node that refuses until it is restarted.
    pub(crate) fn dead(name: &'static str) -> Self {
        let guard = bound(0);
        let address = guard.local_addr().unwrap().as_socket().unwrap();
        let shared = Shared {
            mode: Mutex::new(Mode::Greets),
            accepted: Mutex::default(),
            most_open: AtomicUsize::default(),
        };
        Self { name, address, _guard: guard, life: Mutex::default(), shared: Arc::new(shared) }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// A backend of the configuration called by its name, with more keys.
    pub(crate) fn entry(&self, keys: &str) -> String {
        let comma = if keys.is_empty() { "" } else { ", " };
        format!("{{address: \"{}\", name: {}{comma}{keys}}}", self.address, self.name)
    }

    /// What it does with connections from now on.
    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Dies as by `SIGKILL`: connections are reset, and new ones refused.
    pub(crate) fn kill(&self) {
        if let Some(life) = self.life.lock().unwrap().take() {
            life.end();
        }
    }

    /// Lives again, on the same address.
    pub(crate) fn restart(&self) {
        let mut slot = self.life.lock().unwrap();
        if slot.is_some() {
            return;
        }
        let listener = bound(self.address.port());
        listener.listen(4096).unwrap();
        let life = Arc::new(Life { listener, is_over: false.into(), open: Mutex::default() });
        *slot = Some(Arc::clone(&life));
        let (shared, name) = (Arc::clone(&self.shared), self.name);
        thread::spawn(move || life.serve(name, &shared));
    }

    /// How many connections came so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// The most connections that were open at the same moment, as it saw them: what the other side
    /// had ended, read or not, is not counted.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// When each connection was accepted.
    pub(crate) fn accept_times(&self) -> Vec<Instant> {
        self.shared.accepted.lock().unwrap().clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Life {
    fn serve(&self, name: &'static str, shared: &Shared) {
        while let Ok((socket, _)) = self.listener.accept() {
            shared.accepted.lock().unwrap().push(Instant::now());
            let Ok(peer) = Peer::new(socket) else { continue };
            let mode = *shared.mode.lock().unwrap();
            let mut open = self.open.lock().unwrap();
            open.retain(|socket| socket.strong_count() > 0);
            open.push(peer.downgrade());
            let others = open.iter().filter_map(Weak::upgrade);
            let count = others.filter(|socket| !has_ended(socket)).count();
            shared.most_open.fetch_max(count, Ordering::SeqCst);
            if self.is_over.load(Ordering::SeqCst) {
                let _ = peer.socket().set_linger(Some(Duration::ZERO));
                return;
            }
            drop(open);
            thread::spawn(move || mode.serve(name, peer));
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Stops listening at once, which resets what is queued, and wakes who accepts.
        let _ = self.listener.shutdown(Shutdown::Both);
        for socket in self.open.lock().unwrap().drain(..).filter_map(|socket| socket.upgrade()) {
            // Whoever serves it reads an end, and closes it by a reset.
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Read);
        }
    }
}

impl Mode {
    fn serve(self, name: &str, peer: Peer) {
        match self {
            Self::Greets if peer.try_send(name).is_ok() => echo(peer),
            Self::Greets => {}
            Self::Echoes => echo(peer),
            Self::Silent => drop(drain(&peer)),
            Self::Resets => {
                let _ = peer.try_read(&mut [0]);
                let _ = peer.socket().set_linger(Some(Duration::ZERO));
            }
        }
    }
}

/// Whether the other side has ended.
fn has_ended(socket: &Socket) -> bool {
    let end = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut polled = [PollFd::new(socket, end)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn bound(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket
}

/// Answers checks by a script: `P` passes, `F` is an answer that fails, `R` a reset, `S` silence. The
/// last letter goes on for ever. For the probe [`Answers::PROBE`].
pub(crate) struct Answers {
    backend: TestBackend,
    shared: Arc<Asked>,
}

struct Asked {
    script: Mutex<Vec<u8>>,
    times: Mutex<Vec<Instant>>,
}

impl Answers {
    /// The probe that is answered, as in a flow mapping.
    pub(crate) const PROBE: &str = "probe: {send_expect: {send: \"?\", expect: \"fine\"}}";

    /// Answers by this script.
    pub(crate) fn by(script: &str) -> Self {
        let shared = Arc::new(Asked { script: Mutex::default(), times: Mutex::default() });
        let asked = Arc::clone(&shared);
        let backend = TestBackend::scripted(move |peer| asked.answer(&peer));
        let answers = Self { backend, shared };
        answers.go_on(script);
        answers
    }

    /// The port to be checked.
    pub(crate) fn port(&self) -> u16 {
        self.backend.address().parse::<SocketAddr>().unwrap().port()
    }

    /// Another script from now on.
    pub(crate) fn go_on(&self, script: &str) {
        let mut letters = script.as_bytes().to_vec();
        letters.reverse();
        *self.shared.script.lock().unwrap() = letters;
    }

    /// How many checks came so far.
    pub(crate) fn asked(&self) -> usize {
        self.times().len()
    }

    /// When each check came.
    pub(crate) fn times(&self) -> Vec<Instant> {
        self.shared.times.lock().unwrap().clone()
    }

    /// From where the checks came.
    pub(crate) fn sources(&self) -> Vec<SocketAddr> {
        self.backend.sources()
    }
}

impl Asked {
    fn answer(&self, peer: &Peer) {
        self.times.lock().unwrap().push(Instant::now());
        let letter = {
            let mut script = self.script.lock().unwrap();
            if script.len() > 1 { script.pop() } else { script.last().copied() }
        };
        // A check that was given up meanwhile is nobody's fault.
        let _ = peer.try_read(&mut [0; 8]);
        match letter.unwrap() {
            b'P' => drop(peer.try_send("fine")),
            b'F' => drop(peer.try_send("ill")),
            b'R' => drop(peer.socket().set_linger(Some(Duration::ZERO))),
            _ => drop(drain(peer)),
        }
    }
}
