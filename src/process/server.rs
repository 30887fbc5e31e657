//! A running balancer: its listening sockets and its threads.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::access::{Access, AccessError};
use super::doors::{BindError, Doors};
use super::endpoint::{AdminError, Endpoint};
use super::host::{Around, Held};
use super::limits::{Needs, Shares, raise_descriptors, share, threads};
use super::upgrade::{Attempt, Elders, Estate, Inheritance, Successor, Telling, UpgradeError};
use crate::admin;
use crate::balance::Registry;
use crate::config::model::Config;
use crate::control::reload::Source;
use crate::control::{self, Control, Setup};
use crate::metrics::{Ledger, Tally};
use crate::net::addr::Address;
use crate::net::clock::Clock;
use crate::net::dial::EphemeralPorts;
use crate::proxy::{Alive, Fleet, Inbox, Order, Shared, start};
use crate::state::counters::ProcessCounters;
use crate::state::{Ending, Reporter, Slots, Snapshot, Threads};

/// How long connections may take to be told that they end, once they must.
const FAREWELL: Duration = Duration::from_secs(6);

/// How long the admin endpoint may take to answer who has asked already.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

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
    /// Ends when the admin endpoint has answered the last request.
    answered: oneshot::Receiver<Infallible>,
    /// Where processes before this one tell what they still count.
    elders: Elders,
    /// Tells what this one still counts, once another serves.
    telling: Option<Telling>,
    /// Ends when the last thread has ended.
    alive: mpsc::Receiver<Infallible>,
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
        let needs = Needs::of(config, threads);
        let shares = shares(config, needs, descriptors)?;
        shares.warn_of_checks(&needs);
        let doors = Held::new(Doors::open(&snapshot, threads, &mut inheritance)?);
        inheritance.warn_of_rest();
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
            checks: shares.checks,
            prepared: None,
        });
        let (saved, counted) = (inheritance.state.take(), std::mem::take(&mut inheritance.counted));
        let setup = Setup {
            clock,
            ports,
            source,
            host,
            threads: notices,
            reports,
            counters,
            saved,
            counted,
        };
        let (last, answered) = oneshot::channel::<Infallible>();
        let faces = move |handle| async move {
            admin::serve_as_told(told, handle).await;
            drop(last);
        };
        let control = Control::start(setup, config.clone(), snapshot, faces)?;
        let end_all = tokio::sync::watch::Sender::new(None);
        let shared =
            Arc::new(Shared { clock, ports, reporter, slots, fleet, end_all, access: recorder });
        let (alive, all_ended) = Alive::new();
        let sockets = doors.lock().hand_out(Arc::clone(&shared));
        let server = Self {
            shared,
            control: Some(control),
            doors,
            endpoint,
            access,
            answered,
            elders: Elders::default(),
            telling: None,
            alive: all_ended,
        };
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
        server.begin_to_answer(inheritance)?;
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

    /// Opens the admin endpoint: where another process is taken over from, once it has told all that it
    /// had counted when it answered last.
    fn begin_to_answer(&self, inheritance: Inheritance) -> Result<(), StartError> {
        if !inheritance.is_upgrade() {
            self.endpoint.lock().open_up();
            return Ok(());
        }
        let channels = inheritance.answer().map_err(StartError::Abandoned)?;
        info!("another process has been taken over from");
        if let Some(control) = &self.control {
            let (endpoint, handle) = (self.endpoint.clone(), control.handle().clone());
            self.elders.hear(channels, control.handle(), move || {
                endpoint.lock().open_up();
                // It has retired before it told what it had counted.
                handle.alone();
            });
        }
        Ok(())
    }

    /// Starts the binary anew on the same sockets, with all that is known. Until that has come to an end
    /// no operator's word is taken. What was counted by then comes with it.
    pub(super) async fn begin_upgrade(&self) -> Result<(Attempt, Tally), UpgradeError> {
        let control = self.control.as_ref().ok_or(UpgradeError::Ending)?;
        let (state, view) = control.handle().hand_over().await.map_err(|_| UpgradeError::Ending)?;
        let counted = Ledger::new(view, &Tally::new()).news();
        let (doors, admin) = (self.doors.lock().passed(), self.endpoint.lock().passed());
        let estate = Estate { doors, admin, state, counted: counted.clone() };
        Ok((Attempt::start(estate, self.elders.clone())?, counted))
    }

    /// The new process does not serve: this one goes on as before.
    pub(super) async fn go_on(&self) {
        if let Some(control) = &self.control {
            control.handle().go_on().await;
        }
    }

    /// The new process serves: this one accepts and answers no more. What remains is to
    /// [`stop`](Self::stop) it.
    pub(super) async fn leave_to(&mut self, successor: Successor, counted: &Tally) {
        self.doors.lock().leave(&successor.taken);
        self.endpoint.lock().leave();
        // From here on the other one checks, decides and saves.
        let Some(control) = self.control.take() else { return };
        let _ = tokio::time::timeout(LAST_ANSWERS, &mut self.answered).await;
        let view = control.handle().measures().await.unwrap_or_default();
        control.retire();
        // Not before the last scrape was answered here: what is shown there is never less.
        self.tell(successor, Ledger::new(view, counted));
    }

    fn tell(&mut self, successor: Successor, ledger: Ledger) {
        match Telling::start(successor.channel, ledger) {
            Ok(telling) => self.telling = Some(telling),
            Err(error) => warn!(%error, "what this process counts from now on is lost"),
        }
    }

    /// Tells the process that serves what was counted to the end. Blocks for as long as that takes.
    pub(super) fn end_telling(&mut self) {
        if let Some(telling) = self.telling.take() {
            telling.finish();
        }
    }

    /// Stops accepting, waits for open connections as long as `grace`, ends the rest.
    ///
    /// `None` waits for ever. Dropping the future stops nothing more than what was begun.
    pub async fn stop(&mut self, grace: Option<Duration>) {
        if let Some(control) = &self.control {
            control.handle().begin_to_end();
        }
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
        self.doors.lock().let_go();
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

fn shares(config: &Config, needs: Needs, available: u64) -> Result<Shares, StartError> {
    let wanted = config.runtime.max_connections;
    share(available, needs, wanted).map_err(|possible| match wanted.map(Into::into) {
        Some(wanted) => StartError::Descriptors { wanted, available, possible },
        None => StartError::NoDescriptors { available, sockets: needs.sockets },
    })
}
