//! From a listening socket to a connection on a thread.
//!
//! Each socket is accepted from by one thread. Where the kernel spreads connections over a socket
//! for each thread it does so by a hash: even for many connections, not for few long ones. So a
//! thread that has noticeably more open than another hands what it accepts to that one.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tracing::{debug, error, warn};

use super::connection::serve;
use super::logged::log_refused;
use super::worker::{Seated, Stay, Worker};
use crate::config::model::OverLimit;
use crate::net::caught::caught;
use crate::net::clock::Tick;
use crate::net::listen::{AcceptError, Accepted, Watched, accept, close_queue};
use crate::net::reactor::Reactor;
use crate::state::{Ending, Entrance, Listener, Slot, Slots};

/// Connections accepted in a row before others have their turn.
const BATCH: u32 = 32;
/// Pause when descriptors or memory have run out. Twice a second is soon enough to notice that some
/// are free again, and seldom enough to cost nothing. In milliseconds, as the next.
const PAUSE: Tick = 500;
/// How often at most it is said that accepting is paused.
const WARN_AGAIN: Tick = 10_000;

/// A listening socket that one thread accepts from.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where it leads to.
    pub entrance: Arc<Entrance>,
    /// The socket.
    pub fd: Arc<OwnedFd>,
    /// Whether somebody else keeps it open when this process ends, for whoever comes next.
    pub is_lent: bool,
}

/// An accepted connection within its limits, on its way to the thread that will serve it.
#[derive(Debug)]
pub struct Arrival {
    pub(super) accepted: Accepted,
    pub(super) listener: Arc<Listener>,
    /// Of the listener and of the process.
    pub(super) slots: (Slot, Slot),
    /// Of the thread.
    pub(super) seated: Seated,
}

/// A socket as the thread watches it.
#[derive(Debug)]
pub(super) struct Door {
    entrance: Arc<Entrance>,
    fd: Watched,
    pub(super) is_lent: bool,
    appetite: Cell<Appetite>,
}

/// How many connections are accepted in a row. One that finds nothing queued costs as much as one
/// that does, so a second one is tried only now and then until it finds something.
#[derive(Clone, Copy, Debug)]
struct Appetite {
    /// What was found lately.
    usual: u32,
    /// Times until more than usual is tried.
    left: u32,
    /// Times between two such trials.
    patience: u32,
}

impl Appetite {
    const NONE: Self = Self { usual: 1, left: 0, patience: 1 };

    /// How many to try now.
    fn tries(self) -> u32 {
        if self.left == 0 { (self.usual * 2).min(BATCH) } else { self.usual }
    }

    /// What is to be expected after so many were found; `is_rest`: there were no more.
    fn after(self, found: u32, is_rest: bool) -> Self {
        match (found, is_rest) {
            (0 | 1, true) => {
                let patience = (self.patience * 2).min(64);
                Self { usual: 1, left: patience, patience }
            }
            (found, true) => Self { usual: found, left: 1, patience: 1 },
            (found, false) if found > self.usual => Self { usual: found, left: 0, patience: 1 },
            (_, false) => Self { left: self.left.saturating_sub(1), ..self },
        }
    }
}

/// The socket is of no use any more; the reason was logged.
struct Broken;

impl Door {
    pub(super) fn open(reactor: &Rc<Reactor>, socket: Socket) -> io::Result<Self> {
        let Socket { entrance, fd, is_lent } = socket;
        let fd = Watched::new(reactor, fd)?;
        Ok(Self { entrance, fd, is_lent, appetite: Cell::new(Appetite::NONE) })
    }

    /// Accepts connections for ever.
    ///
    /// Cancel safe: no connection is lost between two waits. Ends only when the socket is of no
    /// use any more, which is logged.
    pub(super) async fn accept_all(self: Rc<Self>, worker: Rc<Worker>) {
        let mut pressed = Pressed::default();
        while let Err(panic) = caught(self.until_broken(&worker, &mut pressed)).await {
            let name = Arc::clone(&self.entrance.listener().name);
            error!(listener = %name, "accepting goes on in a moment: {panic}");
            let engine = &worker.engine;
            engine.deadlines.sleep_until(engine.clock, engine.clock.now() + PAUSE).await;
        }
    }

    async fn until_broken(&self, worker: &Rc<Worker>, pressed: &mut Pressed) {
        while let Ok(()) = self.accept_batch(worker, pressed).await {}
    }

    /// The socket, and where it leads to.
    pub(super) fn socket(&self) -> Socket {
        let (entrance, fd) = (Arc::clone(&self.entrance), Arc::clone(self.fd.socket()));
        Socket { entrance, fd, is_lent: self.is_lent }
    }

    /// Whether it is at this socket.
    pub(super) fn is_at(&self, fd: &Arc<OwnedFd>) -> bool {
        Arc::ptr_eq(self.fd.socket(), fd)
    }

    /// Lets no more connections queue up here than are there.
    pub(super) fn close_queue(&self) {
        close_queue(&self.fd);
    }

    /// Accepts what the kernel has queued, without waiting, before the socket is closed. Those above the
    /// listener's limit wait here, as they would have in the kernel; those above the limit of the
    /// process, for which there may be no descriptors, are lost.
    pub(super) fn accept_rest(&self, worker: &Rc<Worker>) {
        let listener = Arc::clone(&self.entrance.listener());
        let mut rest = Vec::new();
        while let Some(of_process) = worker.shared.slots.try_take() {
            let accepted = match accept(&self.fd) {
                Ok(accepted) => accepted,
                Err(AcceptError::Aborted) => continue,
                Err(_) => break,
            };
            match listener.slots.try_take() {
                None if listener.over_limit == OverLimit::Close => {
                    admit(worker, &listener, accepted, None);
                }
                Some(slot) if rest.is_empty() => {
                    listener.counters.accept();
                    let (listener, seated) = (Arc::clone(&listener), worker.own_seat());
                    let slots = (slot, of_process);
                    serve_here(worker, Arrival { accepted, listener, slots, seated });
                }
                _ => rest.push((accepted, of_process)),
            }
        }
        if !rest.is_empty() {
            debug!(listener = %listener.name, count = rest.len(), "the rest waits for slots");
            tokio::task::spawn_local(serve_rest(worker.stay(), listener, rest));
        }
    }

    /// What has to become free before another connection is accepted.
    fn full_slots(&self, worker: &Worker) -> Option<Arc<Slots>> {
        let listener = self.entrance.listener();
        let all = [&listener.slots, &worker.shared.slots];
        let waits = listener.over_limit == OverLimit::Wait;
        all.into_iter().find(|slots| waits && slots.is_full()).map(Arc::clone)
    }

    /// Waits for connections and accepts a bounded number of them.
    async fn accept_batch(&self, worker: &Rc<Worker>, pressed: &mut Pressed) -> Result<(), Broken> {
        if let Some(slots) = self.full_slots(worker) {
            self.fd.pause();
            slots.until_free().await;
            return Ok(());
        }
        let Ok(()) = self.fd.readable().await else { return Err(Broken) };
        let listener = &Arc::clone(&self.entrance.listener());
        let appetite = self.appetite.get();
        for found in 0..appetite.tries() {
            let slots = take_slots(worker, listener);
            if slots.is_none() && listener.over_limit == OverLimit::Wait {
                return Ok(());
            }
            match accept(&self.fd) {
                Ok(accepted) => admit(worker, listener, accepted, slots),
                Err(AcceptError::Empty) => {
                    self.appetite.set(appetite.after(found, true));
                    return Ok(());
                }
                Err(AcceptError::Aborted) => {}
                Err(AcceptError::Exhausted(errno)) => {
                    let now = worker.engine.clock.now();
                    pressed.warn(listener, errno, now);
                    drop(slots);
                    self.fd.pause();
                    worker.engine.deadlines.sleep_until(worker.engine.clock, now + PAUSE).await;
                    return Ok(());
                }
                Err(AcceptError::Broken(errno)) => {
                    error!(listener = %listener.name, %errno, "cannot accept any more");
                    return Err(Broken);
                }
            }
        }
        self.appetite.set(appetite.after(appetite.tries(), false));
        Ok(())
    }
}

/// Serves connections that were queued at a socket that is closed, as soon as their listener's limit
/// lets them in; until all connections are ended.
async fn serve_rest(stay: Stay, listener: Arc<Listener>, rest: Vec<(Accepted, Slot)>) {
    let worker = stay.worker();
    let mut end_all = worker.shared.end_all.subscribe();
    for (accepted, of_process) in rest {
        let slot = loop {
            if let Some(slot) = listener.slots.try_take() {
                break slot;
            }
            tokio::select! {
                () = listener.slots.until_free() => {}
                _ = end_all.wait_for(Option::is_some) => return,
            }
        };
        listener.counters.accept();
        let (listener, seated) = (Arc::clone(&listener), worker.own_seat());
        serve_here(worker, Arrival { accepted, listener, slots: (slot, of_process), seated });
    }
}

/// Says that accepting is paused, but not all the time.
#[derive(Default)]
struct Pressed {
    last: Option<Tick>,
}

impl Pressed {
    fn warn(&mut self, listener: &Listener, errno: rustix::io::Errno, now: Tick) {
        if self.last.is_none_or(|last| now - last >= WARN_AGAIN) {
            self.last = Some(now);
            warn!(
                listener = %listener.name,
                %errno,
                "accepting is paused until descriptors or memory are free; raise the limit \
                 (ulimit -n, LimitNOFILE) or lower max_connections"
            );
        }
    }
}

fn take_slots(worker: &Worker, listener: &Listener) -> Option<(Slot, Slot)> {
    Some((listener.slots.try_take()?, worker.shared.slots.try_take()?))
}

/// Lets a connection in, or closes it at once where no slot is left.
fn admit(
    worker: &Rc<Worker>,
    listener: &Arc<Listener>,
    accepted: Accepted,
    slots: Option<(Slot, Slot)>,
) {
    listener.counters.accept();
    let Some(slots) = slots else {
        listener.counters.end(Ending::OverLimit, Duration::ZERO);
        debug!(
            listener = %listener.name,
            source = accepted.peer.map(tracing::field::display),
            end = Ending::OverLimit.as_str(),
            "connection ended"
        );
        let source = accepted.peer;
        let client = accepted.into_stream();
        log_refused(worker, listener, source, &client);
        client.reset();
        return;
    };
    place(worker, accepted, listener, slots);
}

/// Serves the connection here, or hands it to a thread that has fewer.
fn place(worker: &Rc<Worker>, accepted: Accepted, listener: &Arc<Listener>, slots: (Slot, Slot)) {
    let (seated, is_here) = worker.seat();
    let seat = seated.seat();
    let arrival = Arrival { accepted, listener: Arc::clone(listener), slots, seated };
    if is_here {
        serve_here(worker, arrival);
    } else if let Err(mut arrival) = seat.hand_over(arrival) {
        arrival.seated = worker.own_seat();
        serve_here(worker, *arrival);
    }
}

/// Serves the connection on this thread. Usually nothing has to be waited for before its relay; a
/// task is made only for a connection that has to wait.
pub(super) fn serve_here(worker: &Rc<Worker>, arrival: Arrival) {
    let mut serving = Box::pin(serve(worker, arrival));
    // A panic, which is a bug, ends this connection and no other.
    let _ = catch_unwind(AssertUnwindSafe(move || {
        let mut nobody = Context::from_waker(Waker::noop());
        if serving.as_mut().poll(&mut nobody).is_pending() {
            // The task asks again for what it waits for.
            tokio::task::spawn_local(serving);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The failing accepts of `bursts`, each so many connections queued at once.
    fn in_vain(bursts: impl IntoIterator<Item = u32>) -> u32 {
        let (mut appetite, mut failed) = (Appetite::NONE, 0);
        for mut queued in bursts {
            while queued > 0 {
                let found = queued.min(appetite.tries());
                let is_rest = found < appetite.tries();
                appetite = appetite.after(found, is_rest);
                queued -= found;
                failed += u32::from(is_rest);
            }
        }
        failed
    }

    #[test]
    fn connections_that_come_one_by_one_cost_few_accepts_in_vain() {
        assert!(in_vain([1; 1_000]) <= 25);
    }

    #[test]
    fn many_at_once_are_accepted_in_a_row_soon() {
        let (mut appetite, mut rounds) = (Appetite::NONE, 0);
        while appetite.tries() < BATCH {
            appetite = appetite.after(appetite.tries(), false);
            rounds += 1;
        }
        assert!(rounds <= 10, "{rounds} rounds");
    }
}
