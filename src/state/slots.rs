//! A limit on connections that are open at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::Notify;

/// So many connections may be open at once, over all threads.
#[derive(Debug)]
pub struct Slots {
    limit: AtomicU32,
    open: AtomicU32,
    freed: Notify,
}

/// One of the [`Slots`]; dropping it gives it back.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// At most `limit` at once; `None` for no limit.
    #[must_use]
    pub fn new(limit: Option<u32>) -> Self {
        Self {
            limit: AtomicU32::new(limit.unwrap_or(u32::MAX)),
            open: AtomicU32::new(0),
            freed: Notify::new(),
        }
    }

    /// Takes a slot if one is free. At no moment are more taken than the limit.
    #[must_use]
    pub fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit.load(Relaxed);
        let one_more = |open| (open < limit).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Slot(Arc::clone(self)))
    }

    /// Sets another limit; `None` for none. What is taken stays taken, if it is more.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), Relaxed);
        self.freed.notify_waiters();
    }

    /// The limit, if there is one.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit != u32::MAX)
    }

    /// How many are taken.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Whether none is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open() >= self.limit.load(Relaxed)
    }

    /// Waits until one is free; another may be quicker to take it. Cancel safe.
    pub async fn until_free(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Listening before looking, so that no release falls in between.
            freed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, Relaxed);
        if before >= self.0.limit.load(Relaxed) {
            self.0.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_taken_and_each_comes_back() {
        let slots = Arc::new(Slots::new(Some(2)));
        let (first, second) = (slots.try_take(), slots.try_take());
        assert!(first.is_some() && second.is_some() && slots.try_take().is_none());
        drop(first);
        assert!(slots.try_take().is_some());
        drop(second);
        assert_eq!(slots.open(), 0);
    }

    #[test]
    fn another_limit_holds_for_those_to_come() {
        let slots = Arc::new(Slots::new(Some(1)));
        let first = slots.try_take();
        slots.set_limit(Some(2));
        let second = slots.try_take();
        assert!(first.is_some() && second.is_some() && slots.try_take().is_none());
        slots.set_limit(Some(1));
        drop(first);
        assert!(slots.try_take().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_told_when_a_slot_comes_back() {
        let slots = Arc::new(Slots::new(Some(1)));
        let slot = slots.try_take();
        let wait = slots.until_free();
        tokio::pin!(wait);
        assert!(futures_poll(wait.as_mut()).await.is_none());
        drop(slot);
        assert!(futures_poll(wait.as_mut()).await.is_some());
    }

    async fn futures_poll<F: Future + Unpin>(future: F) -> Option<F::Output> {
        tokio::time::timeout(std::time::Duration::from_millis(1), future).await.ok()
    }
}
