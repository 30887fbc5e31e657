//! What is counted of a connection while it lives, and what limits it in time.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::relays::Agenda;
use crate::net::clock::Tick;
use crate::net::reactor::Token;

/// Bytes of many connections together; written by every thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Totals {
    connections: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Totals {
    /// Connections that have counted into it.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Bytes from clients.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    /// Bytes from the backend.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }

    /// All of them, each with a word for it.
    #[must_use]
    pub fn cells(&self) -> [(&'static str, &AtomicU64); 3] {
        let Self { connections, bytes_in, bytes_out } = self;
        [("connections", connections), ("bytes.in", bytes_in), ("bytes.out", bytes_out)]
    }
}

/// Who must know when a connection is told to stop.
#[derive(Default)]
enum Keeper {
    #[default]
    Nobody,
    /// A task, while it waits.
    Task(Waker),
    /// The relays of its thread, under this name.
    Relays(Rc<Agenda>, Token),
}

/// Live figures of one connection, and the word that ends it from outside.
pub struct Meter {
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    pub(super) active: Cell<Tick>,
    stopped: Cell<bool>,
    /// Who looks after the connection.
    keeper: Cell<Keeper>,
    totals: OnceCell<Arc<Totals>>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meter({} in, {} out)", self.bytes_in(), self.bytes_out())
    }
}

impl Meter {
    /// A meter at zero.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self {
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            active: Cell::new(now),
            stopped: Cell::new(false),
            keeper: Cell::default(),
            totals: OnceCell::new(),
        }
    }

    /// Bytes read from the client.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Bytes read from the backend.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// When a byte last moved.
    #[must_use]
    pub fn active(&self) -> Tick {
        self.active.get()
    }

    /// Ends the connection: what was read is delivered, then both sides get a FIN.
    pub fn stop(&self) {
        self.stopped.set(true);
        match self.keeper.take() {
            Keeper::Nobody => {}
            Keeper::Task(waker) => waker.wake(),
            Keeper::Relays(agenda, token) => agenda.add(token),
        }
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// From now on the relays of its thread look after it.
    pub(super) fn kept_by(&self, agenda: &Rc<Agenda>, token: Token) {
        self.keeper.set(Keeper::Relays(Rc::clone(agenda), token));
    }

    /// Whether it was told to stop; if not, the task of `cx` is woken when it is.
    pub fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        if self.stopped.get() {
            return Poll::Ready(());
        }
        self.keeper.set(Keeper::Task(cx.waker().clone()));
        Poll::Pending
    }

    /// Counts into `totals` as well from now on, and what was counted before at once.
    pub fn count_into(&self, totals: &Arc<Totals>) {
        let totals = self.totals.get_or_init(|| Arc::clone(totals));
        totals.connections.fetch_add(1, Relaxed);
        totals.bytes_in.fetch_add(self.bytes_in(), Relaxed);
    }

    /// Counts bytes read from the client.
    pub fn add_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
        if let Some(totals) = self.totals.get() {
            totals.bytes_in.fetch_add(bytes as u64, Relaxed);
        }
    }

    pub(super) fn add_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
        if let Some(totals) = self.totals.get() {
            totals.bytes_out.fetch_add(bytes as u64, Relaxed);
        }
    }
}

/// The limits of one connection in time, in milliseconds, and in bandwidth; `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// No byte in either direction.
    pub idle: Option<Tick>,
    /// One direction has ended and no byte moves in the other; 0: the first end ends both.
    pub half_closed: Option<Tick>,
    /// From the start of the relay.
    pub max_duration: Option<Tick>,
    /// Quiet time after which the backend's socket is probed (TCP keepalive).
    pub keepalive: Option<Duration>,
    /// How long bytes sent to the backend may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// Bytes a second from the client, and from the backend.
    pub bandwidth: (Option<u64>, Option<u64>),
}
