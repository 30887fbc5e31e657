//! Worker nodes that behave as a test says.

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use socket2::{SockAddr, Socket, Type};

use super::{End, PATIENCE, Peer, eventually};

/// A worker node. Its connections are cut and its socket is closed when it is dropped. A script that
/// panicked fails the test then, if not before.
pub(crate) struct TestBackend {
    address: String,
    listener: Arc<Socket>,
    shared: Arc<Shared>,
    /// Connections for [`TestBackend::accept`]; nothing comes here when a script serves them.
    arrived: Mutex<Receiver<Peer>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    accepted: AtomicUsize,
    peers: Mutex<Vec<(SocketAddr, Weak<Socket>)>>,
    /// Scripts that panicked.
    failed: AtomicUsize,
}

impl TestBackend {
    /// Sends back what it gets, ends when the client has ended.
    pub(crate) fn echo() -> Self {
        Self::scripted(echo)
    }

    /// Says `name` at once, then behaves as [`TestBackend::echo`].
    pub(crate) fn named(name: &'static str) -> Self {
        Self::scripted(move |peer| {
            if peer.try_send(name).is_ok() {
                echo(peer);
            }
        })
    }

    /// Serves every connection on a thread of its own by `script`.
    pub(crate) fn scripted(script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        Self::listening(&any(), Some(Arc::new(script)))
    }

    /// Serves connections of a unix socket or another address by `script`.
    pub(crate) fn scripted_on(address: &SockAddr, script: fn(Peer)) -> Self {
        Self::listening(address, Some(Arc::new(script)))
    }

    /// The same, where the script is more than a function.
    pub(crate) fn serving(
        address: &SockAddr,
        script: impl Fn(Peer) + Send + Sync + 'static,
    ) -> Self {
        Self::listening(address, Some(Arc::new(script)))
    }

    /// Echoes on a unix socket.
    pub(crate) fn echo_on_unix(path: &Path) -> Self {
        Self::scripted_on(&SockAddr::unix(path).unwrap(), echo)
    }

    /// Leaves each connection to the test, which gets it by [`TestBackend::accept`]. One that is
    /// never accepted hangs: it is open and never answers.
    pub(crate) fn manual() -> Self {
        Self::listening(&any(), None)
    }

    /// The address for the configuration.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many connections have come so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// From where the connections came, in order.
    pub(crate) fn sources(&self) -> Vec<SocketAddr> {
        self.shared.peers.lock().unwrap().iter().map(|(from, _)| *from).collect()
    }

    /// How many of its connections are still open on its side.
    pub(crate) fn open(&self) -> usize {
        self.shared.peers.lock().unwrap().iter().filter(|(_, peer)| peer.strong_count() > 0).count()
    }

    /// All its connections have ended and no script has failed.
    #[track_caller]
    pub(crate) fn expect_finished(&self) {
        eventually(PATIENCE, "the backend's connections end", || self.open() == 0);
        self.expect_no_failure();
    }

    fn expect_no_failure(&self) {
        let failed = self.shared.failed.load(Ordering::SeqCst);
        assert_eq!(failed, 0, "scripts of the backend failed, see above");
    }

    /// The next connection.
    #[track_caller]
    pub(crate) fn accept(&self) -> Peer {
        match self.arrived.lock().unwrap().recv_timeout(PATIENCE) {
            Ok(peer) => peer,
            Err(_) => panic!("no connection reached the backend"),
        }
    }

    fn listening(address: &SockAddr, script: Option<Script>) -> Self {
        let listener = Socket::new(address.domain(), Type::STREAM, None).unwrap();
        listener.bind(address).unwrap();
        listener.listen(4096).unwrap();
        let listener = Arc::new(listener);
        let (sender, arrived) = channel();
        let shared = Arc::new(Shared::default());
        let backend = Self {
            address: name(&listener),
            listener: Arc::clone(&listener),
            shared: Arc::clone(&shared),
            arrived: Mutex::new(arrived),
        };
        thread::spawn(move || accept_loop(&listener, &shared, script.as_ref(), &sender));
        backend
    }
}

impl Drop for TestBackend {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.expect_no_failure();
        }
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; the socket itself goes with it.
        let _ = self.listener.shutdown(Shutdown::Both);
        for (_, peer) in self.shared.peers.lock().unwrap().iter() {
            if let Some(socket) = peer.upgrade() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

type Script = Arc<dyn Fn(Peer) + Send + Sync>;

fn any() -> SockAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()
}

fn name(listener: &Socket) -> String {
    let address = listener.local_addr().unwrap();
    match address.as_socket() {
        Some(address) => address.to_string(),
        None => format!("unix:{}", address.as_pathname().unwrap().display()),
    }
}

fn accept_loop(
    listener: &Socket,
    shared: &Arc<Shared>,
    script: Option<&Script>,
    to: &Sender<Peer>,
) {
    while let Ok((socket, from)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        // A connection that is reset already is counted and then forgotten.
        let peer = Peer::new(socket);
        let weak = peer.as_ref().map(Peer::downgrade).unwrap_or_default();
        let from = from.as_socket().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        shared.peers.lock().unwrap().push((from, weak));
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let Ok(peer) = peer else { continue };
        match script {
            Some(script) => {
                let (script, shared) = (Arc::clone(script), Arc::clone(shared));
                thread::spawn(move || {
                    if catch_unwind(AssertUnwindSafe(|| script(peer))).is_err() {
                        shared.failed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            None => drop(to.send(peer)),
        }
    }
}

/// Sends back what comes; ends when the client ends.
pub(crate) fn echo(peer: Peer) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = peer.try_read(&mut buffer) {
        if peer.try_send(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Reads until the client ends, answering nothing.
pub(crate) fn drain(peer: &Peer) -> End {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match peer.try_read(&mut buffer) {
            Ok(0) => return End::Fin,
            Ok(_) => {}
            Err(_) => return End::Reset,
        }
    }
}
