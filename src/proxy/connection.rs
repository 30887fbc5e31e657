//! The life of a connection, in one straight line.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tracing::debug;

use super::accept::Arrival;
use super::connect::connect;
use super::judge;
use super::worker::{Entered, Seated, Worker};
use crate::health::Trouble;
use crate::net::clock::Tick;
use crate::net::relay::{Carried, Limits, Meter, Pair, Side, Stop, Watch};
use crate::net::stream::Stream;
use crate::state::{Ending, Lease, Listener, Open, Pool, Slot};

/// A connection that its backend closes after this long counts as cut off, where that matters: one
/// that is younger was probably finished.
const CUT_AFTER: Tick = 1_000;

/// What is known of an open connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Unique within the process.
    pub(super) number: u64,
    pub(super) listener: Arc<Listener>,
    /// The client; `None` over a unix socket.
    pub(super) source: Option<SocketAddr>,
    pub(super) start: Tick,
    pub(super) meter: Meter,
    /// Its slot of the backend it was connected to.
    pub(super) lease: RefCell<Option<Lease>>,
    /// Why it is to end, once it was told to.
    told: Cell<Ending>,
    /// What it says about its backend was counted.
    is_judged: Cell<bool>,
    /// Its slots of the listener and of the process, and its seat on the thread.
    _guards: ((Slot, Slot), Seated),
}

impl Connection {
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.listener.pool
    }

    /// Ends the connection for `reason`: what was read is delivered, then both sides get a FIN.
    pub(super) fn end(&self, reason: Ending) {
        self.told.set(reason);
        self.meter.stop();
    }

    /// Why it is to end, once it was told to.
    pub(super) fn told(&self) -> Ending {
        self.told.get()
    }

    /// The backend it is connected to, by id.
    pub(super) fn backend(&self) -> Option<u32> {
        self.lease.borrow().as_ref().map(|lease| lease.backend().id)
    }

    /// What is known of it now.
    pub(super) fn describe(&self) -> Open {
        let lease = self.lease.borrow();
        let backend = lease.as_ref().map(Lease::backend);
        Open {
            number: self.number,
            listener: Arc::clone(&self.listener.name),
            source: self.source,
            pool: Arc::clone(&self.pool().name),
            backend: backend.map(|backend| (backend.id, Arc::clone(&backend.name))),
            start: self.start,
            active: self.meter.active(),
            bytes_in: self.meter.bytes_in(),
            bytes_out: self.meter.bytes_out(),
        }
    }

    /// The one place where the end of a connection is recorded.
    pub(super) fn record(&self, worker: &Worker, ending: Ending) {
        let lease = self.lease.take();
        let now = worker.engine.clock.now();
        if let Some(lease) = &lease
            && self.pool().is_hot_standby
            && self.was_cut(ending, now)
        {
            lease.backend().cuts.add(now);
        }
        debug!(
            listener = %self.listener.name,
            source = self.source.map(tracing::field::display),
            pool = %self.pool().name,
            backend = lease.as_ref().map(|lease| tracing::field::display(&lease.backend().name)),
            bytes_in = self.meter.bytes_in(),
            bytes_out = self.meter.bytes_out(),
            duration_ms = now.saturating_sub(self.start),
            worker = worker.index,
            end = ending.as_str(),
            "connection ended"
        );
    }

    /// Whether its backend, or its backend's loss of the active role, has cut it off.
    fn was_cut(&self, ending: Ending, now: Tick) -> bool {
        match ending {
            Ending::BackendReset | Ending::Evicted | Ending::Demoted => true,
            Ending::BackendClosed => now.saturating_sub(self.start) >= CUT_AFTER,
            _ => false,
        }
    }
}

/// Serves one accepted connection until both of its sockets are closed.
pub(super) fn serve(worker: &Rc<Worker>, arrival: Arrival) -> impl Future<Output = ()> + use<> {
    let Arrival { accepted, listener, slots, seated } = arrival;
    let start = worker.engine.clock.now();
    let connection = worker.enter(Connection {
        number: worker.next_number(),
        listener,
        source: accepted.peer,
        start,
        meter: Meter::new(start),
        lease: RefCell::default(),
        told: Cell::new(Ending::LocalError),
        is_judged: Cell::new(false),
        _guards: (slots, seated),
    });
    open(connection, accepted.into_stream())
}

/// From an accepted client to a relay. Where nothing has to be waited for, which is usual, all of
/// this is one step.
async fn open(connection: Entered, client: Stream) {
    let worker = connection.worker();
    match connect(worker, connection.pool(), &connection, client).await {
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

impl Carried for Entered {
    fn limits(&self) -> &Limits {
        &self.listener.limits
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn ended(self, stop: Stop) {
        self.judge_end(stop);
        let ending = Ending::of_relay(stop, self.told());
        self.ended(ending);
    }
}

impl Entered {
    /// What the end of the relay says about the backend.
    fn judge_end(&self, stop: Stop) {
        match stop {
            Stop::Closed(_) => self.served(),
            Stop::Reset(Side::Backend) if self.meter.bytes_out() == 0 => {
                self.failed(Trouble::Reset);
            }
            _ => {}
        }
    }

    fn served(&self) {
        if let (false, Some(lease)) = (self.is_judged.replace(true), &*self.lease.borrow()) {
            judge::served(self.worker(), self.pool(), lease);
        }
    }

    fn failed(&self, trouble: Trouble) {
        if let (false, Some(lease)) = (self.is_judged.replace(true), &*self.lease.borrow()) {
            judge::failed(self.worker(), self.pool(), lease, (trouble, self.start));
        }
    }
}

impl Watch for Entered {
    fn first_byte(&self) {
        self.served();
    }

    fn silence(&self) -> Option<Tick> {
        self.pool().detection?.first_byte
    }

    fn silent(&self, ms: Tick) {
        self.failed(Trouble::NoFirstByte(ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_few_bytes() {
        let entry = crate::net::relay::Relays::<Entered>::BYTES_EACH;
        assert!(entry <= 200, "{entry} bytes");
        assert!(size_of::<Connection>() <= 184, "{} bytes", size_of::<Connection>());
    }
}
