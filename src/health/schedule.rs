//! When to check next, and whether a result may be judged.
//!
//! No time is ever caught up: the next check is so long after this one, however late this one was.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::Tick;
use super::outlier::jittered;

/// So many backends beginning together have their first checks spread over a whole interval; fewer
/// over a share of it, a single one is checked at once.
const FLEET: u64 = 64;

/// Lateness of a timer in milliseconds from which on this process has stalled.
const LATE: Tick = 100;

/// The policy of active checks; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checking {
    /// Passes in a row that reinstate. At least 1.
    pub rise: u32,
    /// Failures in a row that evict. At least 1.
    pub fall: u32,
    /// From one check's start to the next one's.
    pub interval: Tick,
    /// The same while a change of state is under way.
    pub fast_interval: Tick,
    /// Longest time of one check.
    pub timeout: Tick,
    /// Percent of an interval it may be longer or shorter, 0 to 100.
    pub jitter: u32,
}

/// Which interval applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// `interval`.
    Steady,
    /// `fast_interval`: a change of state is under way, or nothing is known yet.
    Fast,
}

impl Pace {
    fn interval(self, policy: &Checking) -> Tick {
        match self {
            Self::Steady => policy.interval,
            Self::Fast => policy.fast_interval.min(policy.interval),
        }
    }
}

/// The place of each backend among those whose checks begin together: a number below their count.
///
/// By a hash of pool and backend: the backends of one pool come between those of the others, and
/// the order is the same each time. O(n log n).
#[must_use]
pub fn ranks<'a>(backends: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<usize> {
    let mut order: Vec<_> =
        backends.enumerate().map(|(index, backend)| (hash(backend), index)).collect();
    order.sort_unstable();
    let mut ranks = vec![0; order.len()];
    for (rank, (_, index)) in order.into_iter().enumerate() {
        ranks[index] = rank;
    }
    ranks
}

fn hash(backend: (&str, &str)) -> u64 {
    let mut hasher = SipHasher13::new();
    backend.hash(&mut hasher);
    hasher.finish()
}

/// When the backend of this `rank` (see [`ranks`]) of `fleet` that begin together `at` this time is
/// checked first.
///
/// Evenly spread: over one interval when there are 64 or more, over a share of it when fewer. A
/// single backend is checked at once.
#[must_use]
pub fn first(rank: usize, fleet: usize, at: Tick, policy: &Checking) -> Due {
    let (rank, fleet) = (rank as u128, (fleet as u128).max(1));
    let window = u128::from(policy.interval) * fleet.min(FLEET.into()) / u128::from(FLEET);
    let offset = window * rank.min(fleet - 1) / fleet;
    Due { at: at.saturating_add(u64::try_from(offset).unwrap_or(0)), was_put_off: false }
}

/// When the next check begins, after one that began at `started` and ended at `ended`.
///
/// An interval after its start, and up to `jitter` percent more or less (`draw`, uniform over
/// `u64`). A check that outlived the interval is followed after a random part of one, at least a
/// quarter: never at once, and never by the checks that were missed. Always later than `ended`.
#[must_use]
pub fn next(started: Tick, ended: Tick, pace: Pace, draw: u64, policy: &Checking) -> Due {
    let gap = jittered(pace.interval(policy), policy.jitter.into(), draw).max(1);
    let planned = started.saturating_add(gap);
    let soonest = ended.saturating_add((gap / 4).max(1));
    let at = if planned >= soonest {
        planned
    } else {
        soonest.saturating_add(part_of(gap - gap / 4, draw))
    };
    Due { at, was_put_off: false }
}

/// A part of `whole`, chosen by `draw`; its lower bits, so that it does not follow the jitter.
fn part_of(whole: Tick, draw: u64) -> Tick {
    let scrambled = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    u64::try_from((u128::from(scrambled) * u128::from(whole.max(1))) >> 64).unwrap_or(0)
}

/// A check that is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub at: Tick,
    /// Whether it was put off once, and now begins in any case.
    pub was_put_off: bool,
}

/// What to do when the timer of a check fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fire {
    /// Begin it.
    Now,
    /// Set the timer anew.
    PutOff(Due),
}

impl Due {
    /// What to do when its timer fires `at` this time.
    ///
    /// After a stall everything that fell due in it is due in the same moment. Who is late by 100 ms
    /// or more is put off, once, by a random part (`draw`, uniform over `u64`) of four times the
    /// lateness, at most of an interval: that spreads them about as they were.
    #[must_use]
    pub fn fire(self, at: Tick, draw: u64, policy: &Checking) -> Fire {
        let late = at.saturating_sub(self.at);
        if self.was_put_off || late < LATE {
            return Fire::Now;
        }
        let span = late.saturating_mul(4).min(policy.interval);
        Fire::PutOff(Self { at: at.saturating_add(part_of(span, draw)), was_put_off: true })
    }

    /// After a reload `at` this time: as planned, unless this timing would never plan it so late; then
    /// not later than a first check would be (see [`first`]), lest a backend wait out an interval that is
    /// configured no more. Where timing has not changed nothing does, however often it is read again.
    #[must_use]
    pub fn replanned(self, first: Self, at: Tick, pace: Pace, policy: &Checking) -> Self {
        let interval = pace.interval(policy);
        let latest =
            at.saturating_add(interval + interval.saturating_mul(policy.jitter.into()) / 100);
        if self.at > latest && first.at < self.at { first } else { self }
    }
}

/// How a check ended, as its probe saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should.
    Pass,
    /// The backend's kernel refused at once: no lag of this process can look like that.
    Refused,
    /// In any other way, silence included; how, in words.
    Fail(Arc<str>),
}

/// What a check counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// A pass.
    Pass,
    /// A failure; how, in words.
    Fail(Arc<str>),
    /// Nothing: this process was starved of CPU.
    Unjudged,
}

/// When a check should have been and was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// When its timer was set to fire.
    pub due: Tick,
    /// When it began.
    pub started: Tick,
    /// When its end was seen.
    pub ended: Tick,
    /// Milliseconds of its time in which this process should have run and did not: by how much its
    /// timers fired late, all together.
    pub lag: Tick,
}

impl Timing {
    /// Whether this process was starved: it began the check, saw its timeout, or ran meanwhile, late
    /// by more than a quarter of the timeout (at least 10 ms).
    #[must_use]
    pub fn was_starved(&self, policy: &Checking) -> bool {
        let late = self.started.saturating_sub(self.due);
        let overrun = self.ended.saturating_sub(self.started.saturating_add(policy.timeout));
        late.max(overrun).max(self.lag) > (policy.timeout / 4).max(10)
    }
}

/// What an answer counts as.
///
/// A failure counts only when this process ran in time to see a better answer. A pass counts, but
/// one that came after the timeout is a failure, or, if this process was starved, nothing.
#[must_use]
pub fn judge(answer: Answer, timing: &Timing, policy: &Checking) -> Judged {
    let is_late = timing.ended.saturating_sub(timing.started) > policy.timeout;
    match answer {
        Answer::Pass if !is_late => Judged::Pass,
        Answer::Refused => Judged::Fail("refused".into()),
        Answer::Pass | Answer::Fail(_) if timing.was_starved(policy) => Judged::Unjudged,
        Answer::Pass => Judged::Fail("answered after the timeout".into()),
        Answer::Fail(how) => Judged::Fail(how),
    }
}

#[cfg(test)]
mod tests;
