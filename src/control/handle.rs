//! What may be asked of the control plane, by the admin endpoint and by embedders.
//!
//! A [`Handle`] sends a request to the controller, the only writer, and waits for the answer. What
//! comes back are plain values whose JSON is that of the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::event::Events;
use crate::config::model::Config;
use crate::config::{Changes, Problem};
use crate::health::Saved;
use crate::metrics::{Tally, View};

/// Requests that may wait for the controller; further ones wait to be sent.
const WAITING: usize = 64;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// There is no such thing (404).
    #[error("{0}")]
    Unknown(String),
    /// Not possible now (409).
    #[error("{0}")]
    NotNow(String),
    /// The file has problems, and nothing has changed (422).
    #[error("the configuration is not valid; nothing has changed")]
    Problems {
        /// The file, as this process was told it.
        file: Arc<str>,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// The control plane has ended (503).
    #[error("this process is about to end")]
    Gone,
}

/// What the instance is and has.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// A hash of the configuration in force.
    pub config_hash: String,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerStatus>,
    /// In the order of the configuration.
    pub pools: Vec<PoolStatus>,
}

/// A listener.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is bound, ports chosen by the kernel filled in.
    pub addresses: Vec<String>,
    /// Open connections.
    pub connections_active: u64,
    /// Connections accepted so far.
    pub connections_total: u64,
}

/// A pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its strategy.
    pub strategy: &'static str,
    /// Who is active, in a hot standby.
    pub active: Option<Arc<str>>,
    /// Who is to be active once its actions before traffic have succeeded, while they run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preparing: Option<Arc<str>>,
    /// In the order of the configuration.
    pub backends: Vec<BackendStatus>,
}

/// A backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub address: String,
    /// Its state: one word.
    pub state: &'static str,
    /// Whether new connections may go to it.
    pub usable: bool,
    /// Whether it is a candidate for the next connection.
    pub in_rotation: bool,
    /// When the state began.
    #[serde(serialize_with = "super::event::rfc3339")]
    pub since: SystemTime,
    /// Why it is so.
    pub reason: String,
    /// Its weight in force.
    pub weight: u32,
    /// Its priority.
    pub priority: u32,
    /// Open connections.
    pub connections_active: u64,
    /// Connections so far.
    pub connections_total: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes from the backend.
    pub bytes_out: u64,
}

/// An operator's word about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// No new connections; open ones go on.
    Drain,
    /// Back in use.
    Enable,
    /// No new connections, no checks, open ones closed.
    Disable,
    /// Another weight.
    Weight(u32),
    /// Close its open connections: all, or those idle for so long.
    Kill {
        /// How long.
        idle: Option<Duration>,
    },
}

/// An open connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionStatus {
    /// Its number within the process.
    pub id: u64,
    /// Its listener.
    pub listener: Arc<str>,
    /// The client; absent over a unix socket.
    pub source: Option<String>,
    /// The pool it was routed to, once it was.
    pub pool: Option<Arc<str>>,
    /// The backend it is connected to, once it is.
    pub backend: Option<Arc<str>>,
    /// Since it was accepted.
    pub age_ms: u64,
    /// Since a byte last moved.
    pub idle_ms: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes from the backend.
    pub bytes_out: u64,
}

/// Which connections; what is absent says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this pool.
    pub pool: Option<String>,
    /// Of this backend.
    pub backend: Option<String>,
    /// From this address.
    pub source: Option<std::net::IpAddr>,
}

/// A question what would be chosen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    /// The listener.
    pub listener: String,
    /// The client's address.
    pub source: std::net::IpAddr,
    /// The name it would ask for, over TLS.
    pub sni: Option<String>,
}

/// What would be chosen now, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The listener.
    pub listener: Arc<str>,
    /// The route, by its place in the list from 0; absent: none matches.
    pub route: Option<usize>,
    /// The pool it leads to.
    pub pool: Option<Arc<str>>,
    /// Its backends.
    pub candidates: Vec<ExplainedCandidate>,
    /// Who would get the connection.
    pub pick: Option<Arc<str>>,
    /// Why, in words.
    pub why: String,
}

/// A backend in an explanation.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedCandidate {
    /// Its name.
    pub backend: Arc<str>,
    /// Whether it could get the connection.
    pub usable: bool,
    /// Why, or why not.
    pub reason: String,
}

/// One request to the controller, with where the answer goes.
#[derive(Debug)]
pub(crate) enum Request {
    Status(Reply<Status>),
    Pool(String, Reply<PoolStatus>),
    Operate {
        pool: String,
        backend: String,
        operation: Operation,
        reply: Reply<BackendStatus>,
    },
    Failover {
        pool: String,
        to: Option<String>,
        reply: Reply<PoolStatus>,
    },
    Connections(Filter, Reply<Vec<ConnectionStatus>>),
    Explain(Explain, Reply<Explanation>),
    Reload(Reply<Changes>),
    /// What another process needs to go on; until it has or `GoOn` is said, operators wait.
    HandOver(Reply<Heritage>),
    /// No other process goes on.
    GoOn,
    /// The process before this one runs no actions any more.
    Alone,
    /// What another process has counted.
    Inherit(Tally, Reply<()>),
    /// The names of pools that have no backend in rotation.
    Unready(Reply<Vec<Arc<str>>>),
    /// What there is to be measured.
    Measures(Reply<View>),
}

/// What another process needs to go on, and what is counted here.
pub(crate) type Heritage = (Saved, View);

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A way to the controller. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    events: Events,
    config: Arc<ArcSwap<Config>>,
    /// No new connections are taken any more.
    is_ending: Arc<AtomicBool>,
}

impl Handle {
    /// A handle, and where the controller receives what it is asked.
    pub(crate) fn new(
        events: Events,
        config: Arc<ArcSwap<Config>>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel(WAITING);
        let is_ending = Arc::default();
        (Self { requests, events, config, is_ending }, inbox)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The events of the process.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Everything there is.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Request::Status).await
    }

    /// One pool.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] without such a pool, [`Error::Gone`].
    pub async fn pool(&self, pool: String) -> Result<PoolStatus, Error> {
        self.ask(|reply| Request::Pool(pool, reply)).await
    }

    /// Carries out an operator's word about a backend; the new state.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] without such a pool or backend, [`Error::Gone`].
    pub async fn operate(
        &self,
        pool: String,
        backend: String,
        operation: Operation,
    ) -> Result<BackendStatus, Error> {
        self.ask(|reply| Request::Operate { pool, backend, operation, reply }).await
    }

    /// Moves the active role of a hot-standby pool: to `to`, or to the next usable one in order.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] without such a pool or backend, [`Error::NotNow`] where the pool is no hot
    /// standby or the target cannot have the role, [`Error::Gone`].
    pub async fn failover(&self, pool: String, to: Option<String>) -> Result<PoolStatus, Error> {
        self.ask(|reply| Request::Failover { pool, to, reply }).await
    }

    /// Open connections.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub async fn connections(&self, filter: Filter) -> Result<Vec<ConnectionStatus>, Error> {
        self.ask(|reply| Request::Connections(filter, reply)).await
    }

    /// What would be chosen now, and why. Moves no counter.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] without such a listener, [`Error::Gone`].
    pub async fn explain(&self, question: Explain) -> Result<Explanation, Error> {
        self.ask(|reply| Request::Explain(question, reply)).await
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    ///
    /// [`Error::Problems`], [`Error::NotNow`] where there is no file to read or an address cannot be
    /// bound, [`Error::Gone`].
    pub async fn reload(&self) -> Result<Changes, Error> {
        self.ask(Request::Reload).await
    }

    /// All that another process needs to go on, and what is counted. From then on no operator's word is
    /// taken, because the other one would not know of it; until [`go_on`](Self::go_on). A reload that
    /// is under way is waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub(crate) async fn hand_over(&self) -> Result<Heritage, Error> {
        self.ask(Request::HandOver).await
    }

    /// No other process goes on: operators are listened to again.
    pub(crate) async fn go_on(&self) {
        // One that has ended listens to nobody.
        let _ = self.requests.send(Request::GoOn).await;
    }

    /// The process before this one has ended its recovery actions: those that it was stopped at begin
    /// anew. Blocks as [`inherit`](Self::inherit) does.
    pub(crate) fn alone(&self) {
        // One that has ended begins nothing.
        let _ = self.requests.blocking_send(Request::Alone);
    }

    /// Adds what another process has counted to what this one counts. Blocks until that is done: not
    /// to be called where others wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub(crate) fn inherit(&self, tally: Tally) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Inherit(tally, reply);
        self.requests.blocking_send(request).map_err(|_| Error::Gone)?;
        answer.blocking_recv().map_err(|_| Error::Gone)?
    }

    /// From now on this process is ready for nobody: whoever sends it clients is to send them elsewhere.
    pub(crate) fn begin_to_end(&self) {
        self.is_ending.store(true, Relaxed);
    }

    /// The names of the pools that have no backend in rotation.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`], also once no new connections are taken.
    pub async fn unready(&self) -> Result<Vec<Arc<str>>, Error> {
        if self.is_ending.load(Relaxed) {
            return Err(Error::Gone);
        }
        self.ask(Request::Unready).await
    }

    /// What there is to be measured.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub async fn measures(&self) -> Result<View, Error> {
        self.ask(Request::Measures).await
    }
}
