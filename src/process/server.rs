//! A running balancer: its listening sockets and its threads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::limits::{raise_descriptors, share, threads};
use crate::balance::Registry;
use crate::config::model::Config;
use crate::net::addr::Address;
use crate::net::clock::Clock;
use crate::net::dial::EphemeralPorts;
use crate::net::listen::{Bound, bind_all};
use crate::proxy::{Alive, Ending, Fleet, Order, Shared, Socket, start};
use crate::state::{Listener, Slots, Snapshot};

/// How long connections may take to be told that they end, once they must.
const FAREWELL: Duration = Duration::from_secs(6);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be listened on.
    #[error("listener {listener}: cannot listen on {address}: {error}{}", advice(error))]
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
    /// A thread could not be started.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
    /// The configuration names something that is not there.
    #[error("no pool or strategy is called {0}")]
    Unknown(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there (ss -ltnp shows which)",
        io::ErrorKind::PermissionDenied => {
            "; ports under 1024 need CAP_NET_BIND_SERVICE or a lower \
             net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrNotAvailable => "; this host has no such address",
        _ => "",
    }
}

/// A running balancer. Dropping it does not stop it: see [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<(String, Address)>,
    unix_paths: Vec<std::path::PathBuf>,
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
        let snapshot = Snapshot::new(config, registry).map_err(StartError::Unknown)?;
        let descriptors = raise_descriptors();
        let wanted = config.runtime.max_connections;
        let addresses: usize = snapshot.listeners.iter().map(|listener| listener.bind.len()).sum();
        let shares =
            share(descriptors, addresses * threads, threads, wanted).map_err(|possible| {
                let wanted = wanted.map_or(1, Into::into);
                StartError::Descriptors { wanted, available: descriptors, possible }
            })?;
        let bound = bind(&snapshot.listeners, threads)?;
        let (fleet, inboxes) = Fleet::new(threads);
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            ports: EphemeralPorts::read(),
            slots: Arc::new(Slots::new(Some(shares.connections))),
            fleet,
            end_all: tokio::sync::watch::Sender::new(None),
        });
        let (alive, all_ended) = Alive::new();
        let server = Self {
            shared: Arc::clone(&shared),
            addresses: bound.iter().map(|(l, b)| (l.name.to_string(), b.address.clone())).collect(),
            unix_paths: bound.iter().filter_map(|(_, b)| unix_path(&b.address)).collect(),
            alive: all_ended,
        };
        let log = bound.iter().map(|(l, b)| (Arc::clone(l), b.address.clone())).collect::<Vec<_>>();
        let sockets = spread(bound, threads);
        for (index, (orders, sockets)) in inboxes.into_iter().zip(sockets).enumerate() {
            let shared = Arc::clone(&shared);
            start(index, shared, (orders, alive.clone()), sockets, shares.pipes)
                .map_err(StartError::Thread)?;
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
        self.shared.fleet.tell_all(|| Order::Drain);
        self.unix_paths.drain(..).for_each(|path| drop(std::fs::remove_file(path)));
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

fn unix_path(address: &Address) -> Option<std::path::PathBuf> {
    match address {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) => None,
    }
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
