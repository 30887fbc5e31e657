//! What follows from a change: events, actions, the fence of a takeover, demotions, reports.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::controller::{Controller, operator_kind, wall};
use super::demotion::demote;
use super::event::{Kind, More, News, TakeoverMore};
use super::keeper::Told;
use super::pool::{Controlled, Vacated, is_before_traffic};
use super::recovery::{self, Occasion, What};
use super::repair::{Proof, Whose};
use super::takeover::Takeover;
use super::timers::Timer;
use crate::config::model::Action as ActionConfig;
use crate::failover::{
    Action, Assembly, Edge, Event as RoleEvent, Id, Standby, Switch, Takeover as Which, Why,
};
use crate::health::{Cause, Change, State, Tick, Turn};
use crate::state::{Ending, Notice, Wait};

/// How often the report of a takeover is looked at.
const REPORT_EVERY: Tick = 20;

impl Controller {
    /// Acts on all that follows for the pool of this index, in order.
    pub(super) async fn follow(&mut self, index: usize) {
        for told in std::mem::take(&mut self.pools[index].keeper.told) {
            match told {
                Told::Changed(id, change) => self.changed(index, id, &change),
                Told::Did(action) => self.did(index, action).await,
                Told::Edge(edge) => self.edge(index, edge),
                Told::Level { from, to, members } => self.level(index, (from, to), &members),
            }
        }
    }

    /// The state of a backend has changed.
    fn changed(&mut self, index: usize, id: Id, change: &Change) {
        let pool = &mut self.pools[index];
        let Some(node) = pool.keeper.node(id) else { return };
        let names = (Arc::clone(pool.name()), Arc::clone(&node.name));
        let operator = node.operator.value();
        let closes_evicted = pool.closes_evicted();
        let Some(backing) = pool.backings.get_mut(&id) else { return };
        // What failed before counts for nothing in the new state.
        backing.backend.streak.end();
        backing.first_sign = change.first_sign;
        if let Some(turn) = change.turn {
            backing.backend.counters.turn(turn, change.cause);
        }
        let kind = match (change.cause, change.turn) {
            (Cause::Operator, _) => Some(operator_kind(operator)),
            (_, Some(Turn::Evicted)) => Some(Kind::Evicted),
            (_, Some(Turn::Reinstated)) => Some(Kind::Reinstated),
            _ => None,
        };
        // Out for another reason too is as much out as before: what repairs it goes on.
        if change.turn.is_some() || change.cause == Cause::Operator {
            pool.repairs.stop(id);
        }
        let is_repaired = change.to == State::Healthy && pool.repairs.is_repaired(id);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let evidence: Arc<str> = change.evidence.to_string().into();
        match kind {
            Some(kind) => {
                self.tell(News {
                    kind,
                    pool: Some(Arc::clone(&names.0)),
                    backend: Some(Arc::clone(&names.1)),
                    cause: change.cause.as_str().into(),
                    evidence: Arc::clone(&evidence),
                    more: More::State { from, to },
                });
            }
            None => info!(pool = %names.0, backend = %names.1, from, to, %evidence, "state"),
        }
        if is_repaired {
            self.tell_repair(index, id, "repaired", &evidence);
        }
        let is_evicted = change.turn == Some(Turn::Evicted)
            && matches!(change.cause, Cause::Probe | Cause::Outlier);
        if change.to == State::Disabled {
            self.pools[index].to_end.push((id, Ending::Killed));
        } else if is_evicted && closes_evicted {
            self.pools[index].to_end.push((id, Ending::Evicted));
        }
        if let Some(turn) = change.action() {
            self.act_on_turn(index, id, turn, (change.cause.as_str(), &evidence));
        }
    }

    /// Ends the connections of those backends that keep none, without waiting for it. Only once the
    /// rotation without them is in force: then none comes after it.
    pub(super) fn end_unkept(&mut self, index: usize) {
        for (backend, reason) in std::mem::take(&mut self.pools[index].to_end) {
            self.end(backend, reason);
        }
    }

    /// Ends the connections of a backend, without waiting for it; those that are under way go on with
    /// another one.
    pub(super) fn end(&self, backend: Id, reason: Ending) {
        drop(self.threads.tell(&Notice::Fence { backend }));
        let which = crate::state::Which::Of(backend, 0);
        drop(self.threads.tell(&Notice::End { which, reason }));
    }

    fn act_on_turn(&mut self, index: usize, id: Id, turn: Turn, why: (&str, &Arc<str>)) {
        let recovery = &self.pools[index].config.recovery;
        let (event, actions) = match turn {
            Turn::Evicted => (recovery::Event::Evict, recovery.on_evict.clone()),
            Turn::Reinstated => (recovery::Event::Reinstate, recovery.on_reinstate.clone()),
        };
        if let Some(run) = self.act(index, (event, actions), id, why) {
            self.pools[index].repairs.enter(id, event, run);
        }
    }

    /// Begins recovery actions, if there are any.
    fn act(
        &self,
        index: usize,
        (event, actions): (recovery::Event, Vec<ActionConfig>),
        id: Id,
        (cause, evidence): (&str, &Arc<str>),
    ) -> Option<recovery::Run> {
        if actions.is_empty() {
            return None;
        }
        let pool = &self.pools[index];
        let backing = pool.backings.get(&id)?;
        let occasion = Occasion {
            event,
            pool: Arc::clone(pool.name()),
            backend: Arc::clone(&backing.backend.name),
            address: backing.backend.address.clone(),
            cause: cause.into(),
            evidence: evidence.to_string(),
            time: humantime::format_rfc3339_millis(wall()).to_string(),
        };
        Some(self.recovery.start(actions, occasion, self.news.clone()))
    }

    /// The pool went down or came up.
    fn edge(&mut self, index: usize, edge: Edge) {
        let pool = &self.pools[index];
        let word = if edge.is_up { "up" } else { "down" };
        if edge.is_up {
            info!(pool = %pool.name(), "the pool is up: a backend is usable");
        } else {
            warn!(pool = %pool.name(), "the pool is down: no backend is usable");
        }
        let recovery = &pool.config.recovery;
        let (event, actions) = if edge.is_up {
            (recovery::Event::PoolUp, recovery.on_pool_up.clone())
        } else {
            (recovery::Event::PoolDown, recovery.on_pool_down.clone())
        };
        // The backend that made the difference: the one whose state is the youngest.
        let at = self.now();
        let youngest = pool.keeper.nodes.iter().min_by_key(|node| node.health.age(at));
        let id = youngest.map(|node| node.id).filter(|_| edge.runs_action);
        let evidence: Arc<str> = format!("the pool is {word}").into();
        let run = id.and_then(|id| self.act(index, (event, actions), id, ("pool", &evidence)));
        self.pools[index].repairs.enter_edge(run);
    }

    /// Another priority is in use.
    fn level(&mut self, index: usize, (from, to): (Option<u32>, Option<u32>), _: &[Standby]) {
        let pool = &mut self.pools[index];
        info!(pool = %pool.name(), from, to, "another priority is in use");
        let demoted: Vec<Id> = {
            let nodes = pool.keeper.nodes.iter();
            nodes.filter(|n| from.is_some() && Some(n.priority) == from).map(|n| n.id).collect()
        };
        let nodes = &pool.keeper.nodes;
        let back: Vec<Id> = nodes.iter().filter(|n| Some(n.priority) == to).map(|n| n.id).collect();
        back.iter().for_each(|id| drop(pool.demotions.remove(id)));
        if to.is_some() && pool.closes_demoted() {
            demoted.into_iter().for_each(|id| self.demote(index, id));
        }
    }

    /// The active role moves: does what is to be done, in force on every thread before it returns.
    async fn did(&mut self, index: usize, action: Action) {
        match action {
            Action::Vacate { from, why } => self.vacate(index, from, &why).await,
            Action::Abandon { serial } => self.pools[index].repairs.abandon(serial),
            Action::Prepare { to, serial, why } => self.prepare(index, (to, serial), &why),
            Action::Switch(switch) => self.switch(index, &switch),
        }
    }

    async fn vacate(&mut self, index: usize, from: Id, why: &Why) {
        let at = self.now();
        let pool = &mut self.pools[index];
        pool.hold(Some(Wait::Takeover));
        let first_sign = pool.backings.get(&from).and_then(|backing| backing.first_sign);
        let state = pool.keeper.node(from).map(|node| node.health.state());
        // What an operator wanted is no trouble.
        let first_sign = first_sign.filter(|_| state.is_none_or(|state| !state.is_usable()));
        pool.vacated = Some(Vacated { at, first_sign });
        pool.is_dirty = true;
        let name = pool.name_of(from);
        info!(pool = %pool.name(), backend = name.as_deref(), cause = why.cause.as_str(),
            evidence = %why.evidence, "no longer active");
        // Nothing of the old one is under way on any thread from here on.
        self.threads.tell(&Notice::Fence { backend: from }).await;
        if self.pools[index].closes_demoted() {
            self.demote(index, from);
        }
    }

    /// Begins the demotion of a backend.
    fn demote(&mut self, index: usize, id: Id) {
        let pool = &mut self.pools[index];
        let demotion = &pool.config.failover.demotion;
        let demotion = demote(&self.threads, id, demotion.grace, demotion.rate.0);
        pool.demotions.insert(id, demotion);
    }

    pub(super) fn prepare(&mut self, index: usize, (to, serial): (Id, u64), why: &Why) {
        let pool = &mut self.pools[index];
        pool.hold(Some(Wait::Actions));
        pool.is_dirty = true;
        let actions = pool.config.recovery.on_takeover.iter();
        let actions = actions.filter(|action| is_before_traffic(action)).cloned().collect();
        let name = pool.name_of(to);
        info!(pool = %pool.name(), backend = name.as_deref(), "actions before traffic begin");
        let what = (recovery::Event::Takeover, actions);
        if let Some(run) = self.act(index, what, to, (why.cause.as_str(), &why.evidence)) {
            self.pools[index].repairs.enter_hook(serial, run);
        }
    }

    /// The role is in force.
    fn switch(&mut self, index: usize, switch: &Switch) {
        // Whoever is active again keeps what the demotion has not reached.
        self.pools[index].demotions.remove(&switch.to);
        self.tell_report(index);
        let at = self.now();
        let pool = &mut self.pools[index];
        pool.reign += 1;
        pool.is_dirty = true;
        let (Some(to), vacated) = (pool.name_of(switch.to), pool.vacated.take()) else { return };
        info!(pool = %pool.name(), backend = %to, cause = switch.why.cause.as_str(),
            evidence = %switch.why.evidence, "active");
        if !switch.is_takeover() {
            return;
        }
        let old = switch.from.and_then(|id| pool.backings.get(&id));
        let old = old.map(|backing| Arc::clone(&backing.backend));
        let decided = vacated.map_or(at, |vacated| vacated.at);
        let first_sign = vacated.and_then(|vacated| vacated.first_sign);
        let which = Which {
            pool: pool.name(),
            from: old.as_ref().map(|old| &*old.name),
            to: &to,
            cause: switch.why.cause,
            evidence: &switch.why.evidence,
        };
        let assembly = Assembly::new(which, first_sign, decided);
        pool.takeover =
            Some(Takeover::new(assembly, (switch.from, old), first_sign, &pool.pool.live));
        pool.pool.live.counters.takeovers.add();
        let actions = pool.config.recovery.on_takeover.iter();
        let actions = actions.filter(|action| !is_before_traffic(action)).cloned().collect();
        let number = pool.number;
        self.timers.set(at + REPORT_EVERY, Timer::Report(number));
        let why = (switch.why.cause.as_str(), &switch.why.evidence);
        if let Some(run) = self.act(index, (recovery::Event::Takeover, actions), switch.to, why) {
            self.pools[index].repairs.enter_takeover(run);
        }
    }

    /// Looks whether the report of a takeover can be told.
    pub(super) fn report_due(&mut self, number: u32) {
        let at = self.now();
        let Some(index) = self.pools.iter().position(|pool| pool.number == number) else { return };
        let pool = &mut self.pools[index];
        let Some(takeover) = &mut pool.takeover else { return };
        if takeover.is_complete(at) {
            self.tell_report(index);
        } else {
            self.timers.set(at + REPORT_EVERY, Timer::Report(number));
        }
    }

    /// Tells the report of the takeover that is being put together, as it is.
    pub(super) fn tell_report(&mut self, index: usize) {
        let at = self.now();
        let pool = &mut self.pools[index];
        let Some(takeover) = pool.takeover.take() else { return };
        let is_demoted = takeover.from.is_some_and(|from| pool.demotions.contains_key(&from));
        let report = takeover.report(&pool.pool.live, at, is_demoted);
        let counters = &pool.pool.live.counters;
        if let Some(took) = report.takeover_ms {
            counters.takeover.record(Duration::from_millis(took));
        }
        self.tell(News {
            kind: Kind::Takeover,
            pool: Some(report.pool.as_str().into()),
            backend: Some(report.to.as_str().into()),
            cause: report.cause.into(),
            evidence: report.evidence.as_str().into(),
            more: More::Takeover(TakeoverMore::from(&report)),
        });
    }

    /// News of recovery actions.
    pub(super) fn repair_news(&mut self, news: recovery::News) {
        let recovery::News { run, occasion, what } = news;
        match what {
            What::Attempt(_, ended) => attempt_ended(&occasion, &ended),
            What::Action(_, ended) => self.action_ended(run, &occasion, &ended),
            What::Stopped(_, ended) => self.tell_action(&occasion, &ended),
            What::Traffic(is_ok) => self.hooked(run, is_ok),
            What::Done => {}
        }
    }

    /// Whose run this is; nobody's if it was stopped meanwhile.
    fn whose(&self, run: u64) -> Option<(usize, Whose)> {
        let mut pools = self.pools.iter().enumerate();
        pools.find_map(|(index, pool)| pool.repairs.whose(run).map(|whose| (index, whose)))
    }

    /// The actions that traffic waits for have succeeded, or one has finally failed.
    fn hooked(&mut self, run: u64, is_ok: bool) {
        let Some((index, Whose::Hook(serial))) = self.whose(run) else { return };
        let at = self.now();
        let pool = &mut self.pools[index];
        pool.keeper.role_event(RoleEvent::Hooked { serial, is_ok }, at);
        pool.is_dirty = true;
    }

    fn action_ended(&mut self, run: u64, occasion: &Occasion, ended: &recovery::Ended) {
        let is_ok = ended.result == recovery::ActionResult::Success;
        let at = self.now();
        if let Some((index, Whose::Backend(id, recovery::Event::Evict))) = self.whose(run)
            && is_ok
        {
            self.pools[index].repairs.done(id, at);
        }
        self.tell_action(occasion, ended);
    }

    /// Tells how an action ended, and counts it.
    fn tell_action(&self, occasion: &Occasion, ended: &recovery::Ended) {
        let (event, result) = (occasion.event.as_str(), ended.result.as_str());
        if let Some(pool) = self.pools.iter().find(|pool| *pool.name() == occasion.pool) {
            pool.pool.live.counters.act(event, result);
        }
        // What a pool does is nobody's in it.
        let is_of_pool =
            matches!(occasion.event, recovery::Event::PoolDown | recovery::Event::PoolUp);
        self.tell(News {
            kind: Kind::Recovery,
            pool: Some(Arc::clone(&occasion.pool)),
            backend: (!is_of_pool).then(|| Arc::clone(&occasion.backend)),
            cause: event.into(),
            evidence: ended.how.as_str().into(),
            more: More::Recovery {
                event,
                action: Arc::clone(&ended.action),
                result,
                attempt: ended.attempt,
                duration_ms: u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
            },
        });
    }

    /// Whether a repair has worked.
    pub(super) fn tell_repair(
        &self,
        index: usize,
        id: Id,
        result: &'static str,
        evidence: &Arc<str>,
    ) {
        let pool = &self.pools[index];
        self.tell(News {
            kind: Kind::Recovery,
            pool: Some(Arc::clone(pool.name())),
            backend: pool.name_of(id),
            cause: "evict".into(),
            evidence: Arc::clone(evidence),
            more: More::Recovery {
                event: "evict",
                action: "verify".into(),
                result,
                attempt: 0,
                duration_ms: 0,
            },
        });
    }
}

/// What shows that a repair has not worked in this pool.
pub(super) fn proof(pool: &Controlled) -> Proof {
    let checks = pool.keeper.settings.health.checks.as_ref();
    checks.map_or(Proof { fall: 1, span: 0 }, |check| Proof {
        fall: check.fall,
        span: u64::from(check.fall) * check.interval,
    })
}

/// An attempt that will be repeated is told in the log, the last one with its action.
fn attempt_ended(occasion: &Occasion, ended: &recovery::Ended) {
    if ended.result != recovery::ActionResult::Success {
        warn!(pool = %occasion.pool, backend = %occasion.backend, event = occasion.event.as_str(),
            action = %ended.action, attempt = ended.attempt, result = ended.result.as_str(),
            how = %ended.how, "attempt of a recovery action");
    }
}
