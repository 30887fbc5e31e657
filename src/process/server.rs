//! A running balancer: its listening sockets and its threads.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::limits::{raise_descriptors, share, threads};
use crate::balance::Registry;
use crate::config::model::Config;
use crate::control::{self, Control, Setup};
use crate::net::addr::Address;
use crate::net::clock::Clock;
use crate::net::dial::EphemeralPorts;
use crate::net::listen::{Bound, SocketPath, bind_all};
use crate::proxy::{Alive, Fleet, Inbox, Order, Shared, Socket, start};
use crate::state::{Ending, Listener, Reporter, Slots, Snapshot, Threads};

/// How long connections may take to be told that they end, once they must.
const FAREWELL: Duration = Duration::from_secs(6);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be listened on.
    #[error("listener {listener}: cannot listen on {address}: {error}{}", advice(address, error))]
    Bind {
        /// The listener's name.
        listener: String,
        /// Where it was to be bound.
        address: Address,
        /// What the kernel said.
        error: io::Error,
    },
    /// The limit on descriptors does not allow what is configured.
    #[error(
        "runtime.max_connections: {wanted} connections need more descriptors than the {available} \
         this process may open; at most {possible} are possible: raise the limit (ulimit -n, \
         LimitNOFILE=) or lower runtime.max_connections"
    )]
    Descriptors {
        /// Connections configured.
        wanted: u32,
        /// Descriptors this process may open.
        available: u64,
        /// Connections that those are enough for.
        possible: u32,
    },
    /// The limit on descriptors leaves none for connections.
    #[error(
        "no connection could be served: this process may open {available} descriptors, and its \
         {sockets} listening sockets and its own needs take them all: raise the limit (ulimit -n, \
         LimitNOFILE=), or bind fewer addresses"
    )]
    NoDescriptors {
        /// Descriptors this process may open.
        available: u64,
        /// Sockets that the configured addresses take.
        sockets: usize,
    },
    /// A thread could not be started.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
    /// The configuration names something that is not there.
    #[error("no pool is called {0}")]
    Unknown(String),
    /// The control plane did not start.
    #[error(transparent)]
    Control(#[from] control::StartError),
}

fn advice(address: &Address, error: &io::Error) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Unix(path)) if is_other_file(path) => {
            "; a file that is no socket is there"
        }
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            "; another program listens there (ss -lxp shows which)"
        }
        (io::ErrorKind::AddrInUse, _) => "; another program listens there (ss -ltnp shows which)",
        (io::ErrorKind::PermissionDenied, Address::Tcp(_)) => {
            "; ports under 1024 need CAP_NET_BIND_SERVICE or a lower \
             net.ipv4.ip_unprivileged_port_start"
        }
        (io::ErrorKind::AddrNotAvailable, _) => "; this host has no such address",
        _ => "",
    }
}

fn is_other_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

/// A running balancer. Dropping it does not stop it: see [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    /// `None` once it has been stopped.
    control: Option<Control>,
    addresses: Vec<(String, Address)>,
    /// Removes the files of its unix sockets when it is dropped or stopped.
    paths: Vec<SocketPath>,
    /// Ends when the last thread has ended.
    alive: mpsc::Receiver<std::convert::Infallible>,
}

impl Server {
    /// Binds all addresses and starts the threads. When this returns, connections are served.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing is left running then.
    pub fn start(config: &Config, registry: &Registry) -> Result<Self, StartError> {
        let threads = threads(config.runtime.threads);
        let snapshot = Arc::new(Snapshot::new(config).map_err(StartError::Unknown)?);
        let descriptors = raise_descriptors();
        let wanted = config.runtime.max_connections;
        let addresses: usize = snapshot.listeners.iter().map(|listener| listener.bind.len()).sum();
        let shares =
            share(descriptors, addresses * threads, threads, wanted).map_err(|possible| {
                let sockets = addresses * threads;
                match wanted.map(Into::into) {
                    Some(wanted) => {
                        StartError::Descriptors { wanted, available: descriptors, possible }
                    }
                    None => StartError::NoDescriptors { available: descriptors, sockets },
                }
            })?;
        let mut bound = bind(&snapshot.listeners, threads)?;
        let paths = bound.iter_mut().filter_map(|(_, bound)| bound.path.take()).collect();
        let (fleet, orders) = Fleet::new(threads);
        let (reporter, reports) = Reporter::new();
        let (clock, ports) = (Clock::start(), EphemeralPorts::read());
        let (notices, heard) = Threads::new(threads);
        let setup = Setup { clock, ports, registry: registry.clone(), threads: notices, reports };
        let control = Control::start(setup, config.clone(), snapshot)?;
        let shared = Arc::new(Shared {
            clock,
            ports,
            reporter,
            slots: Arc::new(Slots::new(Some(shares.connections))),
            fleet,
            end_all: tokio::sync::watch::Sender::new(None),
        });
        let (alive, all_ended) = Alive::new();
        let server = Self {
            shared: Arc::clone(&shared),
            control: Some(control),
            addresses: bound.iter().map(|(l, b)| (l.name.to_string(), b.address.clone())).collect(),
            paths,
            alive: all_ended,
        };
        let log = bound.iter().map(|(l, b)| (Arc::clone(l), b.address.clone())).collect::<Vec<_>>();
        let sockets = spread(bound, threads);
        let inboxes = orders.into_iter().zip(heard);
        let inboxes = inboxes.map(|(orders, notices)| Inbox { orders, notices });
        for (index, (inbox, sockets)) in inboxes.zip(sockets).enumerate() {
            let shared = Arc::clone(&shared);
            let started = start(index, shared, (inbox, alive.clone()), sockets, shares.pipes);
            if let Err(error) = started {
                server.shared.fleet.tell_all(|| Order::Drain);
                return Err(StartError::Thread(error));
            }
        }
        for (listener, address) in log {
            announce(&listener, &address, shares.connections);
        }
        info!(
            version = env!("CARGO_PKG_VERSION"),
            threads,
            max_connections = shares.connections,
            descriptors,
            "serving"
        );
        Ok(server)
    }

    /// Where each listener is bound, ports chosen by the kernel filled in.
    #[must_use]
    pub fn addresses(&self) -> &[(String, Address)] {
        &self.addresses
    }

    /// A way to ask the control plane; `None` once the server has been stopped.
    #[must_use]
    pub fn control(&self) -> Option<&control::Handle> {
        self.control.as_ref().map(Control::handle)
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.shared.fleet.open()
    }

    /// Waits until all threads have ended. Cancel safe.
    pub async fn ended(&mut self) {
        while self.alive.recv().await.is_some() {}
    }

    /// Stops accepting, waits for open connections as long as `grace`, ends the rest.
    ///
    /// `None` waits for ever. Dropping the future stops nothing more than what was begun.
    pub async fn stop(&mut self, grace: Option<Duration>) {
        self.end_connections(grace).await;
        if let Some(control) = self.control.take() {
            // Blocks for as long as writing the state file takes: nobody is served any more.
            control.stop();
        }
    }

    async fn end_connections(&mut self, grace: Option<Duration>) {
        self.shared.fleet.tell_all(|| Order::Drain);
        self.paths.clear();
        if let Some(grace) = grace {
            if tokio::time::timeout(grace, self.ended()).await.is_ok() {
                return;
            }
            warn!(connections = self.connections(), "ending connections: the grace has passed");
            self.shared.end_all.send_replace(Some(Ending::Shutdown));
            let _ = tokio::time::timeout(FAREWELL, self.ended()).await;
        } else {
            self.ended().await;
        }
    }
}

fn bind(
    listeners: &[Arc<Listener>],
    threads: usize,
) -> Result<Vec<(Arc<Listener>, Bound)>, StartError> {
    let mut bound = Vec::new();
    for listener in listeners {
        for address in &listener.bind {
            let sockets = bind_all(address, threads, &listener.options).map_err(|error| {
                let (listener, address) = (listener.name.to_string(), address.clone());
                StartError::Bind { listener, address, error }
            })?;
            bound.push((Arc::clone(listener), sockets));
        }
    }
    Ok(bound)
}

/// Gives each thread its sockets: one of each address, or a turn where an address has but one.
fn spread(bound: Vec<(Arc<Listener>, Bound)>, threads: usize) -> Vec<Vec<Socket>> {
    let mut spread: Vec<Vec<Socket>> = (0..threads).map(|_| Vec::new()).collect();
    for (turn, (listener, bound)) in bound.into_iter().enumerate() {
        for (index, fd) in bound.sockets.into_iter().enumerate() {
            spread[(turn + index) % threads].push(Socket { listener: Arc::clone(&listener), fd });
        }
    }
    spread
}

fn announce(listener: &Listener, address: &Address, process_limit: u32) {
    info!(listener = %listener.name, %address, pool = %listener.pool.name, "listening");
    if listener.slots.limit().is_some_and(|limit| limit > process_limit) {
        warn!(
            listener = %listener.name,
            max_connections = listener.slots.limit(),
            process_limit,
            "the listener's limit cannot be reached: the whole process may open fewer connections"
        );
    }
}
