//! Coarse time for the data path, and one queue of deadlines for each thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Milliseconds since the process started.
pub type Tick = u64;

/// How far [`Clock`] may be behind, at the slowest kernel tick (100 Hz).
pub const GRAIN: Tick = 10;

/// The coarse monotonic clock: a few nanoseconds to read, a few milliseconds exact.
///
/// `CLOCK_MONOTONIC_COARSE`, which the kernel advances with its own tick; never a system call where
/// the vDSO serves it, and never behind on a wall clock's jump.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start_ms: u64,
    start: Instant,
}

impl Clock {
    /// A clock that starts at 0 now. One for the whole process, copied to every thread.
    #[must_use]
    pub fn start() -> Self {
        Self { start_ms: coarse_ms(), start: Instant::now() }
    }

    /// Milliseconds since [`Clock::start`].
    #[must_use]
    pub fn now(&self) -> Tick {
        coarse_ms().saturating_sub(self.start_ms)
    }

    /// The same, exact to the millisecond, for what does not happen often.
    #[must_use]
    pub fn exact(&self) -> Tick {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When it will be `tick`, for timers.
    #[must_use]
    pub fn instant(&self, tick: Tick) -> Instant {
        const FAR: Tick = 10 * 365 * 24 * 3_600_000;
        self.start + Duration::from_millis(tick.min(FAR))
    }
}

fn coarse_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0)
}

/// A duration in ticks, at least one.
#[must_use]
pub fn ticks(duration: Duration) -> Tick {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4)
}

/// The deadlines of one thread's tasks; the thread's loop wakes what is due.
///
/// Activity on a connection touches nothing in here. A deadline that comes too early is found to be
/// so by its owner, who then sets the next one.
#[derive(Debug, Default)]
pub struct Deadlines {
    queue: RefCell<BTreeMap<(Tick, u64), Waker>>,
    serial: Cell<u64>,
}

/// One entry of [`Deadlines`]; dropping it takes the entry out.
#[derive(Debug)]
pub struct Deadline {
    queue: Rc<Deadlines>,
    key: (Tick, u64),
}

impl Deadlines {
    /// Wakes `waker` at `at`, unless the guard is dropped before. Costs O(log n).
    pub fn set(self: &Rc<Self>, at: Tick, waker: Waker) -> Deadline {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        self.queue.borrow_mut().insert((at, serial), waker);
        Deadline { queue: Rc::clone(self), key: (at, serial) }
    }

    /// Waits until `at`. Cancel safe.
    pub async fn sleep_until(self: &Rc<Self>, clock: Clock, at: Tick) {
        let mut deadline = None;
        poll_fn(|cx| {
            if clock.now() >= at {
                return Poll::Ready(());
            }
            deadline = Some(self.set(at, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Tick> {
        self.queue.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes what is due.
    pub(super) fn wake_due(&self, now: Tick) {
        while let Some(waker) = self.take_due(now) {
            waker.wake();
        }
    }

    fn take_due(&self, now: Tick) -> Option<Waker> {
        let mut queue = self.queue.borrow_mut();
        let entry = queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

impl Deadline {
    /// When it is due.
    #[must_use]
    pub fn at(&self) -> Tick {
        self.key.0
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.queue.queue.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn only_what_is_due_wakes_and_a_dropped_deadline_never_does() {
        let (queue, count) = (Rc::new(Deadlines::default()), Arc::new(Count::default()));
        let first = queue.set(10, Arc::clone(&count).into());
        let _second = queue.set(10, Arc::clone(&count).into());
        let _later = queue.set(11, Arc::clone(&count).into());
        drop(first);
        queue.wake_due(10);
        assert_eq!((count.0.load(Relaxed), queue.queue.borrow().len()), (1, 1));
    }

    #[test]
    fn a_duration_under_a_tick_is_one_tick() {
        assert_eq!(ticks(Duration::from_micros(1)), 1);
        assert_eq!(ticks(Duration::from_secs(3)), 3000);
    }

    #[test]
    fn the_earliest_deadline_is_the_next_one_whenever_it_was_set() {
        let (queue, count) = (Rc::new(Deadlines::default()), Arc::new(Count::default()));
        let _late = queue.set(60_000, Arc::clone(&count).into());
        let _soon = queue.set(50, Arc::clone(&count).into());
        assert_eq!(queue.next(), Some(50));
        queue.wake_due(50);
        assert_eq!((count.0.load(Relaxed), queue.next()), (1, Some(60_000)));
    }
}
