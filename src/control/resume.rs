//! Recovery actions across a restart and an upgrade: what a process was stopped at, the next one
//! begins anew.
//!
//! A process that ends stops its actions (`SIGTERM`, then `SIGKILL`). What they followed does not
//! happen again in the next one, where the backend is restored as down: without this, nothing would
//! repair it. The limits of the actions go on too.

use std::sync::Arc;

use tracing::info;

use super::controller::{Controller, unix_ms};
use super::pool::{Controlled, is_before_traffic};
use super::recovery::{self, Event, Occasion, Recovery};
use crate::config::model::{self, Action};
use crate::failover::Id;
use crate::health::{SavedLimit, SavedPool, SavedRun, State, Tick};

const EVENTS: [Event; 5] =
    [Event::Evict, Event::Reinstate, Event::Takeover, Event::PoolDown, Event::PoolUp];

/// All actions that follow an event.
fn actions(recovery: &model::Recovery, event: Event) -> &[Action] {
    match event {
        Event::Evict => &recovery.on_evict,
        Event::Reinstate => &recovery.on_reinstate,
        Event::Takeover => &recovery.on_takeover,
        Event::PoolDown => &recovery.on_pool_down,
        Event::PoolUp => &recovery.on_pool_up,
    }
}

/// What is to be saved of a pool, `now` in ticks and in milliseconds since the Unix epoch; with what
/// was saved `before` and has not begun anew yet.
pub(super) fn save(
    pool: &Controlled,
    recovery: &Recovery,
    before: Option<&SavedPool>,
    now: (Tick, u64),
) -> SavedPool {
    let (at, unix) = now;
    let mut saved = pool.keeper.save(now);
    if let Some(SavedPool { actions, unverified, limits, .. }) = before.cloned() {
        (saved.actions, saved.unverified, saved.limits) = (actions, unverified, limits);
    }
    for (occasion, through) in pool.repairs.under_way() {
        let Occasion { event, backend, cause, evidence, time, .. } = occasion;
        saved.actions.push(SavedRun {
            event: event.as_str().to_owned(),
            backend: backend.to_string(),
            cause: cause.to_string(),
            evidence: evidence.clone(),
            time: time.clone(),
            through,
        });
    }
    // The order of a map is another one each time; a file that says the same is the same.
    saved
        .actions
        .sort_by(|one, other| (&one.event, &one.backend).cmp(&(&other.event, &other.backend)));
    for (id, since) in pool.repairs.unverified() {
        if let Some(name) = pool.name_of(id) {
            saved.unverified.insert(name.to_string(), unix.saturating_sub(at - since));
        }
    }
    for event in EVENTS {
        for (action, ages) in recovery.recent(pool.name(), event) {
            let runs = ages.into_iter().map(|age| unix.saturating_sub(age)).collect();
            saved.limits.push(SavedLimit { event: event.as_str().to_owned(), action, runs });
        }
    }
    saved
}

impl Controller {
    /// Begins anew what the process before this one was stopped at. Once, when that one runs nothing
    /// any more.
    pub(super) fn resume(&mut self) {
        if std::mem::replace(&mut self.has_resumed, true) {
            return;
        }
        for index in 0..self.pools.len() {
            let name = Arc::clone(self.pools[index].name());
            let saved = self.restored.as_ref().and_then(|saved| saved.pools.get(&*name)).cloned();
            if let Some(saved) = saved {
                self.restore_limits(index, &saved.limits);
                saved.actions.iter().for_each(|run| self.resume_run(index, &saved, run));
                let (at, unix) = (self.now(), unix_ms());
                for (backend, since) in &saved.unverified {
                    if let Some(id) = find(&self.pools[index], &saved, backend) {
                        let since = at.saturating_sub(unix.saturating_sub(*since));
                        self.pools[index].repairs.done(id, since);
                    }
                }
            }
            let pool = &mut self.pools[index];
            if let Some((to, serial, why)) = pool.postponed.take()
                && pool.keeper.role.as_ref().is_some_and(|role| role.awaits(serial))
            {
                self.prepare(index, (to, serial), &why);
            }
        }
    }

    fn restore_limits(&self, index: usize, limits: &[SavedLimit]) {
        let pool = &self.pools[index];
        let unix = unix_ms();
        for limit in limits {
            let Some(event) = Event::from_word(&limit.event) else { continue };
            let mut listed = actions(&pool.config.recovery, event).iter();
            let Some(action) = listed.find(|action| recovery::mark(action) == limit.action) else {
                continue;
            };
            let ages: Vec<Tick> = limit.runs.iter().map(|run| unix.saturating_sub(*run)).collect();
            self.recovery.count((pool.name(), event, action), &ages);
        }
    }

    /// Begins actions anew, from the one that was interrupted, if the reason for them still holds.
    fn resume_run(&mut self, index: usize, saved: &SavedPool, run: &SavedRun) {
        let Some(event) = Event::from_word(&run.event) else { return };
        let pool = &self.pools[index];
        let Some(id) = find(pool, saved, &run.backend) else { return };
        let listed = actions(&pool.config.recovery, event).iter();
        // Those before traffic begin with the role.
        let listed: Vec<Action> = listed.filter(|a| !is_before_traffic(a)).cloned().collect();
        if run.through >= listed.len() || !still_holds(pool, event, id) {
            return;
        }
        let Some(backing) = pool.backings.get(&id) else { return };
        let occasion = Occasion {
            event,
            pool: Arc::clone(pool.name()),
            backend: Arc::clone(&backing.backend.name),
            address: backing.backend.address.clone(),
            cause: run.cause.as_str().into(),
            evidence: run.evidence.clone(),
            time: run.time.clone(),
        };
        info!(pool = %pool.name(), backend = %run.backend, event = event.as_str(),
            through = run.through, "recovery actions begin anew: the process before was stopped at them");
        let begun = self.recovery.resume((listed, run.through), occasion, self.news.clone());
        let repairs = &mut self.pools[index].repairs;
        match event {
            Event::Evict | Event::Reinstate => repairs.enter(id, event, begun),
            Event::Takeover => repairs.enter_takeover(begun),
            Event::PoolDown | Event::PoolUp => repairs.enter_edge(Some(begun)),
        }
    }
}

/// The backend of this name, if it is where it was.
fn find(pool: &Controlled, saved: &SavedPool, name: &str) -> Option<Id> {
    let node = pool.keeper.nodes.iter().find(|node| *node.name == *name)?;
    let was = saved.backends.get(name)?;
    (*was.address == *node.address).then_some(node.id)
}

/// Whether it is still so as it was when the actions of `event` began.
fn still_holds(pool: &Controlled, event: Event, id: Id) -> bool {
    let state = |id: Id| pool.keeper.node(id).map(|node| node.health.state());
    let is_usable = |id: Id| state(id).is_some_and(State::is_usable);
    match event {
        // Not if an operator has taken it out meanwhile.
        Event::Evict => matches!(state(id), Some(State::Unhealthy | State::Ejected)),
        Event::Reinstate => is_usable(id),
        Event::Takeover => pool.active() == Some(id),
        Event::PoolDown => !pool.keeper.nodes.iter().any(|node| is_usable(node.id)),
        Event::PoolUp => pool.keeper.nodes.iter().any(|node| is_usable(node.id)),
    }
}
