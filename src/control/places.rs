//! Who is checked when among those whose checks begin together, whatever pools they are of.

use std::collections::HashMap;

use super::controller::Controller;
use super::keeper::Node;
use super::timers::Timer;
use crate::failover::Id;
use crate::health::{Checking, Due, Tick, first, ranks};

/// The place of each of some backends that begin together.
#[derive(Debug, Default)]
pub struct Places(HashMap<Id, usize>);

impl Places {
    /// Of these backends: their ids, with the names of pool and backend. O(n log n).
    #[must_use]
    pub fn of(backends: &[(Id, &str, &str)]) -> Self {
        let ranks = ranks(backends.iter().map(|(_, pool, name)| (*pool, *name)));
        Self(backends.iter().map(|(id, ..)| *id).zip(ranks).collect())
    }

    fn has(&self, id: Id) -> bool {
        self.0.contains_key(&id)
    }

    /// When this one is checked first, if it is one of them.
    #[must_use]
    pub fn first(&self, id: Id, at: Tick, checks: &Checking) -> Option<Due> {
        Some(first(*self.0.get(&id)?, self.0.len(), at, checks))
    }
}

impl Controller {
    /// Begins the checks of all backends that are to be checked and are not yet, spread over all pools.
    pub(super) fn begin_checks(&mut self) {
        let at = self.now();
        let is_new = |node: &Node| node.due.is_none() && node.running.is_none();
        let places = self.places(is_new);
        for pool in &mut self.pools {
            pool.keeper.begin_checks(&places, at);
            let due = pool.keeper.nodes.iter().filter_map(|n| Some((n.id, n.due?.at)));
            let due = due.filter(|(id, _)| places.has(*id));
            due.for_each(|(id, at)| self.timers.set(at, Timer::Check(id)));
        }
    }

    /// Where the timing of checks has become another one, nobody waits out an interval that is configured
    /// no more; elsewhere all goes on as planned.
    pub(super) fn reschedule(&mut self) {
        if !self.pools.iter().any(|pool| pool.is_retimed) {
            return;
        }
        let at = self.now();
        let places = self.places(|_| true);
        for pool in self.pools.iter_mut().filter(|pool| pool.is_retimed) {
            pool.is_retimed = false;
            pool.keeper.reschedule(&places, at);
            let due = pool.keeper.nodes.iter().filter_map(|n| Some((n.id, n.due?.at)));
            due.for_each(|(id, at)| self.timers.set(at, Timer::Check(id)));
        }
    }

    fn places(&self, is_meant: impl Fn(&Node) -> bool) -> Places {
        let mut backends = Vec::new();
        for pool in &self.pools {
            let nodes = pool.keeper.nodes.iter();
            let meant = nodes.filter(|node| node.health.is_checked() && is_meant(node));
            backends.extend(meant.map(|node| (node.id, &**pool.name(), &*node.name)));
        }
        Places::of(&backends)
    }
}
