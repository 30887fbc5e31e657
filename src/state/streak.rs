//! What the data path notes of misbehaviour: failures in a row, and what happened in which second.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Relaxed};

use crate::net::clock::Tick;

/// Connections of a backend that failed in a row.
///
/// Written on failure, and by the first success after one: while all is well, only read. Threads that
/// fail at the same moment may disagree on which was first by less than they are apart.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Streak {
    count: AtomicU32,
    /// When the first of them failed.
    first: AtomicU64,
}

impl Streak {
    /// One more has failed `at` this time: how many that makes, and when the first was.
    pub fn fail(&self, at: Tick) -> (u32, Tick) {
        // Who counts on sees what was noted before those it counts on.
        let before = self.count.fetch_add(1, AcqRel);
        if before == 0 {
            self.first.store(at, Relaxed);
        }
        (before.saturating_add(1), self.first.load(Relaxed).min(at))
    }

    /// A connection was served: the streak has ended.
    pub fn end(&self) {
        if self.count.load(Relaxed) != 0 {
            self.count.store(0, Relaxed);
        }
    }
}

/// Cells: seconds that are remembered.
const CELLS: usize = 64;

/// A count of something by the second: what preceded its detection can be told afterwards.
///
/// Each cell packs the second it counts for (upper 32 bits) and the count. Two threads that meet in
/// the first moment of a second may lose a count to each other.
#[derive(Debug)]
pub struct BySecond([AtomicU64; CELLS]);

impl Default for BySecond {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl BySecond {
    /// One more, `at` this time.
    pub fn add(&self, at: Tick) {
        let second = at / 1000;
        let cell = &self.0[usize::try_from(second).unwrap_or(0) % CELLS];
        if cell.load(Relaxed) >> 32 == second & 0xffff_ffff {
            cell.fetch_add(1, Relaxed);
        } else {
            cell.store((second << 32) | 1, Relaxed);
        }
    }

    /// How many in the seconds from `from` to `to`, of which the last 64 are known. They are taken out:
    /// nobody is told of the same one twice.
    #[must_use]
    pub fn take_between(&self, from: Tick, to: Tick) -> u64 {
        let seconds = from / 1000..=to / 1000;
        let take = |cell: &AtomicU64| {
            let word = cell.load(Relaxed);
            let count = if seconds.contains(&(word >> 32)) { word & 0xffff_ffff } else { 0 };
            // What is added meanwhile stays.
            cell.fetch_sub(count, Relaxed);
            count
        };
        self.0.iter().map(take).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_counts_up_and_remembers_its_first() {
        let streak = Streak::default();
        assert_eq!(streak.fail(5), (1, 5));
        assert_eq!(streak.fail(9), (2, 5));
        streak.end();
        assert_eq!(streak.fail(12), (1, 12));
    }

    #[test]
    fn what_is_counted_by_the_second_is_forgotten_after_a_minute() {
        let counts = BySecond::default();
        [900, 1_000, 1_999, 3_000].into_iter().for_each(|at| counts.add(at));
        counts.add(65_000);
        assert_eq!(counts.take_between(0, 65_000), 3, "second 1 has made room for second 65");
    }

    #[test]
    fn what_was_taken_is_not_told_again() {
        let counts = BySecond::default();
        [900, 1_000, 1_999, 3_000].into_iter().for_each(|at| counts.add(at));
        assert_eq!(counts.take_between(1_500, 2_500), 2);
        counts.add(1_999);
        assert_eq!(counts.take_between(0, 3_000), 3);
        assert_eq!(counts.take_between(0, 3_000), 0);
    }
}
