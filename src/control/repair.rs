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
    edge: Option<(Event, Run)>,
    /// After a takeover.
    takeover: Option<Run>,
    /// Before traffic: with the number that the role waits for.
    hook: Option<(u64, Id, Run)>,
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

/// Whose run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This backend's, with the event it follows.
    Backend(Id, Event),
    /// The pool's, with the event it follows.
    Pool(Event),
    /// A hook, with the number that the role waits for, for this backend.
    Hook(u64, Id),
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
    pub(super) fn enter_edge(&mut self, event: Event, run: Option<Run>) {
        self.edge = run.map(|run| (event, run));
    }

    /// Enters the run that follows a takeover; an older one is stopped.
    pub(super) fn enter_takeover(&mut self, run: Run) {
        self.takeover = Some(run);
    }

    /// Enters the run that traffic waits for.
    pub(super) fn enter_hook(&mut self, serial: u64, id: Id, run: Run) {
        self.hook = Some((serial, id, run));
    }

    /// Stops the run that traffic waited for.
    pub(super) fn abandon(&mut self, serial: u64) {
        if self.hook.as_ref().is_some_and(|(number, ..)| *number == serial) {
            self.hook = None;
        }
    }

    /// Whose run this is.
    pub(super) fn whose(&self, run: u64) -> Option<Whose> {
        let is_it = |candidate: &Run| candidate.id() == run;
        if let Some((serial, id, _)) = self.hook.as_ref().filter(|(.., hook)| is_it(hook)) {
            return Some(Whose::Hook(*serial, *id));
        }
        if let Some((event, _)) = self.edge.as_ref().filter(|(_, edge)| is_it(edge)) {
            return Some(Whose::Pool(*event));
        }
        if self.takeover.as_ref().is_some_and(is_it) {
            return Some(Whose::Pool(Event::Takeover));
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

    /// A check or a trial of the backend has failed again: whether that shows that a repair has not
    /// worked. It does after so many failures (`fall`) and so much time (`span`): what was restarted
    /// needs a moment. Told once.
    pub(super) fn is_not_repaired(&mut self, id: Id, (fall, span): (u32, Tick), at: Tick) -> bool {
        let Some(unverified) = self.unverified.get_mut(&id) else { return false };
        unverified.failures += 1;
        let is_over = unverified.failures >= fall && at.saturating_sub(unverified.at) >= span;
        if is_over {
            self.unverified.remove(&id);
        }
        is_over
    }

    /// What is under way, those before traffic aside: what it follows, and how many are through.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (&Occasion, usize)> {
        let of_backends = self.runs.values().map(|(_, run)| run);
        let of_pool = self.edge.iter().map(|(_, run)| run);
        of_backends.chain(of_pool).chain(&self.takeover).filter_map(Run::under_way)
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
        let mut fails = |at| repairs.is_not_repaired(1, (3, 6_000), at);
        let told = [500, 1_000, 1_500, 6_000, 6_500].map(&mut fails);
        assert_eq!(told, [false, false, false, true, false]);
    }
}
