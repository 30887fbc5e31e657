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
use crate::net::relay::{Carried, Limits, Meter, Pair, Stop, Watch};
use crate::net::stream::Stream;
use crate::state::{Lease, Listener, Slot};

/// What is known of an open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) listener: Arc<Listener>,
    /// The client; `None` over a unix socket.
    pub(super) source: Option<SocketAddr>,
    pub(super) start: Tick,
    pub(super) meter: Meter,
    /// Its slot of the backend it was connected to.
    pub(super) lease: RefCell<Option<Lease>>,
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
        let lease = self.lease.take();
        debug!(
            listener = %self.listener.name,
            source = self.source.map(tracing::field::display),
            pool = %self.listener.pool.name,
            backend = lease.as_ref().map(|lease| tracing::field::display(&lease.backend().name)),
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
        lease: RefCell::default(),
        told: Cell::new(Ending::LocalError),
        _guards: (slots, seated),
    });
    open(connection, accepted.into_stream())
}

/// From an accepted client to a relay. Where nothing has to be waited for, which is usual, all of
/// this is one step.
async fn open(connection: Entered, client: Stream) {
    let worker = connection.worker();
    match connect(worker, &connection.listener.pool, &connection, client).await {
        Ok((client, link)) => {
            let pair = Pair { client, backend: link.stream, unread: link.unread };
            *connection.lease.borrow_mut() = Some(link.lease);
            connection.carry(pair);
        }
        Err((client, ending)) => {
            client.reset();
            connection.ended(ending);
        }
    }
}

impl Entered {
    /// Carries bytes until the connection ends.
    fn carry(self, pair: Pair) {
        let worker = self.for_itself();
        worker.relays.carry(&worker.engine, pair, self);
    }
}

impl Watch for Entered {}

impl Carried for Entered {
    fn limits(&self) -> &Limits {
        &self.listener.limits
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn ended(self, stop: Stop) {
        let ending = Ending::of_relay(stop, self.told());
        self.ended(ending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_few_bytes() {
        // Besides: its entry among the relays, see there.
        assert!(size_of::<Connection>() <= 176, "{} bytes", size_of::<Connection>());
    }
}
