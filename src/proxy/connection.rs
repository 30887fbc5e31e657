//! The life of a connection, in one straight line.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::accept::Arrival;
use super::connect::{Link, connect};
use super::judge;
use super::logged::Kept;
use super::opening;
use super::worker::{Entered, Seated, Worker};
use crate::health::Trouble;
use crate::net::clock::{GRAIN, Tick};
use crate::net::relay::{Carried, Limits, Meter, Pair, Side, Stop, Watch};
use crate::net::stream::Stream;
use crate::state::sources::FromSource;
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
    /// Its route, once it has one.
    route: Cell<Option<u32>>,
    /// The client, as a PROXY header names it where one came; `None` over a unix socket.
    pub(super) source: Cell<Option<SocketAddr>>,
    pub(super) start: Tick,
    pub(super) meter: Meter,
    /// Its slot of the backend it was connected to.
    pub(super) lease: RefCell<Option<Lease>>,
    /// Why it is to end, once it was told to.
    told: Cell<Ending>,
    /// What it says about its backend was counted.
    is_judged: Cell<bool>,
    /// What only some have.
    extra: RefCell<Option<Box<Extra>>>,
    /// Its slots of the listener and of the process, and its seat on the thread.
    _guards: ((Slot, Slot), Seated),
}

/// What is known of some connections only.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Who had connected, where a PROXY header named another source.
    pub(super) peer: Option<SocketAddr>,
    /// Where the client had connected to, as a PROXY header said.
    pub(super) destination: Option<SocketAddr>,
    /// The server's name as the client asked for it.
    pub(super) name: Option<Box<[u8]>>,
    /// What a proxy calls the connection.
    pub(super) unique_id: Option<Box<[u8]>>,
    /// It counts as one of its source's.
    pub(super) from_source: Option<FromSource>,
    /// For the access log, where there is one.
    pub(super) kept: Option<Kept>,
}

impl Connection {
    /// The pool it was routed to.
    pub(super) fn pool(&self) -> Option<&Arc<Pool>> {
        let route = usize::try_from(self.route.get()?).ok()?;
        self.listener.pools.get(route)
    }

    pub(super) fn set_route(&self, route: usize) {
        self.route.set(u32::try_from(route).ok());
    }

    /// Reads what only some have.
    pub(super) fn extra<T>(&self, read: impl FnOnce(&Extra) -> Option<T>) -> Option<T> {
        self.extra.borrow().as_deref().and_then(read)
    }

    /// Writes what only some have.
    pub(super) fn with_extra(&self, write: impl FnOnce(&mut Extra)) {
        write(self.extra.borrow_mut().get_or_insert_default());
    }

    /// Changes what only some have, where it is there.
    pub(super) fn change_extra<T>(
        &self,
        change: impl FnOnce(&mut Extra) -> Option<T>,
    ) -> Option<T> {
        self.extra.borrow_mut().as_deref_mut().and_then(change)
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
            source: self.source.get(),
            pool: self.pool().map(|pool| Arc::clone(&pool.name)),
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
            && self.pool().is_some_and(|pool| pool.is_hot_standby)
            && self.was_cut(ending, now)
        {
            lease.backend().cuts.add(now);
        }
        let lasted = now.saturating_sub(self.start);
        self.listener.counters.end(ending, Duration::from_millis(lasted));
        self.log(worker, lease.as_ref(), ending, lasted);
        debug!(
            listener = %self.listener.name,
            source = self.source.get().map(tracing::field::display),
            pool = self.pool().map(|pool| tracing::field::display(&pool.name)),
            backend = lease.as_ref().map(|lease| tracing::field::display(&lease.backend().name)),
            bytes_in = self.meter.bytes_in(),
            bytes_out = self.meter.bytes_out(),
            duration_ms = lasted,
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
        route: Cell::new(None),
        source: Cell::new(accepted.peer),
        start,
        meter: Meter::new(start),
        lease: RefCell::default(),
        told: Cell::new(Ending::LocalError),
        is_judged: Cell::new(false),
        extra: RefCell::default(),
        _guards: (slots, seated),
    });
    let client = accepted.into_stream();
    connection.begin_log(&worker.shared, &client);
    open(connection, client)
}

/// From an accepted client to a relay. Where nothing has to be waited for, which is usual, all of
/// this is one step.
async fn open(connection: Entered, mut client: Stream) {
    match line(&connection, &mut client).await {
        Ok(link) => {
            let pair = Pair { client, backend: link.stream, unread: link.unread };
            *connection.lease.borrow_mut() = Some(link.lease);
            connection.carry(pair);
        }
        Err(ending) => {
            client.reset();
            connection.ended(ending);
        }
    }
}

/// Who it is and where it goes, then a backend there.
async fn line(connection: &Entered, client: &mut Stream) -> Result<Link, Ending> {
    let worker = connection.worker();
    let bytes = opening::pass(worker, connection, client).await?;
    let pool = connection.pool().ok_or(Ending::NoRoute)?;
    connect(worker, pool, connection, (client, bytes)).await
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
                self.failed(Trouble::Reset, self.start);
            }
            _ => {}
        }
    }

    fn served(&self) {
        if let (false, Some(lease), Some(pool)) =
            (self.is_judged.replace(true), &*self.lease.borrow(), self.pool())
        {
            judge::served(self.worker(), pool, lease);
        }
    }

    /// What it did that began `at` this time was a failure.
    fn failed(&self, trouble: Trouble, at: Tick) {
        if let (false, Some(lease), Some(pool)) =
            (self.is_judged.replace(true), &*self.lease.borrow(), self.pool())
        {
            // The clock that says when it began may be a little behind.
            judge::failed(self.worker(), pool, lease, (trouble, at + GRAIN, 0));
        }
    }
}

impl Watch for Entered {
    fn first_byte(&self) {
        self.keep_first_byte(self.worker().engine.clock.now());
        self.served();
    }

    fn silence(&self) -> Option<Tick> {
        self.pool()?.detection?.first_byte
    }

    fn silent(&self, ms: Tick) {
        let now = self.worker().engine.clock.now();
        self.failed(Trouble::NoFirstByte(ms), now.saturating_sub(ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_few_bytes() {
        let entry = crate::net::relay::Relays::<Entered>::BYTES_EACH;
        assert!(entry <= 200, "{entry} bytes");
        assert!(size_of::<Connection>() <= 208, "{} bytes", size_of::<Connection>());
    }
}
