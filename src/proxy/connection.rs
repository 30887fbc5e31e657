//! The life of a connection, in one straight line.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;

use super::accept::Arrival;
use super::connect::connect;
use super::ending::Ending;
use super::worker::{Entered, Seated, Worker};
use crate::net::clock::Tick;
use crate::net::relay::{Meter, Pair, Relay};
use crate::net::stream::Stream;
use crate::state::{Backend, Lease, Listener, Slot};

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
    /// Its slots of the listener and of the process, and its seat on the thread.
    _guards: ((Slot, Slot), Seated),
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
pub(super) fn serve(worker: &Rc<Worker>, arrival: Arrival) -> impl Future<Output = ()> + use<> {
    let Arrival { accepted, listener, slots, seated } = arrival;
    let start = worker.engine.clock.now();
    let connection = worker.enter(Connection {
        listener,
        source: accepted.peer,
        start,
        meter: Meter::new(start),
        backend: RefCell::default(),
        told: Cell::new(Ending::LocalError),
        _guards: (slots, seated),
    });
    open(connection, accepted.into_stream())
}

/// From an accepted client to a relay, which then lives in a task of its own: a task keeps the room
/// of its largest moment for life, and what connecting needs is not for idle connections to carry.
async fn open(connection: Entered, client: Stream) {
    let (worker, listener) = (connection.worker(), &connection.listener);
    match connect(worker, &listener.pool, &connection, client).await {
        Ok((client, link)) => {
            let pair = Pair { client, backend: link.stream, unread: link.unread };
            let relay = Relay::new(&worker.engine, pair);
            tokio::task::spawn_local(carry(connection, relay, link.lease));
        }
        Err((client, ending)) => {
            client.reset();
            connection.ended(ending);
        }
    }
}

/// Carries bytes until the connection ends.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice, for life")]
fn carry(connection: Entered, mut relay: Relay, lease: Lease) -> impl Future<Output = ()> {
    async move {
        let limits = &connection.listener.limits;
        let stop = relay.run(&connection.worker().engine, limits, &connection.meter).await;
        drop((relay, lease));
        let ending = Ending::of_relay(stop, connection.told());
        connection.ended(ending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of three arguments returns.
    fn size_of_returned<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_connection_costs_few_bytes() {
        // Besides: two registrations of 256 bytes, the task's header, and the connection's record.
        let carried = size_of_returned(carry);
        assert!(carried <= 320, "{carried} bytes");
        assert!(size_of::<Connection>() <= 160, "{} bytes", size_of::<Connection>());
    }
}
