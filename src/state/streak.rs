//! What the data path notes of misbehaviour: failures in a row, and what happened in which second.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crate::net::clock::Tick;

/// Connections of a backend that failed in a row.
///
/// Written on failure, and by the first success after one: while all is well, only read. The count (lower
/// 24 bits) and when the first of them failed (the upper 40, which last for 34 years) are one word, so that they
/// belong together. After 16,777,215 failures a new row begins.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Streak(AtomicU64);

const COUNT_BITS: u32 = 24;
const MOST: u64 = (1 << COUNT_BITS) - 1;

impl Streak {
    /// One more has failed `at` this time: how many that makes, and when the first was.
    pub fn fail(&self, at: Tick) -> (u32, Tick) {
        let next = |word: u64| {
            let (count, first) = (word & MOST, word >> COUNT_BITS);
            let count = if count == MOST { 0 } else { count };
            let first = if count == 0 { at } else { first.min(at) };
            (first << COUNT_BITS) | (count + 1)
        };
        // Who counts on sees what was noted before those it counts on.
        let before = self.0.fetch_update(AcqRel, Acquire, |word| Some(next(word)));
        let word = next(before.unwrap_or_else(|word| word));
        (u32::try_from(word & MOST).unwrap_or(u32::MAX), word >> COUNT_BITS)
    }

    /// A connection was served: the streak has ended.
    pub fn end(&self) {
        if self.0.load(Relaxed) != 0 {
            self.0.store(0, Relaxed);
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
    fn a_streak_that_never_ends_begins_anew_before_it_overflows() {
        let streak = Streak(AtomicU64::new((7 << COUNT_BITS) | (MOST - 1)));
        assert_eq!(streak.fail(9), (16_777_215, 7));
        assert_eq!(streak.fail(10), (1, 10));
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
