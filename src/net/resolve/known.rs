//! What is known of a name, and when to ask again: no clock, no socket.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Answer, Found, LookupError, MOST_ADDRESSES};

/// After so many failures in a row the time between two questions doubles no more.
const MOST_DOUBLINGS: u32 = 4;

/// How often a name may be looked up, and must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The shortest time between two look-ups, whatever the answer's time to live.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

/// The last good answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    v4: BTreeSet<Found>,
    v6: BTreeSet<Found>,
    /// Look-ups in a row that have brought nothing.
    failures: u32,
}

/// What an answer changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Addresses that are new, or whose service has another weight or priority.
    pub added: Vec<Found>,
    /// Addresses that are gone, or the same as they were before.
    pub removed: Vec<Found>,
    /// Why nothing new is known, of the whole name or of one family; what was known stays.
    pub error: Option<LookupError>,
    /// Addresses beyond what is kept of one name.
    pub dropped: usize,
    /// When to ask again.
    pub next_in: Duration,
}

impl Known {
    /// What was known before, to go on with.
    #[must_use]
    pub fn of(found: impl IntoIterator<Item = Found>) -> Self {
        let is_v4 = |found: &Found| found.service.is_some() || found.address.is_ipv4();
        let (v4, v6) = found.into_iter().partition(is_v4);
        let mut known = Self { v4, v6, failures: 0 };
        known.drop_surplus();
        known
    }

    /// All addresses, in order.
    pub fn found(&self) -> impl Iterator<Item = Found> + '_ {
        self.v4.union(&self.v6).copied()
    }

    /// Takes in an answer.
    ///
    /// A family that could not be looked up keeps its addresses, and so do both where there would be
    /// none left: a name that has lost all of its addresses is far more often a failure of the DNS
    /// than of all backends. Asks again when the answer's time to live ends, within the bounds. After
    /// a failure that says no time: after the shortest, which doubles up to sixteen times, within the
    /// longest.
    pub fn learn(&mut self, answer: Answer, bounds: Bounds) -> Change {
        let Answer { v4, v6, ttl } = answer;
        let is_good = |part: &Result<Vec<Found>, _>| part.as_ref().is_ok_and(|f| !f.is_empty());
        let mut change = Change {
            added: Vec::new(),
            removed: Vec::new(),
            error: None,
            dropped: 0,
            next_in: bounds.clamp(ttl.unwrap_or(bounds.max)),
        };
        if !is_good(&v4) && !is_good(&v6) {
            let failed = [v4.err(), v6.err()].into_iter().flatten();
            // What went wrong says more than that there is nothing.
            let error = failed.min_by_key(LookupError::is_nothing).unwrap_or(LookupError::Empty);
            change.next_in = bounds.clamp(ttl.unwrap_or_else(|| self.back_off(bounds)));
            self.failures = self.failures.saturating_add(1);
            change.error = Some(error);
            return change;
        }
        self.failures = 0;
        let before: BTreeSet<_> = self.found().collect();
        for (known, part) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
            match part {
                Ok(found) => *known = found.into_iter().collect(),
                Err(error) if error.is_nothing() => known.clear(),
                Err(error) => {
                    change.error = Some(error);
                    // The family that failed is asked for again before long.
                    change.next_in = bounds.min;
                }
            }
        }
        change.dropped = self.drop_surplus();
        let after: BTreeSet<_> = self.found().collect();
        change.added = after.difference(&before).copied().collect();
        change.removed = before.difference(&after).copied().collect();
        change
    }

    fn back_off(&self, bounds: Bounds) -> Duration {
        bounds.min.saturating_mul(1 << self.failures.min(MOST_DOUBLINGS))
    }

    /// Keeps the lowest addresses, one for each; how many were too many.
    fn drop_surplus(&mut self) -> usize {
        let mut dropped = 0;
        for known in [&mut self.v4, &mut self.v6] {
            // Of two records for one address the one of the better priority stands first.
            let mut last = None;
            known.retain(|found| last.replace(found.address) != Some(found.address));
            while known.len() > MOST_ADDRESSES {
                known.pop_last();
                dropped += 1;
            }
        }
        dropped
    }
}

impl Bounds {
    fn clamp(self, time: Duration) -> Duration {
        time.clamp(self.min, self.max.max(self.min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::resolve::Service;

    const BOUNDS: Bounds = Bounds { min: Duration::from_secs(5), max: Duration::from_secs(300) };

    fn found(texts: &[&str]) -> Vec<Found> {
        texts.iter().map(|t| Found { address: t.parse().unwrap(), service: None }).collect()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answer(v4: &[&str], v6: &[&str], ttl: u64) -> Answer {
        let part = |texts: &[&str]| match texts {
            [] => Err(LookupError::Empty),
            texts => Ok(found(texts)),
        };
        Answer { v4: part(v4), v6: part(v6), ttl: Some(seconds(ttl)) }
    }

    #[test]
    fn what_is_new_and_what_is_gone_is_told_once() {
        let mut known = Known::default();
        let first = known.learn(answer(&["10.0.0.2:1", "10.0.0.1:1"], &[], 60), BOUNDS);
        assert_eq!(first.added, found(&["10.0.0.1:1", "10.0.0.2:1"]));
        assert_eq!((first.removed, first.error, first.next_in), (vec![], None, seconds(60)));
        let same = known.learn(answer(&["10.0.0.1:1", "10.0.0.2:1"], &[], 60), BOUNDS);
        assert_eq!((same.added, same.removed), (vec![], vec![]));
        let other = known.learn(answer(&["10.0.0.2:1"], &["[fd00::1]:1"], 60), BOUNDS);
        assert_eq!(other.added, found(&["[fd00::1]:1"]));
        assert_eq!(other.removed, found(&["10.0.0.1:1"]));
    }

    #[test]
    fn what_was_known_before_is_known_again() {
        let mut known = Known::default();
        known.learn(answer(&["10.0.0.1:1"], &["[fd00::1]:1"], 60), BOUNDS);
        assert_eq!(Known::of(known.found()), known);
        let service = Some(Service { priority: 1, weight: 2 });
        let v6 = Found { address: "[fd00::1]:1".parse().unwrap(), service };
        let answer = Answer { v4: Ok(vec![v6]), v6: Err(LookupError::Empty), ttl: None };
        let mut known = Known::default();
        known.learn(answer, BOUNDS);
        assert_eq!(Known::of(known.found()), known, "all of a service are together");
    }

    #[test]
    fn the_time_to_live_counts_within_the_bounds() {
        let next_in =
            |ttl| Known::default().learn(answer(&["10.0.0.1:1"], &[], ttl), BOUNDS).next_in;
        assert_eq!([next_in(0), next_in(30), next_in(86_400)], [5, 30, 300].map(seconds));
        let untold = Answer { ttl: None, ..answer(&["10.0.0.1:1"], &[], 0) };
        assert_eq!(Known::default().learn(untold, BOUNDS).next_in, seconds(300));
    }

    #[test]
    fn a_failed_or_empty_answer_keeps_the_last_good_one_and_waits_longer_each_time() {
        let mut known = Known::default();
        known.learn(answer(&["10.0.0.1:1"], &["[fd00::1]:1"], 60), BOUNDS);
        let good = known.clone();
        let errors = [
            LookupError::Timeout,
            LookupError::Refused("SERVFAIL".into()),
            LookupError::NoSuchName,
            LookupError::Empty,
            LookupError::Timeout,
            LookupError::Timeout,
        ];
        let mut waits = Vec::new();
        for error in errors {
            let change = known.learn(Answer::failed(error.clone(), None), BOUNDS);
            assert_eq!((change.added, change.removed), (vec![], vec![]));
            assert_eq!(change.error, Some(error));
            waits.push(change.next_in.as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 80]);
        assert!(known.found().eq(good.found()));
        known.learn(answer(&["10.0.0.1:1"], &[], 60), BOUNDS);
        assert_eq!(known.failures, 0);
    }

    #[test]
    fn a_negative_answer_says_itself_when_to_ask_again() {
        let negative = |ttl| Answer::failed(LookupError::NoSuchName, Some(seconds(ttl)));
        let next_in = |ttl| Known::default().learn(negative(ttl), BOUNDS).next_in;
        assert_eq!([next_in(1), next_in(60), next_in(3600)], [5, 60, 300].map(seconds));
    }

    #[test]
    fn a_family_that_failed_keeps_its_addresses_and_one_that_is_gone_does_not() {
        let mut known = Known::default();
        known.learn(answer(&["10.0.0.1:1"], &["[fd00::1]:1"], 60), BOUNDS);
        let half = Answer { v6: Err(LookupError::Timeout), ..answer(&["10.0.0.2:1"], &[], 60) };
        let change = known.learn(half, BOUNDS);
        assert_eq!(change.removed, found(&["10.0.0.1:1"]));
        assert_eq!((change.error, change.next_in), (Some(LookupError::Timeout), seconds(5)));
        let gone = known.learn(answer(&["10.0.0.2:1"], &[], 60), BOUNDS);
        assert_eq!((gone.removed, gone.error), (found(&["[fd00::1]:1"]), None));
    }

    #[test]
    fn another_weight_is_a_change() {
        let one = |weight| Found {
            address: "10.0.0.1:1".parse().unwrap(),
            service: Some(Service { priority: 1, weight }),
        };
        let answer = |weight| Answer {
            v4: Ok(vec![one(weight)]),
            v6: Err(LookupError::Empty),
            ttl: Some(seconds(60)),
        };
        let mut known = Known::default();
        known.learn(answer(1), BOUNDS);
        let change = known.learn(answer(2), BOUNDS);
        assert_eq!((change.added, change.removed), (vec![one(2)], vec![one(1)]));
    }

    #[test]
    fn of_too_many_addresses_the_same_ones_stay() {
        let many = |from: u32, to: u32| -> Vec<String> {
            (from..to).map(|n| format!("{}:1", std::net::Ipv4Addr::from_bits(n))).collect()
        };
        let mut known = Known::default();
        let texts = many(0, 1500);
        let mut texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let first = known.learn(answer(&texts, &[], 60), BOUNDS);
        assert_eq!((first.added.len(), first.dropped), (1024, 476));
        texts.reverse();
        let second = known.learn(answer(&texts, &[], 60), BOUNDS);
        assert_eq!((second.added, second.removed), (vec![], vec![]));
    }
}
