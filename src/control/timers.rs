//! When the controller has to look at what again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::health::Tick;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next check of this backend.
    Check(u32),
    /// The ejection of this backend.
    Health(u32),
    /// The trial of this backend by a check that could not be judged.
    Trial(u32),
    /// The role, the priority in use or the weights of the pool of this number.
    Pool(u32),
    /// A rotation of the pool of this number that was put off.
    Publish(u32),
    /// The report of a takeover of the pool of this number.
    Report(u32),
    /// Backends of the pool of this number that their names have lost.
    Purge(u32),
    /// The state file.
    Save,
    /// How late this process runs, while checks are under way.
    Beat,
    /// What another process was stopped at.
    Resume,
}

/// All timers of the controller. One that is no longer wanted fires all the same: whoever is asked finds
/// that nothing is due.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Tick, Timer)>>);

impl Timers {
    /// Fires `timer` at `at`, or later.
    pub(super) fn set(&mut self, at: Tick, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    /// When the next one fires.
    pub(super) fn next(&self) -> Option<Tick> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// One that is due by `now`, and when it was.
    pub(super) fn take_due(&mut self, now: Tick) -> Option<(Tick, Timer)> {
        let Reverse((at, _)) = self.0.peek()?;
        if *at > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }

    /// How often `timer` is set.
    #[cfg(test)]
    pub(super) fn count(&self, timer: Timer) -> usize {
        self.0.iter().filter(|Reverse((_, other))| *other == timer).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_too_early() {
        let mut timers = Timers::default();
        timers.set(20, Timer::Save);
        timers.set(10, Timer::Check(1));
        assert_eq!((timers.next(), timers.take_due(9)), (Some(10), None));
        assert_eq!(timers.take_due(25), Some((10, Timer::Check(1))));
        assert_eq!(timers.take_due(25), Some((20, Timer::Save)));
        assert_eq!((timers.take_due(25), timers.next()), (None, None));
    }
}
