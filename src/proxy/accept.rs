//! From a listening socket to a connection on a thread.
//!
//! Each socket is accepted from by one thread. Where the kernel spreads connections over a socket
//! for each thread it does so by a hash: even for many connections, not for few long ones. So a
//! thread that has noticeably more open than another hands what it accepts to that one.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tracing::{debug, error, warn};

use super::connection::serve;
use super::worker::{Seated, Worker};
use crate::config::model::OverLimit;
use crate::net::listen::{AcceptError, Accepted, accept, close_queue, watch};
use crate::state::{Ending, Entrance, Listener, Slot, Slots};

/// Connections accepted in a row before others have their turn.
const BATCH: u32 = 32;
/// Pause when descriptors or memory have run out. Twice a second is soon enough to notice that some
/// are free again, and seldom enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// A listening socket that one thread accepts from.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where it leads to.
    pub entrance: Arc<Entrance>,
    /// The socket.
    pub fd: Arc<OwnedFd>,
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
    fd: AsyncFd<Arc<OwnedFd>>,
}

/// The socket is of no use any more; the reason was logged.
struct Broken;

impl Door {
    pub(super) fn open(socket: Socket) -> io::Result<Self> {
        Ok(Self { entrance: socket.entrance, fd: watch(socket.fd)? })
    }

    /// Accepts connections for ever.
    ///
    /// Cancel safe: no connection is lost between two waits. Ends only when the socket is of no
    /// use any more, which is logged.
    pub(super) async fn accept_all(self: Rc<Self>, worker: Rc<Worker>) {
        let mut pressed = Pressed::default();
        while let Ok(()) = self.accept_batch(&worker, &mut pressed).await {}
    }

    /// Whether it is at this socket.
    pub(super) fn is_at(&self, fd: &Arc<OwnedFd>) -> bool {
        Arc::ptr_eq(self.fd.get_ref(), fd)
    }

    /// Lets no more connections queue up here than are there.
    pub(super) fn close_queue(&self) {
        close_queue(self.fd.get_ref());
    }

    /// Accepts what the kernel has queued, without waiting, before the socket is closed.
    pub(super) fn accept_rest(&self, worker: &Rc<Worker>) {
        let listener = Arc::clone(&self.entrance.listener());
        while let Some(slots) = take_slots(worker, &listener) {
            let accepted = match accept(self.fd.get_ref()) {
                Ok(accepted) => accepted,
                Err(AcceptError::Aborted) => continue,
                Err(_) => return,
            };
            let (listener, seated) = (Arc::clone(&listener), worker.own_seat());
            serve_here(worker, Arrival { accepted, listener, slots, seated });
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
            slots.until_free().await;
            return Ok(());
        }
        let Ok(mut ready) = self.fd.readable().await else { return Err(Broken) };
        let listener = &Arc::clone(&self.entrance.listener());
        for _ in 0..BATCH {
            let slots = take_slots(worker, listener);
            if slots.is_none() && listener.over_limit == OverLimit::Wait {
                return Ok(());
            }
            match accept(self.fd.get_ref()) {
                Ok(accepted) => admit(worker, listener, accepted, slots),
                Err(AcceptError::Empty) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(AcceptError::Aborted) => {}
                Err(AcceptError::Exhausted(errno)) => {
                    pressed.warn(listener, errno);
                    drop(slots);
                    tokio::time::sleep(PAUSE).await;
                    return Ok(());
                }
                Err(AcceptError::Broken(errno)) => {
                    error!(listener = %listener.name, %errno, "cannot accept any more");
                    return Err(Broken);
                }
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// Says that accepting is paused, at most every ten seconds.
#[derive(Default)]
struct Pressed {
    last: Option<tokio::time::Instant>,
}

impl Pressed {
    fn warn(&mut self, listener: &Listener, errno: rustix::io::Errno) {
        let now = tokio::time::Instant::now();
        if self.last.is_none_or(|last| now - last >= Duration::from_secs(10)) {
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
    let Some(slots) = slots else {
        debug!(
            listener = %listener.name,
            source = accepted.peer.map(tracing::field::display),
            end = Ending::OverLimit.as_str(),
            "connection ended"
        );
        accepted.into_stream().reset();
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

/// Starts a task that serves the connection on this thread.
pub(super) fn serve_here(worker: &Rc<Worker>, arrival: Arrival) {
    tokio::task::spawn_local(serve(worker, arrival));
}
