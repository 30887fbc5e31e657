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
use crate::net::relay::{Meter, Pair, Relay, Side, Stop, Watch};
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

/// From an accepted client to a relay, which then lives in a task of its own: a task keeps the room
/// of its largest moment for life, and what connecting needs is not for idle connections to carry.
async fn open(connection: Entered, client: Stream) {
    let worker = connection.worker();
    match connect(worker, connection.pool(), &connection, client).await {
        Ok((client, link)) => {
            let pair = Pair { client, backend: link.stream, unread: link.unread };
            let relay = Relay::new(&worker.engine, pair);
            *connection.lease.borrow_mut() = Some(link.lease);
            tokio::task::spawn_local(carry(connection, relay));
        }
        Err((client, ending)) => {
            client.reset();
            connection.ended(ending);
        }
    }
}

/// Carries bytes until the connection ends.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice, for life")]
fn carry(connection: Entered, mut relay: Relay) -> impl Future<Output = ()> {
    async move {
        let limits = &connection.listener.limits;
        let told = (&connection.meter, &connection);
        let stop = relay.run(&connection.worker().engine, limits, told).await;
        drop(relay);
        connection.judge_end(stop);
        let ending = Ending::of_relay(stop, connection.told());
        connection.ended(ending);
    }
}

impl Entered {
    /// What the end of the relay says about the backend.
    fn judge_end(&self, stop: Stop) {
        match stop {
            Stop::Closed(_) => self.served(),
            Stop::Reset(Side::Backend) if self.meter.bytes_out() == 0 => {
                self.failed(Trouble::Reset)
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

    /// The size of what a function of two arguments returns.
    fn size_of_returned<A, B, R>(_: impl Fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_connection_costs_few_bytes() {
        // Besides: two registrations of 256 bytes, the task's header, and the connection's record.
        let carried = size_of_returned(carry);
        assert!(carried <= 320, "{carried} bytes");
        assert!(size_of::<Connection>() <= 176, "{} bytes", size_of::<Connection>());
    }
}
