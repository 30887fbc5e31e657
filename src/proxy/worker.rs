//! One thread of the data path: its reactor, its random source, its buffers, its connections.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::Builder as ThreadBuilder;

use arc_swap::ArcSwapOption;
use slab::Slab;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tracing::{debug, error};

use super::accept::{Arrival, Door, Socket, serve_here};
use super::connect::Attempts;
use super::connection::Connection;
use crate::log::access::Recorder;
use crate::net::caught::caught;
use crate::net::clock::{Clock, Tick};
use crate::net::dial::EphemeralPorts;
use crate::net::drive::drive;
use crate::net::reactor::Reactor;
use crate::net::relay::{Engine, Relays};
use crate::state::{Ack, Ending, Notice, Open, Reporter, Slots, Which};
use std::os::fd::OwnedFd;
use tokio::task::JoinHandle;

/// What all threads of the data path share.
#[derive(Debug)]
pub struct Shared {
    /// The process's clock.
    pub clock: Clock,
    /// Ports that a connect could meet itself on.
    pub ports: EphemeralPorts,
    /// The process's limit on connections.
    pub slots: Arc<Slots>,
    /// Where what happens to backends is reported.
    pub reporter: Reporter,
    /// The threads themselves.
    pub fleet: Fleet,
    /// Why all connections are to end, those to come included, once they are.
    pub end_all: watch::Sender<Option<Ending>>,
    /// The way to the access log, if there is one.
    pub access: Arc<ArcSwapOption<Recorder>>,
}

/// What a thread of the data path is told.
#[derive(Debug)]
pub enum Order {
    /// Serve a connection that another thread has accepted.
    Adopt(Box<Arrival>),
    /// Accept from this socket too.
    Open(Socket),
    /// Accept what is queued at this socket, then let it go.
    Close(Arc<OwnedFd>),
    /// The listeners are others now: waiting at their limits begins anew.
    Renew,
    /// Let go of all listening sockets, which another process accepts from, and stop when the last
    /// connection ends.
    Leave,
    /// Accept what is queued, close the listening sockets, and stop when the last connection ends.
    Drain,
}

/// The threads of the data path, as seen from each other and from the supervisor.
#[derive(Debug)]
pub struct Fleet(Vec<Arc<Seat>>);

/// One thread as seen by others.
#[derive(Debug)]
pub(super) struct Seat {
    orders: UnboundedSender<Order>,
    open: OwnLine,
}

/// Connections on a thread, or on their way to it; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct OwnLine(AtomicU32);

/// "This connection counts as one of that thread's"; dropping it takes it off.
#[derive(Debug)]
pub(super) struct Seated(Arc<Seat>);

impl Fleet {
    /// A fleet of `threads`, and where each receives its orders.
    #[must_use]
    pub fn new(threads: usize) -> (Self, Vec<UnboundedReceiver<Order>>) {
        let pairs = (0..threads).map(|_| {
            let (orders, inbox) = unbounded_channel();
            (Arc::new(Seat { orders, open: OwnLine::default() }), inbox)
        });
        let (seats, inboxes) = pairs.unzip();
        (Self(seats), inboxes)
    }

    /// Gives an order, made for each, to every thread that is still there.
    pub fn tell_all(&self, order: impl Fn() -> Order) {
        for seat in &self.0 {
            // A thread that has ended needs no orders.
            let _ = seat.orders.send(order());
        }
    }

    /// Gives an order to the thread of this index; if it has ended, to the next one that has not, which
    /// looks after its sockets.
    pub fn tell(&self, thread: usize, order: Order) {
        let mut order = order;
        for index in 0..self.0.len() {
            match self.0[(thread + index) % self.0.len()].orders.send(order) {
                Ok(()) => return,
                Err(unsent) => order = unsent.0,
            }
        }
    }

    /// Connections on all threads.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.0.iter().map(|seat| seat.open.0.load(Relaxed)).sum()
    }
}

impl Seat {
    /// Hands `arrival` over; back with it if the thread has ended.
    pub(super) fn hand_over(&self, arrival: Arrival) -> Result<(), Box<Arrival>> {
        match self.orders.send(Order::Adopt(Box::new(arrival))) {
            Err(unsent) => match unsent.0 {
                Order::Adopt(arrival) => Err(arrival),
                _ => Ok(()),
            },
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.0.open.0.fetch_sub(1, Relaxed);
    }
}

/// "This thread lives": the receiver of [`Alive::new`] ends when all of them are dropped.
#[derive(Clone, Debug)]
pub struct Alive {
    _latch: mpsc::Sender<Infallible>,
}

impl Alive {
    /// The first one, and where to wait until the last one is dropped.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Infallible>) {
        let (latch, ended) = mpsc::channel(1);
        (Self { _latch: latch }, ended)
    }
}

/// One thread of the data path.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) engine: Engine,
    pub(super) reactor: Rc<Reactor>,
    pub(super) relays: Relays<Entered>,
    pub(super) shared: Arc<Shared>,
    random: RefCell<fastrand::Rng>,
    connections: RefCell<Slab<Rc<Connection>>>,
    /// Connections entered so far.
    entered: Cell<u64>,
    /// The attempts of connections that wait for a backend.
    races: RefCell<Slab<Rc<Attempts>>>,
    /// Tasks that will bring further connections.
    staying: Cell<usize>,
    /// No connection is accepted any more.
    is_draining: Cell<bool>,
    /// Told when, after that, the last connection has ended.
    empty: Notify,
}

impl Worker {
    /// One uniform draw.
    pub(super) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// The thread that a new connection should go to: this one, unless another, drawn by lot, has
    /// noticeably fewer. Looking at one other is enough to keep all even and costs the same for any
    /// number of threads.
    pub(super) fn seat(&self) -> (Seated, bool) {
        let seats = &self.shared.fleet.0;
        let mut chosen = self.index;
        if seats.len() > 1 {
            let other = self.random.borrow_mut().usize(..seats.len());
            let open = |index: usize| seats[index].open.0.load(Relaxed);
            let fewer = open(other);
            if open(self.index) > fewer + 2 + fewer / 8 {
                chosen = other;
            }
        }
        (Seated::take(&seats[chosen]), chosen == self.index)
    }

    /// A seat on this thread.
    pub(super) fn own_seat(&self) -> Seated {
        Seated::take(&self.shared.fleet.0[self.index])
    }

    /// Enters a connection into the books of this thread until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>, connection: Connection) -> Entered {
        if let Some(reason) = *self.shared.end_all.borrow() {
            connection.end(reason);
        }
        let connection = Rc::new(connection);
        let key = self.connections.borrow_mut().insert(Rc::clone(&connection));
        Entered { worker: Rc::clone(self), key, connection, ending: Cell::new(None) }
    }

    /// The number of the next connection, unique within the process.
    pub(super) fn next_number(&self) -> u64 {
        let entered = self.entered.get();
        self.entered.set(entered + 1);
        let threads = self.shared.fleet.0.len() as u64;
        entered * threads + self.index as u64 + 1
    }

    /// Lets the thread know of the attempts of a connection until the guard is dropped.
    pub(super) fn race(&self) -> Racing<'_> {
        let attempts = Rc::<Attempts>::default();
        let key = self.races.borrow_mut().insert(Rc::clone(&attempts));
        Racing { worker: self, key, attempts }
    }

    /// Does what the control plane says.
    fn obey(&self, notice: &Notice) {
        match notice {
            Notice::Fence { backend } => {
                self.races.borrow().iter().for_each(|(_, attempts)| attempts.fence(*backend));
            }
            Notice::End { which, reason } => self.end(which, *reason),
            Notice::List { of, to } => {
                let is_meant = |c: &Connection| of.is_none() || c.backend() == *of;
                let all = self.connections.borrow();
                let meant: Vec<Open> =
                    all.iter().filter(|(_, c)| is_meant(c)).map(|(_, c)| c.describe()).collect();
                // Who has asked may have gone.
                let _ = to.send(meant);
            }
        }
    }

    fn end(&self, which: &Which, reason: Ending) {
        let now = self.engine.clock.now();
        let is_meant = |connection: &Connection| match which {
            Which::Of(backend, idle) => {
                connection.backend() == Some(*backend)
                    && now.saturating_sub(connection.meter.active()) >= *idle
            }
            Which::Numbers(numbers) => numbers.binary_search(&connection.number).is_ok(),
        };
        // Copied, because an ending connection may leave the books at once.
        let all = self.connections.borrow();
        let meant: Vec<_> =
            all.iter().filter(|(_, c)| is_meant(c)).map(|(_, c)| Rc::clone(c)).collect();
        drop(all);
        meant.iter().for_each(|connection| connection.end(reason));
    }

    fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty() && self.staying.get() == 0
    }

    /// Keeps the thread from ending until the guard is dropped.
    pub(super) fn stay(self: &Rc<Self>) -> Stay {
        self.staying.set(self.staying.get() + 1);
        Stay(Rc::clone(self))
    }

    fn end_all(&self, reason: Ending) {
        // Copied, because an ending connection may leave the books at once.
        let all: Vec<_> = self.connections.borrow().iter().map(|(_, c)| Rc::clone(c)).collect();
        all.iter().for_each(|connection| connection.end(reason));
    }
}

impl Seated {
    fn take(seat: &Arc<Seat>) -> Self {
        seat.open.0.fetch_add(1, Relaxed);
        Self(Arc::clone(seat))
    }

    pub(super) fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.0)
    }
}

/// A connection in the books of its thread. Dropping it records how the connection ended, however
/// that came about, a panic included.
#[derive(Debug)]
pub(super) struct Entered {
    worker: Rc<Worker>,
    key: usize,
    connection: Rc<Connection>,
    ending: Cell<Option<Ending>>,
}

impl Entered {
    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Its thread, kept apart from it.
    pub(super) fn for_itself(&self) -> Rc<Worker> {
        Rc::clone(&self.worker)
    }

    /// Notes how it ended; recorded when this is dropped.
    pub(super) fn ended(self, ending: Ending) {
        self.ending.set(Some(ending));
    }
}

impl Deref for Entered {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let cut_off = if std::thread::panicking() { Ending::LocalError } else { Ending::Shutdown };
        self.connection.record(&self.worker, self.ending.get().unwrap_or(cut_off));
        let mut connections = self.worker.connections.borrow_mut();
        connections.remove(self.key);
        if connections.is_empty() && self.worker.is_draining.get() {
            self.worker.empty.notify_one();
        }
    }
}

/// "The thread does not end": further connections will come.
#[derive(Debug)]
pub(super) struct Stay(Rc<Worker>);

impl Stay {
    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.0
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.staying.set(self.0.staying.get() - 1);
        self.0.empty.notify_one();
    }
}

/// "The thread knows of these attempts."
#[derive(Debug)]
pub(super) struct Racing<'a> {
    worker: &'a Worker,
    key: usize,
    attempts: Rc<Attempts>,
}

impl Deref for Racing<'_> {
    type Target = Attempts;

    fn deref(&self) -> &Attempts {
        &self.attempts
    }
}

impl Drop for Racing<'_> {
    fn drop(&mut self) {
        self.worker.races.borrow_mut().remove(self.key);
    }
}

/// Where a thread hears what it is to do.
#[derive(Debug)]
pub struct Inbox {
    /// From other threads of the data path and from the supervisor.
    pub orders: UnboundedReceiver<Order>,
    /// From the control plane.
    pub notices: UnboundedReceiver<(Notice, Ack)>,
}

/// Starts a thread that accepts from `sockets` and serves connections until it is told to drain and
/// the last of them has ended.
///
/// `pipes` is the most pipes (two descriptors each) it keeps open.
///
/// # Errors
///
/// When the thread or its reactor cannot be made: out of memory or descriptors.
pub fn start(
    index: usize,
    shared: Arc<Shared>,
    (inbox, alive): (Inbox, Alive),
    sockets: Vec<Socket>,
    pipes: usize,
) -> io::Result<()> {
    let (started, when_started) = std::sync::mpsc::sync_channel(1);
    ThreadBuilder::new().name(format!("worker-{index}")).spawn(move || {
        let _alive = alive;
        let opened = Reactor::new().and_then(|reactor| {
            let open = |socket| Door::open(&reactor, socket);
            let doors = sockets.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
            Ok((reactor, doors))
        });
        let (reactor, doors) = match opened {
            Ok(opened) => opened,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(()));
        let worker = Rc::new(Worker {
            index,
            engine: Engine::new(shared.clock, pipes),
            relays: Relays::new(&reactor),
            reactor: Rc::clone(&reactor),
            shared,
            random: RefCell::new(fastrand::Rng::new()),
            connections: RefCell::default(),
            entered: Cell::new(0),
            races: RefCell::default(),
            staying: Cell::new(0),
            is_draining: Cell::new(false),
            empty: Notify::new(),
        });
        let main = run(Rc::clone(&worker), inbox, doors);
        drive(&worker.engine, (&reactor, &worker.relays), main);
    })?;
    when_started.recv().map_err(|_| io::Error::other("the thread ended at once"))?
}

/// Rest after a panic, in milliseconds: a bug that strikes each time may not take a core.
const REST: Tick = 500;

async fn run(worker: Rc<Worker>, mut inbox: Inbox, doors: Vec<Door>) {
    let mut porter = Porter { worker: Rc::clone(&worker), doors: Vec::new() };
    doors.into_iter().for_each(|door| porter.attend(Rc::new(door)));
    let mut end_all = worker.shared.end_all.subscribe();
    while let Err(panic) = caught(heed(&worker, &mut inbox, &mut end_all, &mut porter)).await {
        error!(worker = worker.index, "the thread goes on in a moment: {panic}");
        let engine = &worker.engine;
        engine.deadlines.sleep_until(engine.clock, engine.clock.now() + REST).await;
    }
    debug!(worker = worker.index, "worker has stopped");
}

/// Does what the thread is told until it is to stop.
async fn heed(
    worker: &Rc<Worker>,
    Inbox { orders, notices }: &mut Inbox,
    end_all: &mut watch::Receiver<Option<Ending>>,
    porter: &mut Porter,
) {
    loop {
        if worker.is_draining.get() && worker.is_empty() {
            // Whoever hands a connection over from now on keeps it; those on their way are served.
            orders.close();
        }
        if orders.is_closed() && orders.is_empty() && worker.is_empty() {
            break;
        }
        tokio::select! {
            order = orders.recv(), if !orders.is_closed() || !orders.is_empty() => match order {
                Some(Order::Adopt(arrival)) => serve_here(worker, *arrival),
                Some(Order::Drain) => {
                    worker.is_draining.set(true);
                    porter.close(|door| !door.is_lent).await;
                    porter.leave().await;
                }
                Some(Order::Leave) => {
                    worker.is_draining.set(true);
                    porter.leave().await;
                }
                Some(Order::Open(socket)) => porter.open(socket),
                Some(Order::Close(fd)) => porter.close(|door| door.is_at(&fd)).await,
                Some(Order::Renew) => porter.renew().await,
                None => {}
            },
            Some((notice, _ack)) = notices.recv() => worker.obey(&notice),
            Ok(()) = end_all.changed() => {
                if let Some(reason) = *end_all.borrow_and_update() {
                    worker.end_all(reason);
                }
            }
            () = worker.empty.notified() => {}
        }
    }
}

/// Looks after the doors of a thread.
struct Porter {
    worker: Rc<Worker>,
    doors: Vec<(Rc<Door>, JoinHandle<()>)>,
}

impl Porter {
    /// Begins to accept at a door.
    fn attend(&mut self, door: Rc<Door>) {
        let accepting = accepting(&self.worker, &door);
        self.doors.push((door, accepting));
    }

    fn open(&mut self, socket: Socket) {
        match Door::open(&self.worker.reactor, socket) {
            Ok(door) => self.attend(Rc::new(door)),
            Err(error) => error!(%error, worker = self.worker.index, "cannot accept here"),
        }
    }

    /// Stops accepting at these doors once what is queued there is served.
    async fn close(&mut self, which: impl Fn(&Door) -> bool) {
        for (door, task) in self.doors.extract_if(.., |(door, _)| which(door)) {
            task.abort();
            let _ = task.await;
            door.close_queue();
            door.accept_rest(&self.worker);
        }
    }

    /// Stops accepting, and leaves what is queued to whoever else accepts there.
    async fn leave(&mut self) {
        for (_, task) in self.doors.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }

    /// Begins anew to wait at each door.
    async fn renew(&mut self) {
        for (door, task) in &mut self.doors {
            task.abort();
            let _ = (&mut *task).await;
            *task = accepting(&self.worker, door);
        }
    }
}

fn accepting(worker: &Rc<Worker>, door: &Rc<Door>) -> JoinHandle<()> {
    tokio::task::spawn_local(Rc::clone(door).accept_all(Rc::clone(worker)))
}

impl Drop for Porter {
    /// A thread that dies of a bug leaves its sockets to another one: the kernel would go on giving them
    /// their share of the connections, and nobody would accept those.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let (index, fleet) = (self.worker.index, &self.worker.shared.fleet);
        error!(
            worker = index,
            sockets = self.doors.len(),
            "a bug: this thread ends by a panic; \
            another one accepts in its place"
        );
        for (door, _) in self.doors.drain(..) {
            fleet.tell(index + 1, Order::Open(door.socket()));
        }
    }
}

#[cfg(test)]
mod tests;
