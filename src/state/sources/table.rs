//! One shard of the sources: plain state, with the time as an argument.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;

use super::{Refused, Source, SourceLimits};
use crate::net::clock::Tick;

/// Tokens of a bucket that one connection takes: a rate of so many a second adds as many of these in
/// a millisecond.
const ONE: u64 = 1000;
/// How long a bucket takes to fill: the burst is one second's worth. A source that was quiet for so
/// long is like a new one.
const FULL_AFTER: Tick = 1000;
/// Idle sources that are looked at for each one that comes: more than come, so that they never pile
/// up, and few, so that nobody waits for it.
const LOOKED_AT: usize = 2;

/// Whether a connection was counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Counted,
    Refused(Refused),
}

/// Sources that have connections open, or had some a moment ago.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<Source, Entry>,
    /// Sources that had no open connection at that time, each once, and roughly in that order.
    idle: VecDeque<(Source, Tick)>,
    most_idle: usize,
}

#[derive(Debug)]
struct Entry {
    open: u32,
    /// In the queue of idle ones, where it may stay for a while after it is idle no more.
    is_queued: bool,
    tokens: u64,
    /// When `tokens` was right.
    at: Tick,
}

impl Table {
    pub(super) fn new(most_idle: usize) -> Self {
        Self { entries: HashMap::new(), idle: VecDeque::new(), most_idle }
    }

    pub(super) fn admit(&mut self, source: Source, limits: SourceLimits, now: Tick) -> Verdict {
        self.forget_quiet(now);
        let entry = self.entries.entry(source).or_insert(Entry {
            open: 0,
            is_queued: false,
            tokens: full(limits.rate),
            at: now,
        });
        let verdict = entry.admit(limits, now);
        // Only a refused one without any open connection is idle here.
        self.queue_if_idle(source);
        verdict
    }

    pub(super) fn release(&mut self, source: Source) {
        if let Some(entry) = self.entries.get_mut(&source) {
            entry.open = entry.open.saturating_sub(1);
            self.queue_if_idle(source);
        }
    }

    pub(super) fn open(&self, source: Source) -> u32 {
        self.entries.get(&source).map_or(0, |entry| entry.open)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets an idle source at once if nothing is known of it, else later.
    fn queue_if_idle(&mut self, source: Source) {
        let Some(entry) = self.entries.get_mut(&source) else { return };
        if entry.open > 0 || entry.is_queued {
            return;
        }
        if entry.tokens == u64::MAX {
            self.entries.remove(&source);
            return;
        }
        entry.is_queued = true;
        self.idle.push_back((source, entry.at));
        while self.idle.len() > self.most_idle {
            self.forget_first();
        }
    }

    /// Forgets the sources at the front of the queue whose buckets are full again.
    fn forget_quiet(&mut self, now: Tick) {
        for _ in 0..LOOKED_AT {
            match self.idle.front() {
                Some((_, at)) if at + FULL_AFTER <= now => self.forget_or_requeue(now),
                _ => return,
            }
        }
    }

    /// Takes the first one off the queue, and forgets it if it is idle.
    fn forget_first(&mut self) {
        self.forget_or_requeue(Tick::MAX);
    }

    /// The same, but one that was busy since it was queued goes to the end.
    fn forget_or_requeue(&mut self, now: Tick) {
        let Some((source, _)) = self.idle.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&source) else { return };
        if entry.open > 0 {
            entry.is_queued = false;
        } else if entry.at.saturating_add(FULL_AFTER) > now {
            self.idle.push_back((source, entry.at));
        } else {
            self.entries.remove(&source);
        }
    }
}

impl Entry {
    fn admit(&mut self, limits: SourceLimits, now: Tick) -> Verdict {
        if limits.connections.is_some_and(|most| self.open >= most.get()) {
            return Verdict::Refused(Refused::Limit);
        }
        if let Some(rate) = limits.rate {
            let passed = now.saturating_sub(self.at);
            let refilled = self.tokens.saturating_add(passed.saturating_mul(rate.get().into()));
            self.tokens = refilled.min(full(Some(rate)));
            self.at = self.at.max(now);
            match self.tokens.checked_sub(ONE) {
                None => return Verdict::Refused(Refused::Rate),
                Some(left) => self.tokens = left,
            }
        }
        self.open += 1;
        Verdict::Counted
    }
}

/// A full bucket; without a rate one that nothing is known of.
fn full(rate: Option<NonZeroU32>) -> u64 {
    rate.map_or(u64::MAX, |rate| u64::from(rate.get()) * ONE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Source = Source::V4(1);

    fn limits(connections: u32, rate: u32) -> SourceLimits {
        SourceLimits { connections: NonZeroU32::new(connections), rate: NonZeroU32::new(rate) }
    }

    /// How many of `tries` connections at `now` are let in; each is closed at once.
    fn let_in(table: &mut Table, rate: u32, now: Tick, tries: u32) -> u32 {
        let admit = |_| match table.admit(A, limits(0, rate), now) {
            Verdict::Counted => {
                table.release(A);
                1
            }
            Verdict::Refused(refused) => {
                assert_eq!(refused, Refused::Rate);
                0
            }
        };
        (0..tries).map(admit).sum()
    }

    #[test]
    fn a_burst_of_one_second_then_the_rate() {
        let mut table = Table::new(100);
        assert_eq!(let_in(&mut table, 100, 5000, 1000), 100);
        assert_eq!(let_in(&mut table, 100, 5009, 1000), 0);
        assert_eq!(let_in(&mut table, 100, 5010, 1000), 1);
        assert_eq!(let_in(&mut table, 100, 5500, 1000), 49);
        assert_eq!(let_in(&mut table, 100, 9000, 1000), 100);
    }

    #[test]
    fn a_rate_of_one_lets_one_in_each_second() {
        let mut table = Table::new(100);
        let times = (0..5000).step_by(10);
        let all: u32 = times.map(|now| let_in(&mut table, 1, now, 1)).sum();
        assert_eq!(all, 5);
    }

    #[test]
    fn a_clock_that_is_behind_gives_nothing_away() {
        let mut table = Table::new(100);
        assert_eq!(let_in(&mut table, 10, 2000, 20), 10);
        assert_eq!(let_in(&mut table, 10, 1000, 20), 0);
        assert_eq!(let_in(&mut table, 10, 2100, 20), 1);
    }

    #[test]
    fn one_refused_for_its_number_takes_nothing_from_the_rate() {
        let mut table = Table::new(100);
        assert_eq!(table.admit(A, limits(1, 2), 0), Verdict::Counted);
        for _ in 0..10 {
            assert_eq!(table.admit(A, limits(1, 2), 0), Verdict::Refused(Refused::Limit));
        }
        table.release(A);
        assert_eq!(table.admit(A, limits(1, 2), 0), Verdict::Counted);
    }

    #[test]
    fn a_lower_limit_holds_at_once_for_new_connections() {
        let mut table = Table::new(100);
        assert_eq!(let_in(&mut table, 100, 0, 10), 10);
        assert_eq!(let_in(&mut table, 5, 0, 10), 5);
    }

    #[test]
    fn a_source_without_a_rate_is_forgotten_with_its_last_connection() {
        let mut table = Table::new(100);
        table.admit(A, limits(3, 0), 0);
        table.admit(A, limits(3, 0), 0);
        table.release(A);
        assert_eq!((table.len(), table.open(A)), (1, 1));
        table.release(A);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn more_quiet_sources_than_may_be_remembered_push_out_the_oldest() {
        let mut table = Table::new(10);
        table.admit(A, limits(0, 1), 0);
        for n in 2..50 {
            table.admit(Source::V4(n), limits(0, 1), 0);
            table.release(Source::V4(n));
        }
        assert_eq!((table.len(), table.open(A)), (11, 1), "one that is open stays");
        table.release(A);
        assert_eq!(table.len(), 10);
    }

    #[test]
    fn sources_that_stay_open_do_not_keep_quiet_ones_from_being_forgotten() {
        let mut table = Table::new(100_000);
        let open = (0..10_000).map(Source::V4);
        open.for_each(|source| assert_eq!(table.admit(source, limits(0, 1), 0), Verdict::Counted));
        for n in 0..100_000_u32 {
            let source = Source::V6(n.into());
            table.admit(source, limits(0, 1), (n / 10).into());
            table.release(source);
        }
        assert!(table.len() < 10_000 + 10_100, "{}", table.len());
    }

    proptest! {
        /// What a table says is what one says that remembers everything.
        #[test]
        fn forgetting_changes_no_verdict(
            steps in prop::collection::vec((0..6_u32, 0..400_u64, any::<bool>()), 1..300),
            connections in 0..4_u32,
            rate in 0..5_u32,
        ) {
            prop_assume!(connections + rate > 0);
            let limits = limits(connections, rate);
            let (mut table, mut now) = (Table::new(100), 0);
            let mut all: HashMap<u32, Entry> = HashMap::new();
            for (source, passed, is_release) in steps {
                now += passed;
                let fresh = || Entry { open: 0, is_queued: false, tokens: full(limits.rate), at: now };
                let known = all.entry(source).or_insert_with(fresh);
                if is_release && known.open > 0 {
                    known.open -= 1;
                    table.release(Source::V4(source));
                } else {
                    prop_assert_eq!(table.admit(Source::V4(source), limits, now), known.admit(limits, now));
                }
                prop_assert_eq!(table.open(Source::V4(source)), known.open);
            }
        }
    }
}
