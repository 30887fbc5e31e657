//! Connections that wait for a slot of a pool whose backends are all at their limit.
//!
//! # How a freed slot finds who waits
//!
//! Everybody in line is *asleep*, *called*, or *looking*: asking the strategy and trying to take a
//! slot. One looks at a time, the called one of the lowest ticket. A slot that is freed calls the
//! first in line who has not been called; where all have been, nobody need be. Who finds nothing
//! sleeps. Who leaves without a slot, or was called once more while it took one, passes its call on.
//! So nobody overtakes: whoever looks has nobody before it who has yet to look at what it may find.
//!
//! **No call is lost.** What frees a slot (1) makes it free, then (2) reads whether anybody is in
//! line. Who waits (3) enters the line, then (4) looks. All are sequentially consistent, (3) and (4)
//! by a fence, so that not both (2) and (4) can miss the other: relaxed operations could, for (1)
//! and (3) may wait in two store buffers while (2) and (4) read. If (2) sees somebody it calls under
//! the lock. Who was asleep wakes and looks, after (1). Who is called has yet to take the lock that
//! begins its look, after (1). Who looks may have looked too early, and so may be called meanwhile:
//! then it looks again.
//!
//! **A call is not used up by who cannot use the slot.** A connection that some backend has failed
//! comes back to its place, and does not try that backend again. If it looks in vain a slot may be
//! free all the same, and so it calls the next one behind it; along the line, each at most once.
//! Who looks in vain with every backend still to be tried has seen that all are full.
//!
//! **Who joins behind somebody asleep may sleep at once**, without having looked: who is asleep has
//! looked, and had there been a slot since, it would have been called. Where somebody in line cannot
//! use every slot this does not hold, and everybody who joins looks.
//!
//! The lock is taken by those who wait, and by a slot that is freed while somebody does; never held
//! over an `.await`.

#![allow(clippy::disallowed_types, reason = "where connections wait anyway; see above")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::counters::{PoolCounters, Queued};

/// The queue of a pool, in the order of its tickets.
#[derive(Debug, Default)]
pub struct Queue {
    /// How many are in line: all that a freed slot looks at where nobody waits.
    waiting: AtomicUsize,
    line: Mutex<Line>,
}

/// "This connection waits in the queue"; dropping it leaves the queue without a slot.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    ticket: u64,
    _gauge: Queued,
}

/// Who waits, by ticket.
#[derive(Debug, Default)]
struct Line {
    waiters: BTreeMap<u64, Waiter>,
    /// Those who are to look.
    called: BTreeSet<u64>,
    /// Those who have not been called since they last began to look. Everybody is either here or
    /// among the called.
    uncalled: BTreeSet<u64>,
    looking: Option<u64>,
    /// How many of them cannot use every slot.
    picky: usize,
}

#[derive(Debug, Default)]
struct Waiter {
    waker: Option<Waker>,
    is_picky: bool,
}

impl Queue {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.load(SeqCst) == 0
    }

    /// Takes the place of `ticket`, which is nobody else's; `None` when `max` wait already. To be
    /// looked for a slot once it is its [turn](Place::poll_turn).
    #[must_use]
    pub fn join(
        self: &Arc<Self>,
        ticket: u64,
        max: usize,
        counters: &Arc<PoolCounters>,
    ) -> Option<Place> {
        let next = self.change(|line| (line.waiters.len() < max).then(|| line.join(ticket)))?;
        // What is looked at from here on is as it was when others may have seen that it is in line.
        fence(SeqCst);
        wake(next);
        Some(Place { queue: Arc::clone(self), ticket, _gauge: counters.queue() })
    }

    /// A slot was freed: whoever has waited for the longest may take it.
    pub fn slot_freed(&self) {
        if !self.is_empty() {
            wake(self.change(Line::call_first));
        }
    }

    /// Everything may be different: all look again, one after the other.
    pub fn all_changed(&self) {
        if !self.is_empty() {
            wake(self.change(Line::call_all));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        let mut line = self.lock();
        let done = change(&mut line);
        self.waiting.store(line.waiters.len(), SeqCst);
        done
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether it may look for a slot now. It then has to say what came of it, by
    /// [`looked_in_vain`](Self::looked_in_vain) or [`take_slot`](Self::take_slot), or leave. Nobody
    /// else looks meanwhile. Woken when it is its turn; cancel safe.
    pub fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        self.queue.change(|line| line.poll_turn(self.ticket, cx))
    }

    /// There was no slot for it. `leaves_some`: of some backends it would not have taken one.
    pub fn looked_in_vain(&self, leaves_some: bool) {
        wake(self.queue.change(|line| line.looked_in_vain(self.ticket, leaves_some)));
    }

    /// It has got a slot, and leaves.
    pub fn take_slot(self) {
        wake(self.queue.change(|line| line.leave(self.ticket, true)));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        wake(self.queue.change(|line| line.leave(self.ticket, false)));
    }
}

fn wake(next: Option<Waker>) {
    if let Some(waker) = next {
        waker.wake();
    }
}

/// Those that change it give back whom to wake, once the lock is free.
impl Line {
    fn join(&mut self, ticket: u64) -> Option<Waker> {
        let is_somebody_asleep = self.uncalled.iter().any(|t| Some(*t) != self.looking);
        self.waiters.insert(ticket, Waiter::default());
        if is_somebody_asleep && self.picky == 0 {
            self.uncalled.insert(ticket);
            return None;
        }
        if self.picky > 0 {
            // A slot of which nobody has been told yet is the first one's.
            self.call(0);
        }
        self.called.insert(ticket);
        self.next()
    }

    fn poll_turn(&mut self, ticket: u64, cx: &Context<'_>) -> Poll<()> {
        if self.looking == Some(ticket) {
            return Poll::Ready(());
        }
        if self.looking.is_none() && self.called.first() == Some(&ticket) {
            self.called.remove(&ticket);
            self.uncalled.insert(ticket);
            self.looking = Some(ticket);
            return Poll::Ready(());
        }
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn looked_in_vain(&mut self, ticket: u64, leaves_some: bool) -> Option<Waker> {
        self.looking = self.looking.filter(|looking| *looking != ticket);
        if let Some(waiter) = self.waiters.get_mut(&ticket)
            && waiter.is_picky != leaves_some
        {
            waiter.is_picky = leaves_some;
            self.picky = if leaves_some { self.picky + 1 } else { self.picky - 1 };
        }
        if leaves_some {
            self.call(ticket + 1);
        }
        self.next()
    }

    fn leave(&mut self, ticket: u64, has_slot: bool) -> Option<Waker> {
        let was_looking = self.looking == Some(ticket);
        let was_called = self.called.remove(&ticket);
        let waiter = self.waiters.remove(&ticket)?;
        self.uncalled.remove(&ticket);
        self.picky -= usize::from(waiter.is_picky);
        if was_looking {
            self.looking = None;
        }
        if was_called || was_looking && !has_slot {
            self.call(0);
        }
        self.next()
    }

    fn call_first(&mut self) -> Option<Waker> {
        self.call(0);
        self.next()
    }

    fn call_all(&mut self) -> Option<Waker> {
        self.called.append(&mut self.uncalled);
        self.next()
    }

    /// Calls the first that has not been called, from this ticket on.
    fn call(&mut self, from: u64) {
        if let Some(first) = self.uncalled.range(from..).next().copied() {
            self.uncalled.remove(&first);
            self.called.insert(first);
        }
    }

    /// Whose turn it is to look, if it is not awake already.
    fn next(&mut self) -> Option<Waker> {
        let first = self.called.first().filter(|_| self.looking.is_none())?;
        self.waiters.get_mut(first)?.waker.take()
    }
}

#[cfg(test)]
mod tests;
