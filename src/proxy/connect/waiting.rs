//! What a connection without a backend waits for: a slot, or another rotation.

use std::sync::Arc;
use std::task::Context;

use super::Race;
use crate::net::clock::Tick;
use crate::state::{Ending, Place, Wait};

/// A connection's place in the queue.
pub(super) struct Waiting {
    pub(super) place: Place,
    /// Until when it keeps it.
    pub(super) until: Tick,
    /// What is left of its deadline, which is no matter meanwhile.
    pub(super) rest: Tick,
}

impl Race<'_> {
    /// Whether others wait for a slot already, and some perhaps for longer.
    pub(super) fn must_queue(&self) -> bool {
        self.pool.queue.is_some() && self.waiting.is_none() && !self.pool.live.queue.is_empty()
    }

    /// Joins the queue, or stays in it after a look that brought no slot. Who was in it before comes
    /// back to its place, whether the queue is full or not, for as long as it has not waited yet.
    pub(super) fn queue(&mut self, now: Tick) -> Result<(), Ending> {
        match &self.waiting {
            Some(waiting) => waiting.place.looked_in_vain(!self.tried.is_empty()),
            None => {
                let Some((max, timeout)) = self.pool.queue else { return Err(Ending::QueueFull) };
                let most = self.may_wait.map_or(usize::try_from(max).ok(), |_| None);
                let (ticket, live) = (self.turn(), &self.pool.live);
                let place = live.queue.join(ticket, most.unwrap_or(usize::MAX), &live.counters);
                let rest = match self.made {
                    0 => self.pool.connect.deadline,
                    _ => self.ends_at.saturating_sub(now),
                };
                self.waiting = Some(Waiting {
                    place: place.ok_or(Ending::QueueFull)?,
                    until: now + self.may_wait.unwrap_or(timeout),
                    rest,
                });
            }
        }
        Ok(())
    }

    /// Leaves the queue, if it is there; the deadline goes on.
    pub(super) fn leave_queue(&mut self, now: Tick) -> Option<Place> {
        let Waiting { place, until, rest } = self.waiting.take()?;
        self.may_wait = Some(until.saturating_sub(now));
        self.ends_at = now + rest;
        Some(place)
    }

    /// Until when it may go on as it does.
    pub(super) fn waits_until(&self) -> Tick {
        let queued = self.waiting.as_ref().map(|waiting| waiting.until);
        let held = || self.held.as_ref().map(|(until, _)| *until);
        queued.or_else(held).unwrap_or(self.ends_at)
    }

    /// Asks to be woken when the rotation changes.
    pub(super) fn listen(&mut self, cx: &mut Context<'_>) {
        let changed = Arc::clone(&self.pool.live.changed);
        self.changed = Some(Box::pin(changed.notified_owned()));
        self.hear(cx);
    }

    /// Takes note of what it was told.
    pub(super) fn hear(&mut self, cx: &mut Context<'_>) {
        self.changed.take_if(|changed| changed.as_mut().poll(cx).is_ready());
    }

    /// Waits for another rotation, within bounds of time and, for actions, of the queue.
    pub(super) fn wait(
        &mut self,
        wait: Option<Wait>,
        now: Tick,
        cx: &Context<'_>,
    ) -> Result<(), Ending> {
        if wait == Some(Wait::Actions) && self.held.is_none() {
            let max = self.pool.queue.map_or(u32::MAX, |(max, _)| max);
            let place = self.pool.live.counters.queue_within(max).ok_or(Ending::QueueFull)?;
            self.held = Some((now + self.pool.hold, place));
        }
        self.hedge_at = None;
        self.set_deadline(cx);
        Ok(())
    }
}
