//! What the two planes tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc;

use super::ending::Ending;
use super::pool::Asked;
use crate::health::Trouble;
use crate::net::clock::Tick;

/// Reports that may wait for the controller. More are dropped: a storm of failures says nothing that
/// its beginning has not.
const WAITING: usize = 4096;

/// What the data path tells the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Connections to a backend have failed in a row.
    Failing {
        /// The backend, by its id.
        backend: u32,
        /// How many.
        count: u32,
        /// How the last one failed.
        last: Trouble,
        /// When the first of them failed.
        first: Tick,
        /// When the last of them began.
        began: Tick,
    },
    /// A connection was the trial of a backend whose ejection was over.
    Tried {
        /// The backend, by its id.
        backend: u32,
        /// The number of the trial.
        trial: u64,
        /// How it failed; `None`: it passed.
        trouble: Option<Trouble>,
    },
}

/// Where the data path reports to.
#[derive(Clone, Debug)]
pub struct Reporter {
    reports: mpsc::Sender<(Report, Asked)>,
    dropped: Arc<AtomicU64>,
}

impl Reporter {
    /// A reporter, and where its reports come out.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<(Report, Asked)>) {
        let (reports, inbox) = mpsc::channel(WAITING);
        (Self { reports, dropped: Arc::default() }, inbox)
    }

    /// Tells the control plane, without waiting; whether it will hear. Connections that wait for what
    /// follows wait until `asked` is dropped, which is at once where nobody hears.
    pub fn tell(&self, report: Report, asked: Asked) -> bool {
        let is_told = self.reports.try_send((report, asked)).is_ok();
        if !is_told {
            self.dropped.fetch_add(1, Relaxed);
        }
        is_told
    }

    /// Reports that were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// What the control plane tells every thread of the data path. Each carries an [`Ack`]: whoever has
/// dropped it has done what it says.
#[derive(Clone, Debug)]
pub enum Notice {
    /// No connection may go to this backend any more: attempts under way are given up.
    Fence {
        /// The backend, by its id.
        backend: u32,
    },
    /// End these connections.
    End {
        /// Which.
        which: Which,
        /// Why.
        reason: Ending,
    },
    /// Say which connections are open.
    List {
        /// Of this backend, by its id; `None`: of all.
        of: Option<u32>,
        /// Where to.
        to: mpsc::UnboundedSender<Vec<Open>>,
    },
}

/// Which connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those of this backend on which no byte has moved for so many milliseconds.
    Of(u32, Tick),
    /// Those with these numbers, in ascending order.
    Numbers(Arc<[u64]>),
}

/// An open connection.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its number within the process.
    pub number: u64,
    /// Its listener.
    pub listener: Arc<str>,
    /// The client; `None` over a unix socket.
    pub source: Option<std::net::SocketAddr>,
    /// The pool it is routed to, once it is.
    pub pool: Option<Arc<str>>,
    /// The backend it is connected to, by id and name.
    pub backend: Option<(u32, Arc<str>)>,
    /// When it was accepted.
    pub start: Tick,
    /// When a byte last moved.
    pub active: Tick,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes from the backend.
    pub bytes_out: u64,
}

/// "This thread has not done it yet": dropped when it has.
#[derive(Clone, Debug)]
pub struct Ack {
    _latch: mpsc::Sender<std::convert::Infallible>,
}

/// The threads of the data path, as the control plane sees them.
#[derive(Clone, Debug)]
pub struct Threads(Vec<mpsc::UnboundedSender<(Notice, Ack)>>);

impl Threads {
    /// So many threads, and where each of them hears.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<mpsc::UnboundedReceiver<(Notice, Ack)>>) {
        let (notices, inboxes) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        (Self(notices), inboxes)
    }

    /// Tells every thread; the future ends when each has done it, or has ended.
    ///
    /// Told at once, not when the future is first polled. Cancel safe: dropping it only stops
    /// waiting.
    pub fn tell(&self, notice: &Notice) -> impl Future<Output = ()> + use<> {
        let (latch, mut done) = mpsc::channel(1);
        let ack = Ack { _latch: latch };
        for thread in &self.0 {
            // Who has ended has no connections.
            let _ = thread.send((notice.clone(), ack.clone()));
        }
        async move {
            drop(ack);
            while done.recv().await.is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Live;
    use super::*;

    #[tokio::test]
    async fn what_is_told_is_done_when_every_thread_has_done_it() {
        let (threads, mut inboxes) = Threads::new(2);
        let told = threads.tell(&Notice::Fence { backend: 1 });
        tokio::pin!(told);
        let first = inboxes[0].try_recv().unwrap();
        let second = inboxes[1].try_recv().unwrap();
        drop(first);
        let mut waits = tokio_test_poll(&mut told).await;
        assert!(waits, "one thread has not answered");
        drop(second);
        waits = tokio_test_poll(&mut told).await;
        assert!(!waits);
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_not_waited_for() {
        let (threads, inboxes) = Threads::new(2);
        drop(inboxes);
        threads.tell(&Notice::Fence { backend: 1 }).await;
    }

    #[test]
    fn reports_that_nobody_takes_are_dropped_and_counted() {
        let (reporter, _inbox) = Reporter::new();
        let report = Report::Tried { backend: 1, trial: 1, trouble: None };
        let live = Arc::<Live>::default();
        let told = (0..WAITING + 5).filter(|_| reporter.tell(report.clone(), live.ask())).count();
        assert_eq!((told, reporter.dropped()), (WAITING, 5));
        assert!(live.is_undecided());
    }

    /// Whether the future still waits.
    async fn tokio_test_poll<F: Future<Output = ()> + Unpin>(future: &mut F) -> bool {
        tokio::select! {
            biased;
            () = future => false,
            () = tokio::task::yield_now() => true,
        }
    }
}
