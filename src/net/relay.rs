//! Both directions of a connection until both have ended.
//!
//! A readable socket is read into the thread's scratch buffer and written on at once; only what the
//! other side does not take is kept, in a buffer of the connection that goes when it is empty. A
//! direction that fills the scratch buffer twice in a row passes through a pipe instead (splice(2)),
//! without copies. A direction with something undelivered is not read: that is the backpressure. Nor is
//! one that has used up what its bandwidth allows (`pace.rs`), until a time that it asks to be woken at.
//!
//! What holds, each with a test: every byte read is delivered before the end is signalled; a FIN is
//! passed on as a FIN, each way alone; a reset is passed on as a reset, after the bytes before it
//! have arrived; a failed write in one direction does not cut the other.
//!
//! A connection in its relay phase is no task. It is an entry among the `Relays` of its thread
//! (`relays.rs`), which hear from one epoll what happened to which socket and give each connection
//! its turn (`two_way.rs`; a direction is `flow.rs`, a socket `end.rs`, the last words `leaving.rs`).

mod end;
mod flow;
mod leaving;
mod meter;
mod pace;
mod relays;
#[cfg(test)]
mod tests;
mod two_way;
mod watch;

use std::cell::RefCell;
use std::rc::Rc;

pub use meter::{Limits, Meter, Totals};
pub use relays::{Carried, Relays};
pub use watch::Watch;

use super::clock::{Clock, Deadlines};
use super::pipe::PipePool;
use super::stream::Stream;

/// Size of a thread's scratch buffer, and the most that a direction keeps undelivered.
const SCRATCH_BYTES: usize = 64 * 1024;

/// What the connections of one thread share.
#[derive(Debug)]
pub struct Engine {
    /// The coarse clock.
    pub clock: Clock,
    /// When to look at which connection again.
    pub deadlines: Rc<Deadlines>,
    pipes: Rc<PipePool>,
    scratch: RefCell<Box<[u8]>>,
}

impl Engine {
    /// An engine that keeps at most `pipes` pipes open.
    #[must_use]
    pub fn new(clock: Clock, pipes: usize) -> Self {
        Self {
            clock,
            deadlines: Rc::default(),
            pipes: Rc::new(PipePool::new(pipes)),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
        }
    }

    /// Lends the scratch buffer for the length of a call.
    pub fn with_scratch<T>(&self, call: impl FnOnce(&mut [u8]) -> T) -> T {
        call(&mut self.scratch.borrow_mut())
    }
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Backend,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Both directions ended in order; this side first.
    Closed(Side),
    /// This side reset the connection, or vanished.
    Reset(Side),
    /// [`Limits::idle`].
    Idle,
    /// [`Limits::half_closed`].
    HalfClosed,
    /// [`Limits::max_duration`].
    MaxDuration,
    /// [`Meter::stop`].
    Told,
}

/// The two sockets of a connection, and what was read from the client already.
#[derive(Debug)]
pub struct Pair {
    /// The client's side.
    pub client: Stream,
    /// The backend's side.
    pub backend: Stream,
    /// Bytes for the backend that precede what is read from now on; already counted.
    pub unread: Vec<u8>,
}
