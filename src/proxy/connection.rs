//! The life of a connection, in one straight line.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;

use super::accept::Arrival;
use super::connect::connect;
use super::ending::Ending;
use super::worker::Worker;
use crate::net::clock::Tick;
use crate::net::relay::{Meter, Pair, relay};
use crate::net::stream::Stream;
use crate::state::{Backend, Listener};

/// What is known of an open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) listener: Arc<Listener>,
    /// The client; `None` over a unix socket.
    pub(super) source: Option<SocketAddr>,
    pub(super) start: Tick,
    pub(super) meter: Meter,
    /// Whom it was connected to.
    pub(super) backend: RefCell<Option<Arc<Backend>>>,
    /// Why it is to end, once it was told to.
    told: Cell<Ending>,
}

impl Connection {
    /// Ends the connection for `reason`: what was read is delivered, then both sides get a FIN.
    pub(super) fn end(&self, reason: Ending) {
        self.told.set(reason);
        self.meter.stop();
    }

    /// Why it is to end, once it was told to.
    pub(super) fn told(&self) -> Ending {
        self.told.get()
    }

    /// The one place where the end of a connection is recorded.
    pub(super) fn record(&self, worker: &Worker, ending: Ending) {
        let backend = self.backend.borrow();
        debug!(
            listener = %self.listener.name,
            source = self.source.map(tracing::field::display),
            pool = %self.listener.pool.name,
            backend = backend.as_ref().map(|backend| tracing::field::display(&backend.name)),
            bytes_in = self.meter.bytes_in(),
            bytes_out = self.meter.bytes_out(),
            duration_ms = worker.engine.clock.now().saturating_sub(self.start),
            worker = worker.index,
            end = ending.as_str(),
            "connection ended"
        );
    }
}

/// Serves one accepted connection until both of its sockets are closed.
pub(super) async fn serve(worker: Rc<Worker>, arrival: Arrival) {
    let Arrival { accepted, listener, slots: _slots, seated: _seated } = arrival;
    let start = worker.engine.clock.now();
    let connection = worker.enter(Connection {
        listener,
        source: accepted.peer,
        start,
        meter: Meter::new(start),
        backend: RefCell::default(),
        told: Cell::new(Ending::LocalError),
    });
    let ending = line(connection.worker(), &connection, accepted.into_stream()).await;
    connection.ended(ending);
}

/// The line: each of its steps is a module.
async fn line(worker: &Worker, connection: &Connection, client: Stream) -> Ending {
    let pool = &connection.listener.pool;
    let (link, client) = match connect(worker, pool, connection, client).await {
        Ok(connected) => connected,
        Err((ending, client)) => {
            client.reset();
            return ending;
        }
    };
    let _lease = link.lease;
    let pair = Pair { client, backend: link.stream, unread: link.unread };
    let stop = relay(&worker.engine, pair, &connection.listener.limits, &connection.meter).await;
    Ending::of_relay(stop, connection.told())
}
