//! A running balancer: its listening sockets and its threads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::access::{Access, AccessError};
use super::doors::{BindError, Doors};
use super::endpoint::{AdminError, Endpoint};
use super::host::{Around, Held};
use super::limits::{Shares, raise_descriptors, share, threads};
use super::upgrade::{Estate, Inheritance, UpgradeError, start_successor};
use crate::admin;
use crate::balance::Registry;
use crate::config::model::Config;
use crate::control::reload::Source;
use crate::control::{self, Control, Setup};
use crate::net::addr::Address;
use crate::net::clock::Clock;
use crate::net::dial::EphemeralPorts;
use crate::proxy::{Alive, Fleet, Inbox, Order, Shared, start};
use crate::state::counters::ProcessCounters;
use crate::state::{Ending, Reporter, Slots, Snapshot, Threads};

/// How long connections may take to be told that they end, once they must.
const FAREWELL: Duration = Duration::from_secs(6);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin endpoint could not be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The access log could not be opened.
    #[error(transparent)]
    Access(#[from] AccessError),
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
    /// The process that this one was to take over from has given up on it, and goes on serving.
    #[error("the old process goes on serving: {0}")]
    Abandoned(#[source] io::Error),
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

/// A running balancer. Dropping it does not stop it: see [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    /// `None` once it has been stopped.
    control: Option<Control>,
    doors: Held<Doors>,
    endpoint: Held<Endpoint>,
    access: Held<Access>,
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
        let source = Source { path: None, registry: registry.clone() };
        Self::start_from(config, source, Inheritance::default())
    }

    /// The same for a configuration that was read from `source`, which a reload reads again, on what
    /// other processes have passed on.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing is left running then.
    pub fn start_from(
        config: &Config,
        source: Source,
        mut inheritance: Inheritance,
    ) -> Result<Self, StartError> {
        let threads = threads(config.runtime.threads);
        let snapshot = Arc::new(Snapshot::new(config, None).map_err(StartError::Unknown)?);
        let descriptors = raise_descriptors();
        let shares = shares(config, &snapshot, (descriptors, threads))?;
        let doors = Held::new(Doors::open(&snapshot, threads, &mut inheritance)?);
        let (endpoint, told) = Endpoint::open(config.admin.as_ref(), inheritance.admin.take())?;
        let endpoint = Held::new(endpoint);
        let counters = Arc::new(ProcessCounters::default());
        let access = Access::open(&config.log, Arc::clone(&counters))?;
        let (recorder, access) = (access.recorder(), Held::new(access));
        let (fleet, orders) = Fleet::new(threads);
        let (reporter, reports) = Reporter::new();
        let (clock, ports) = (Clock::start(), EphemeralPorts::read());
        let (notices, heard) = Threads::new(threads);
        let slots = Arc::new(Slots::new(Some(shares.connections)));
        let host = Box::new(Around {
            doors: doors.clone(),
            endpoint: endpoint.clone(),
            access: access.clone(),
            slots: Arc::clone(&slots),
            descriptors,
            threads,
            prepared: None,
        });
        let saved = inheritance.state.take();
        let setup =
            Setup { clock, ports, source, host, threads: notices, reports, counters, saved };
        let faces = |handle| admin::serve_as_told(told, handle);
        let control = Control::start(setup, config.clone(), snapshot, faces)?;
        let end_all = tokio::sync::watch::Sender::new(None);
        let shared =
            Arc::new(Shared { clock, ports, reporter, slots, fleet, end_all, access: recorder });
        let (alive, all_ended) = Alive::new();
        let sockets = doors.lock().hand_out(Arc::clone(&shared));
        let server =
            Self { shared, control: Some(control), doors, endpoint, access, alive: all_ended };
        let inboxes = orders.into_iter().zip(heard);
        let inboxes = inboxes.map(|(orders, notices)| Inbox { orders, notices });
        for (index, (inbox, sockets)) in inboxes.zip(sockets).enumerate() {
            let shared = Arc::clone(&server.shared);
            let started = start(index, shared, (inbox, alive.clone()), sockets, shares.pipes);
            if let Err(error) = started {
                server.shared.fleet.tell_all(|| Order::Drain);
                return Err(StartError::Thread(error));
            }
        }
        server.doors.lock().announce(shares.connections);
        server.endpoint.lock().announce();
        if inheritance.is_upgrade() {
            inheritance.answer().map_err(StartError::Abandoned)?;
            info!("another process has been taken over from");
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
    pub fn addresses(&self) -> Vec<(String, Address)> {
        self.doors.lock().addresses()
    }

    /// Where the admin endpoint is bound, if there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<Address> {
        self.endpoint.lock().address()
    }

    /// Opens the file of the access log again: it may have been renamed.
    pub fn reopen_access_log(&self) {
        self.access.lock().reopen();
    }

    /// Ends the access log with all lines that are there. Blocks, for two seconds at most.
    pub fn end_access_log(&self) {
        self.access.lock().end();
    }

    /// A way to ask the control plane; `None` once the server has been stopped.
    #[must_use]
    pub fn control(&self) -> Option<&control::Handle> {
        self.control.as_ref().map(Control::handle)
    }

    /// How long a stop waits for open connections, as the configuration in force has it; `None`: for
    /// ever.
    #[must_use]
    pub fn grace(&self) -> Option<Duration> {
        self.control().and_then(|control| control.config().runtime.shutdown_grace)
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

    /// Starts the binary anew on the same sockets, with all that is known. When this returns, the new
    /// process serves and this one accepts no more; what remains is to [`stop`](Self::stop) it.
    ///
    /// # Errors
    ///
    /// Why the new process does not serve; this one goes on as before.
    pub async fn upgrade(&mut self) -> Result<u32, UpgradeError> {
        let control = self.control.as_ref().ok_or(UpgradeError::Ending)?;
        let state = control.handle().saved().await.map_err(|_| UpgradeError::Ending)?;
        let (doors, admin) = (self.doors.lock().passed(), self.endpoint.lock().passed());
        let estate = Estate { doors, admin, state };
        let started = tokio::task::spawn_blocking(move || start_successor(&estate)).await;
        let successor = started.map_err(|_| UpgradeError::Ending)??;
        self.doors.lock().leave(&successor.taken);
        self.endpoint.lock().leave();
        // From here on the other one checks, decides and saves.
        if let Some(control) = self.control.take() {
            control.retire();
        }
        Ok(successor.pid)
    }

    /// Stops accepting, waits for open connections as long as `grace`, ends the rest.
    ///
    /// `None` waits for ever. Dropping the future stops nothing more than what was begun.
    pub async fn stop(&mut self, grace: Option<Duration>) {
        self.end_connections(grace).await;
        self.endpoint.lock().close();
        self.end_access_log();
        if let Some(control) = self.control.take() {
            // Blocks for as long as writing the state file takes: nobody is served any more.
            control.stop();
        }
    }

    async fn end_connections(&mut self, grace: Option<Duration>) {
        self.shared.fleet.tell_all(|| Order::Drain);
        self.doors.lock().remove_paths();
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

fn shares(
    config: &Config,
    snapshot: &Snapshot,
    (available, threads): (u64, usize),
) -> Result<Shares, StartError> {
    let addresses: usize = snapshot.listeners.iter().map(|listener| listener.bind.len()).sum();
    let (sockets, wanted) = (addresses * threads, config.runtime.max_connections);
    share(available, sockets, threads, wanted).map_err(|possible| match wanted.map(Into::into) {
        Some(wanted) => StartError::Descriptors { wanted, available, possible },
        None => StartError::NoDescriptors { available, sockets },
    })
}
