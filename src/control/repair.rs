//! Recovery actions of one pool: which run is whose, and whether a repair has worked.

use std::collections::HashMap;

use super::recovery::{Event, Occasion, Run};
use crate::failover::Id;
use crate::health::Tick;

/// The runs of a pool.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// After an eviction or a reinstatement, by the backend: a change back stops it.
    runs: HashMap<Id, (Event, Run)>,
    /// After the pool went down or came up.
    edge: Option<Run>,
    /// After a takeover.
    takeover: Option<Run>,
    /// Before traffic: with the number that the role waits for.
    hook: Option<(u64, Run)>,
    /// Repairs that checks have yet to verify, by the backend.
    unverified: HashMap<Id, Unverified>,
}

/// A repair whose effect is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unverified {
    /// When it was done.
    at: Tick,
    /// Failures since.
    failures: u32,
}

/// What has failed after a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A check.
    Check,
    /// The trial that decides over an ejection, by a connection or by a check.
    Trial,
}

impl Sign {
    /// The evidence of what it shows.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Check => "the checks go on failing",
            Self::Trial => "the trial after the ejection failed",
        }
    }
}

/// What shows that a repair has not worked: as many failures as evict, over as many intervals; in
/// a pool without checks the first trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// Checks that fail.
    pub(super) fall: u32,
    /// Time since the repair.
    pub(super) span: Tick,
}

/// Whose run it is, where more follows from its end than its being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This backend's, with the event it follows.
    Backend(Id, Event),
    /// A hook, with the number that the role waits for.
    Hook(u64),
}

impl Repairs {
    /// Enters the run that follows the change of a backend; one that went before is stopped.
    pub(super) fn enter(&mut self, id: Id, event: Event, run: Run) {
        self.unverified.remove(&id);
        self.runs.insert(id, (event, run));
    }

    /// A backend has changed: what ran for the way it was is wanted no more.
    pub(super) fn stop(&mut self, id: Id) {
        self.runs.remove(&id);
    }

    /// The pool went up or down: what ran for the other way is wanted no more.
    pub(super) fn enter_edge(&mut self, run: Option<Run>) {
        self.edge = run;
    }

    /// Enters the run that follows a takeover; an older one is stopped.
    pub(super) fn enter_takeover(&mut self, run: Run) {
        self.takeover = Some(run);
    }

    /// Enters the run that traffic waits for.
    pub(super) fn enter_hook(&mut self, serial: u64, run: Run) {
        self.hook = Some((serial, run));
    }

    /// The pool is another kind of pool: what ran for its active role is wanted no more.
    pub(super) fn end_roles(&mut self) {
        (self.hook, self.takeover) = (None, None);
    }

    /// Stops the run that traffic waited for.
    pub(super) fn abandon(&mut self, serial: u64) {
        if self.hook.as_ref().is_some_and(|(number, _)| *number == serial) {
            self.hook = None;
        }
    }

    /// Whose run this is; none's if it was stopped, or nothing more follows from it.
    pub(super) fn whose(&self, run: u64) -> Option<Whose> {
        let is_it = |candidate: &Run| candidate.id() == run;
        if let Some((serial, _)) = self.hook.as_ref().filter(|(_, hook)| is_it(hook)) {
            return Some(Whose::Hook(*serial));
        }
        let found = self.runs.iter().find(|(_, (_, candidate))| is_it(candidate));
        found.map(|(id, (event, _))| Whose::Backend(*id, *event))
    }

    /// A repair after an eviction was done without a failure: the checks are to verify it.
    pub(super) fn done(&mut self, id: Id, at: Tick) {
        self.unverified.insert(id, Unverified { at, failures: 0 });
    }

    /// The backend is back: whether that verifies a repair.
    pub(super) fn is_repaired(&mut self, id: Id) -> bool {
        self.unverified.remove(&id).is_some()
    }

    /// A check or the trial of the backend has failed again: whether that shows that a repair has not
    /// worked. What was restarted needs a moment, so it does after `span` at the earliest: then a trial
    /// alone, and checks that have failed `fall` times since. Told once.
    pub(super) fn is_not_repaired(&mut self, id: Id, sign: Sign, proof: Proof, at: Tick) -> bool {
        let Some(unverified) = self.unverified.get_mut(&id) else { return false };
        unverified.failures += 1;
        let is_enough = sign == Sign::Trial || unverified.failures >= proof.fall;
        let is_over = is_enough && at.saturating_sub(unverified.at) >= proof.span;
        if is_over {
            self.unverified.remove(&id);
        }
        is_over
    }

    /// What is under way, those before traffic aside: what it follows, and how many are through.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (&Occasion, usize)> {
        let of_backends = self.runs.values().map(|(_, run)| run);
        of_backends.chain(&self.edge).chain(&self.takeover).filter_map(Run::under_way)
    }

    /// Repairs that checks have yet to verify, and when they were done.
    pub(super) fn unverified(&self) -> impl Iterator<Item = (Id, Tick)> {
        self.unverified.iter().map(|(id, unverified)| (*id, unverified.at))
    }

    /// A backend has gone.
    pub(super) fn forget(&mut self, id: Id) {
        self.runs.remove(&id);
        self.unverified.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_verified_once() {
        let mut repairs = Repairs::default();
        assert!(!repairs.is_repaired(1), "nothing was done");
        repairs.done(1, 0);
        assert!(repairs.is_repaired(1));
        assert!(!repairs.is_repaired(1));
    }

    #[test]
    fn failures_over_some_time_show_that_a_repair_has_not_worked() {
        let mut repairs = Repairs::default();
        repairs.done(1, 0);
        let proof = Proof { fall: 3, span: 6_000 };
        let mut fails = |at| repairs.is_not_repaired(1, Sign::Check, proof, at);
        let told = [500, 1_000, 1_500, 6_000, 6_500].map(&mut fails);
        assert_eq!(told, [false, false, false, true, false]);
    }

    #[test]
    fn one_trial_that_fails_shows_it_once_there_was_time_to_come_up() {
        let mut repairs = Repairs::default();
        repairs.done(1, 0);
        let proof = Proof { fall: 3, span: 6_000 };
        let mut fails = |at| repairs.is_not_repaired(1, Sign::Trial, proof, at);
        assert_eq!([5_999, 6_000, 6_001].map(&mut fails), [false, true, false]);
    }
}
