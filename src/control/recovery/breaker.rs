//! `max_per_hour`: a limit of an action's runs within any hour. Pure: time is an argument.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::Event;
use crate::config::model::Action;
use crate::net::clock::Tick;

/// An hour in ticks.
const HOUR: Tick = 3_600_000;

/// What an action is known by outside this process: all its options, and nothing to be read from it.
#[must_use]
pub fn mark(action: &Action) -> String {
    let mut hasher = SipHasher13::new();
    // A value of the configuration is always text.
    serde_json::to_string(action).unwrap_or_default().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The runs of the last hour of every action with a limit.
///
/// An action is known by its pool, its event and all its options, so that a reload forgets nothing
/// of one that stays as it is.
#[derive(Debug, Default)]
pub(super) struct Breakers(Vec<Breaker>);

#[derive(Debug)]
struct Breaker {
    pool: Arc<str>,
    event: Event,
    action: Action,
    /// When they began, the oldest first.
    runs: VecDeque<Tick>,
}

impl Breakers {
    /// Counts a run that begins `at` this time, if fewer than `max` began within the hour before.
    ///
    /// # Errors
    ///
    /// The limit is reached; in so many ticks the next run may begin.
    pub(super) fn admit(
        &mut self,
        (pool, event, action): (&Arc<str>, Event, &Action),
        max: u32,
        at: Tick,
    ) -> Result<(), Tick> {
        self.forget(at);
        let is_it = |breaker: &Breaker| {
            breaker.pool == *pool && breaker.event == event && breaker.action == *action
        };
        let Some(breaker) = self.0.iter_mut().find(|breaker| is_it(breaker)) else {
            let (pool, action) = (Arc::clone(pool), action.clone());
            self.0.push(Breaker { pool, event, action, runs: VecDeque::from([at]) });
            return Ok(());
        };
        match breaker.runs.front() {
            Some(oldest) if breaker.runs.len() >= max as usize => Err(oldest + HOUR - at),
            _ => {
                breaker.runs.push_back(at);
                Ok(())
            }
        }
    }

    /// The runs of the actions of a pool and an event: see [`mark`], and how long ago each began.
    pub(super) fn recent(&self, of: (&str, Event), at: Tick) -> Vec<(String, Vec<Tick>)> {
        let is_it = |breaker: &&Breaker| (&*breaker.pool, breaker.event) == of;
        let ages = |breaker: &Breaker| breaker.runs.iter().map(|run| at - run).collect();
        self.0.iter().filter(is_it).map(|b| (mark(&b.action), ages(b))).collect()
    }

    /// Counts runs that began so long before `at`.
    pub(super) fn count(
        &mut self,
        (pool, event, action): (&Arc<str>, Event, &Action),
        ages: &[Tick],
        at: Tick,
    ) {
        let mut runs: Vec<_> = ages.iter().filter(|age| **age < HOUR).collect();
        runs.sort_unstable_by(|one, other| other.cmp(one));
        // What began before this process did is counted from its start on: longer, never shorter.
        let runs: VecDeque<_> = runs.into_iter().map(|age| at.saturating_sub(*age)).collect();
        if !runs.is_empty() {
            let (pool, action) = (Arc::clone(pool), action.clone());
            self.0.push(Breaker { pool, event, action, runs });
        }
    }

    /// Drops what is over an hour old.
    fn forget(&mut self, at: Tick) {
        self.0.retain_mut(|breaker| {
            breaker.runs.retain(|run| run + HOUR > at);
            !breaker.runs.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::exec;
    use super::*;

    const MINUTE: Tick = 60_000;

    fn admit(breakers: &mut Breakers, pool: &str, at: Tick) -> Result<(), Tick> {
        breakers.admit((&pool.into(), Event::Evict, &exec(&["repair"])), 2, at)
    }

    #[test]
    fn a_third_run_within_an_hour_waits_for_the_first_to_be_an_hour_old() {
        let mut breakers = Breakers::default();
        assert_eq!(admit(&mut breakers, "app", 0), Ok(()));
        assert_eq!(admit(&mut breakers, "app", 20 * MINUTE), Ok(()));
        assert_eq!(admit(&mut breakers, "app", 50 * MINUTE), Err(10 * MINUTE));
        assert_eq!(admit(&mut breakers, "app", 60 * MINUTE - 1), Err(1));
        assert_eq!(admit(&mut breakers, "app", 60 * MINUTE), Ok(()));
        assert_eq!(admit(&mut breakers, "app", 61 * MINUTE), Err(19 * MINUTE));
    }

    #[test]
    fn a_suppressed_run_does_not_count() {
        let mut breakers = Breakers::default();
        admit(&mut breakers, "app", 0).unwrap();
        admit(&mut breakers, "app", 1).unwrap();
        (2..100).for_each(|at| assert!(admit(&mut breakers, "app", at).is_err()));
        assert_eq!(admit(&mut breakers, "app", HOUR), Ok(()));
    }

    #[test]
    fn pools_events_and_actions_have_limits_of_their_own_and_are_forgotten() {
        let mut breakers = Breakers::default();
        let (app, api): (Arc<str>, Arc<str>) = ("app".into(), "api".into());
        let (one, two) = (exec(&["one"]), exec(&["two"]));
        let all = [
            (&app, Event::Evict, &one),
            (&api, Event::Evict, &one),
            (&app, Event::PoolDown, &one),
            (&app, Event::Evict, &two),
        ];
        for which in all {
            assert_eq!(breakers.admit(which, 1, 5), Ok(()));
        }
        assert_eq!(breakers.admit(all[0], 1, 5), Err(HOUR));
        assert_eq!(breakers.admit(all[0], 1, 5 + HOUR), Ok(()));
        assert_eq!(breakers.0.len(), 1);
    }

    #[test]
    fn runs_of_another_process_count_until_they_are_an_hour_old() {
        let (app, action) = (Arc::<str>::from("app"), exec(&["repair"]));
        let mut before = Breakers::default();
        for at in [0, 50 * MINUTE] {
            before.admit((&app, Event::Evict, &action), 9, at).unwrap();
        }
        let recent = before.recent(("app", Event::Evict), 55 * MINUTE);
        assert_eq!(recent, [(mark(&action), vec![55 * MINUTE, 5 * MINUTE])]);
        assert!(before.recent(("app", Event::Reinstate), 55 * MINUTE).is_empty());
        let mut after = Breakers::default();
        // This one has run for an hour.
        after.count((&app, Event::Evict, &action), &recent[0].1, 60 * MINUTE);
        let (evict, at) = ((&app, Event::Evict, &action), 64 * MINUTE);
        assert_eq!(after.admit(evict, 2, at), Err(MINUTE));
        assert_eq!(after.admit(evict, 2, at + MINUTE), Ok(()));
    }
}
