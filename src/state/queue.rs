//! Connections that wait for a slot of a pool whose backends are all at their limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::Notify;

use super::counters::{PoolCounters, Queued};

/// The queue of a pool. In order: a freed slot wakes who has waited for the longest, and nobody who
/// comes later takes a slot while somebody waits.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: AtomicU32,
    freed: Arc<Notify>,
}

/// "This connection waits in the queue"; dropping it leaves the queue.
#[derive(Debug)]
pub struct Spot {
    queue: Arc<Queue>,
    _gauge: Queued,
}

impl Queue {
    /// Whether anybody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// Takes a place in the queue; `None` when `max` wait already.
    #[must_use]
    pub fn join(self: &Arc<Self>, max: u32, counters: &Arc<PoolCounters>) -> Option<Spot> {
        let one_more = |waiting| (waiting < max).then_some(waiting + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Spot { queue: Arc::clone(self), _gauge: counters.queue() })
    }

    /// A slot was freed: the next one may take it.
    pub fn wake_one(&self) {
        if !self.is_empty() {
            self.freed.notify_one();
        }
    }

    /// Everything may be different: all look again.
    pub fn wake_all(&self) {
        if !self.is_empty() {
            self.freed.notify_waiters();
        }
    }

    /// What tells of freed slots.
    #[must_use]
    pub fn freed(&self) -> &Arc<Notify> {
        &self.freed
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may_and_who_leaves_makes_room() {
        let (queue, counters) = (Arc::new(Queue::default()), Arc::default());
        let first = queue.join(1, &counters);
        assert!(first.is_some() && queue.join(1, &counters).is_none());
        assert_eq!((queue.is_empty(), counters.queued()), (false, 1));
        drop(first);
        assert_eq!((queue.is_empty(), counters.queued()), (true, 0));
    }

    #[tokio::test]
    async fn a_freed_slot_wakes_the_one_who_waited_longest() {
        let (queue, counters) = (Arc::new(Queue::default()), Arc::default());
        let _spots = (queue.join(2, &counters), queue.join(2, &counters));
        let mut waits = [0, 1].map(|_| Box::pin(Arc::clone(queue.freed()).notified_owned()));
        for wait in &mut waits {
            assert!(!is_over(wait).await);
        }
        queue.wake_one();
        assert!(is_over(&mut waits[0]).await && !is_over(&mut waits[1]).await);
    }

    async fn is_over<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::select! {
            biased;
            _ = future => true,
            () = tokio::task::yield_now() => false,
        }
    }
}
