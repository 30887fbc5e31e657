//! What the access log says of a connection, from accept to its end. Nothing is kept where it is off.

use std::time::{Duration, SystemTime};

use super::connection::Connection;
use super::worker::{Shared, Worker};
use crate::log::access::{Place, Record, Tried};
use crate::net::addr::Address;
use crate::net::clock::Tick;
use crate::net::dial::ConnectError;
use crate::net::stream::Stream;
use crate::state::{Backend, Ending, Lease, Listener};

/// What is kept of a connection for its line.
#[derive(Debug, Default)]
pub(super) struct Kept {
    local: Option<Place>,
    tried: Vec<Tried>,
    connect_ms: Option<u64>,
    first_byte_ms: Option<u64>,
}

impl Kept {
    fn of(listener: &Listener, client: &Stream) -> Self {
        Self { local: local(listener, client), ..Self::default() }
    }
}

/// Where the client was accepted; not known where that may be one of several unix sockets.
fn local(listener: &Listener, client: &Stream) -> Option<Place> {
    client.local().map(Place::from).or_else(|| {
        let mut unix = listener.bind.iter().filter(|bind| matches!(bind, Address::Unix(_)));
        unix.next().filter(|_| unix.next().is_none()).map(Place::from)
    })
}

impl Shared {
    fn is_logging(&self) -> bool {
        self.access.load().is_some()
    }
}

impl Connection {
    /// Begins to keep what the log will say, if there is one.
    pub(super) fn begin_log(&self, shared: &Shared, client: &Stream) {
        if shared.is_logging() {
            let kept = Kept::of(&self.listener, client);
            self.with_extra(|extra| extra.kept = Some(kept));
        }
    }

    fn keep(&self, write: impl FnOnce(&mut Kept)) {
        self.change_extra(|extra| extra.kept.as_mut().map(write));
    }

    /// A backend has failed it, after `took`.
    pub(super) fn keep_failure(&self, backend: &Backend, error: ConnectError, took: Duration) {
        self.keep(|kept| {
            let (backend, ms) = (backend.name.clone(), milliseconds(took));
            kept.tried.push(Tried { backend, error: error.as_str(), ms });
        });
    }

    /// Connecting has taken so long.
    pub(super) fn keep_connect(&self, took: Duration) {
        self.keep(|kept| kept.connect_ms = Some(milliseconds(took)));
    }

    /// The backend's first byte has come.
    pub(super) fn keep_first_byte(&self, now: Tick) {
        // The coarse clock may be behind the one that says how long connecting took.
        let ms = now.saturating_sub(self.start);
        self.keep(|kept| kept.first_byte_ms = Some(ms.max(kept.connect_ms.unwrap_or(0))));
    }

    /// Hands the line over.
    pub(super) fn log(&self, worker: &Worker, lease: Option<&Lease>, ending: Ending, lasted: Tick) {
        let Some(recorder) = &*worker.shared.access.load() else { return };
        let backend = lease.map(Lease::backend);
        let taken = self.change_extra(|extra| {
            let kept = extra.kept.take().unwrap_or_default();
            Some((kept, extra.peer, extra.name.take()))
        });
        let (kept, peer, sni) = taken.unwrap_or_default();
        let Kept { local, tried, connect_ms, first_byte_ms } = kept;
        recorder.record(Box::new(Record {
            time: wall(),
            listener: self.listener.name.clone(),
            local,
            source: self.source.get(),
            peer: peer.filter(|peer| Some(*peer) != self.source.get()),
            pool: self.pool().map(|pool| pool.name.clone()),
            backend: backend.map(|backend| backend.name.clone()),
            backend_address: backend.map(|backend| Place::from(&backend.address)),
            tried,
            connect_ms,
            first_byte_ms,
            bytes_in: self.meter.bytes_in(),
            bytes_out: self.meter.bytes_out(),
            duration_ms: lasted,
            end: ending,
            sni,
        }));
    }
}

/// Hands over the line of a connection that was closed when it was accepted.
pub(super) fn log_refused(
    worker: &Worker,
    listener: &Listener,
    source: Option<std::net::SocketAddr>,
    client: &Stream,
) {
    let Some(recorder) = &*worker.shared.access.load() else { return };
    recorder.record(Box::new(Record {
        time: wall(),
        listener: listener.name.clone(),
        local: local(listener, client),
        source,
        peer: None,
        pool: None,
        backend: None,
        backend_address: None,
        tried: Vec::new(),
        connect_ms: None,
        first_byte_ms: None,
        bytes_in: 0,
        bytes_out: 0,
        duration_ms: 0,
        end: Ending::OverLimit,
        sni: None,
    }));
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "shown to people")]
fn wall() -> SystemTime {
    SystemTime::now()
}
