//! Backends that are configured no more while connections to them go on.
//!
//! Nobody new is sent to one, and nothing is shown of it but its connections, which can be closed. It is
//! forgotten when the last one has ended; if it is configured again before that, it is the same one,
//! with its numbers and its load.

use std::collections::HashSet;
use std::sync::Arc;

use super::controller::Controller;
use super::keeper::Node;
use super::pool::{self, Controlled, Place};
use super::timers::Timer;
use crate::config::model;
use crate::failover::Id;
use crate::health::Tick;
use crate::state::Pool;

/// How often it is looked whether the last connection has ended.
const PURGE_EVERY: Tick = 1_000;

/// A backend that is configured no more.
#[derive(Clone, Debug)]
pub(super) struct Parted {
    pub(super) node: Node,
    /// Since when.
    at: Tick,
}

impl Controller {
    /// A backend that was not there: another one, or one that went and has connections still.
    pub(super) fn come(
        &mut self,
        index: usize,
        pool: &Arc<Pool>,
        (config, place): (&model::Pool, &Place<'_>),
    ) -> Node {
        let address = place.address.to_string();
        let known = &mut self.pools[index];
        let is_it = |p: &Parted| *p.node.name == *place.name && *p.node.address == *address;
        let back = known.parted.iter().position(is_it).map(|at| known.parted.swap_remove(at).node);
        // One without connections has nothing that is worth keeping, its failures in a row least of all.
        let back = back.filter(|node| known.open(node.id) > 0);
        let back = back.and_then(|node| Some((known.backings.get_mut(&node.id)?, node)));
        if let Some((backing, was)) = back {
            backing.backend.streak.end();
            backing
                .renew(place, pool::target(pool, config.health_check.as_ref(), place, self.ports));
            return Node { health: was.health, ..pool::node(was.id, place) };
        }
        let id = self.next_id();
        self.homes.insert(id, self.pools[index].number);
        let backing = self.backing(id, pool, (config, place));
        self.pools[index].backings.insert(id, backing);
        pool::node(id, place)
    }

    /// These are configured no more. They are kept for a while, because some connection may just be
    /// picking one, and then until the last one has ended.
    pub(super) fn part(&mut self, index: usize, gone: Vec<Node>) {
        if gone.is_empty() {
            return;
        }
        let at = self.now();
        let pool = &mut self.pools[index];
        for node in gone {
            pool.repairs.forget(node.id);
            pool.probed.remove(&node.id);
            pool.parted.push(Parted { node, at });
        }
        self.purge_later(index);
    }

    /// Sees to its being looked in a while who is still connected to.
    pub(super) fn purge_later(&mut self, index: usize) {
        let at = self.now() + PURGE_EVERY;
        let pool = &mut self.pools[index];
        if pool.purge_at.is_none() {
            pool.purge_at = Some(at);
            self.timers.set(at, Timer::Purge(pool.number));
        }
    }

    /// Forgets all about backends of the pool of this index that are there no more.
    pub(super) fn forget(&mut self, index: usize) {
        let pool = &mut self.pools[index];
        let parted = pool.parted.iter().map(|parted| parted.node.id);
        let kept: HashSet<Id> = pool.keeper.nodes.iter().map(|n| n.id).chain(parted).collect();
        let is_gone = |id: &Id| !kept.contains(id);
        let gone: Vec<Id> = pool.backings.keys().copied().filter(is_gone).collect();
        for id in gone {
            pool.backings.remove(&id);
            pool.repairs.forget(id);
            pool.probed.remove(&id);
            self.homes.remove(&id);
        }
    }
}

impl Controlled {
    /// Leaves those alone that have connections, or have only just gone.
    pub(super) fn purge_parted(&mut self, at: Tick) {
        self.purge_at = None;
        let mut parted = std::mem::take(&mut self.parted);
        parted.retain(|one| self.open(one.node.id) > 0 || one.at + PURGE_EVERY > at);
        self.parted = parted;
    }
}
