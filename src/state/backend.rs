//! A backend: who it is, its live numbers, and the guard of a slot of it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::counters::BackendCounters;
use super::queue::Queue;
use super::streak::{BySecond, Streak};
use crate::balance::Load;
use crate::net::addr::Address;
use crate::net::clock::Tick;
use crate::net::relay::Totals;

/// One worker node of a pool.
#[derive(Debug)]
pub struct Backend {
    /// Identity within the process; never given to another backend.
    pub id: u32,
    /// Its name within its pool.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// What a strategy may read.
    pub load: Arc<Load>,
    /// Bytes that its connections carried.
    pub totals: Arc<Totals>,
    /// What else is counted of it.
    pub counters: Arc<BackendCounters>,
    /// Its failures in a row.
    pub streak: Streak,
    /// Who waits for a slot of it.
    pub queue: Arc<Queue>,
    /// Connections that it cut off, by time.
    pub cuts: BySecond,
}

impl Backend {
    /// A backend that has served nobody yet.
    #[must_use]
    pub fn new(id: u32, name: &str, address: Address, queue: Arc<Queue>) -> Self {
        Self {
            id,
            name: name.into(),
            address,
            load: Arc::default(),
            totals: Arc::default(),
            counters: Arc::default(),
            queue,
            streak: Streak::default(),
            cuts: BySecond::default(),
        }
    }
}

/// A backend as a member of a rotation: with what holds of it now.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub backend: Arc<Backend>,
    /// Share of new connections, relative to the others in the rotation; 0: none.
    pub weight: u32,
    /// Most connections at the same time.
    pub max_connections: Option<NonZeroU32>,
    /// The trial that its next connection is.
    pub trial: Option<Arc<Trial>>,
}

/// Milliseconds after which another connection may be the trial too, because one whose client says
/// nothing decides nothing.
const UNDECIDED_AFTER: Tick = 1000;

/// The trial of a backend whose ejection is over: what becomes of a connection decides.
#[derive(Debug)]
pub struct Trial {
    /// Its number, to tell its outcome by.
    pub number: u64,
    /// Whether it is one connection at a time.
    is_limited: bool,
    /// Since when a connection is at it, and 1 more; 0: none is.
    taken: AtomicU64,
}

impl Trial {
    /// The trial of this number; `is_limited` to one connection at a time.
    #[must_use]
    pub fn new(number: u64, is_limited: bool) -> Self {
        Self { number, is_limited, taken: AtomicU64::new(0) }
    }

    /// Whether it is the trial of this number and kind.
    #[must_use]
    pub fn is(&self, number: u64, is_limited: bool) -> bool {
        self.number == number && self.is_limited == is_limited
    }

    fn take(&self, now: Tick) -> bool {
        let taken = self.taken.load(Relaxed);
        let is_free = taken == 0 || now >= taken + UNDECIDED_AFTER;
        let swap = || self.taken.compare_exchange(taken, now + 1, Relaxed, Relaxed);
        !self.is_limited || (is_free && swap().is_ok())
    }

    fn give_back(&self) {
        self.taken.store(0, SeqCst);
    }
}

/// "This connection occupies a slot of that backend"; dropping it frees the slot, and the trial for
/// another connection.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    trial: Option<Arc<Trial>>,
}

impl Lease {
    /// Takes a slot of `member` at this time; `None` when its `max_connections` are taken, or another connection
    /// is its trial. At no moment are more taken.
    #[must_use]
    pub fn take(member: &Member, now: Tick) -> Option<Self> {
        let Member { backend, max_connections, trial, .. } = member;
        // Looked at first, so that a trial of a full backend is taken only in a race.
        let is_full = max_connections.is_some_and(|limit| backend.load.open() >= limit.get());
        if is_full || trial.as_ref().is_some_and(|trial| !trial.take(now)) {
            return None;
        }
        let has_slot = backend.load.take(*max_connections);
        if !has_slot {
            if let Some(trial) = trial {
                // Who saw it taken meanwhile may wait for it.
                trial.give_back();
                backend.queue.slot_freed();
            }
            return None;
        }
        // From here on a trial that was taken is given back by the guard.
        Some(Self { backend: Arc::clone(backend), trial: trial.clone() })
    }

    /// Whose slot it is.
    #[must_use]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The number of the trial that this connection is.
    #[must_use]
    pub fn trial(&self) -> Option<u64> {
        self.trial.as_ref().map(|trial| trial.number)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Free first, told of then: see the queue.
        self.backend.load.give_back();
        if let Some(trial) = &self.trial {
            trial.give_back();
        }
        self.backend.queue.slot_freed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(limit: Option<u32>, trial: Option<Trial>) -> Member {
        let address = Address::Tcp("127.0.0.1:1".parse().unwrap());
        Member {
            backend: Arc::new(Backend::new(1, "a", address, Arc::default())),
            weight: 1,
            max_connections: limit.and_then(NonZeroU32::new),
            trial: trial.map(Arc::new),
        }
    }

    #[test]
    fn one_connection_at_a_time_is_the_trial() {
        let member = member(None, Some(Trial::new(7, true)));
        let lease = Lease::take(&member, 5).unwrap();
        assert_eq!(lease.trial(), Some(7));
        assert!(Lease::take(&member, 5).is_none());
        drop(lease);
        assert!(Lease::take(&member, 5).is_some());
    }

    #[test]
    fn a_trial_that_stays_undecided_is_another_ones_too() {
        let member = member(None, Some(Trial::new(7, true)));
        let silent = Lease::take(&member, 5).unwrap();
        assert!(Lease::take(&member, 1005).is_none());
        let second = Lease::take(&member, 1006).unwrap();
        assert_eq!((silent.trial(), second.trial()), (Some(7), Some(7)));
        assert!(Lease::take(&member, 1006).is_none(), "it begins anew");
    }

    #[test]
    fn a_full_backend_keeps_its_trial_free() {
        let mut member = member(Some(1), None);
        let busy = Lease::take(&member, 5).unwrap();
        member.trial = Some(Arc::new(Trial::new(7, true)));
        assert!(Lease::take(&member, 5).is_none());
        drop(busy);
        assert!(Lease::take(&member, 5).is_some());
    }

    #[test]
    fn in_panic_every_connection_may_be_the_trial() {
        let member = member(None, Some(Trial::new(7, false)));
        let first = Lease::take(&member, 5);
        assert!(first.is_some() && Lease::take(&member, 5).is_some());
    }
}
