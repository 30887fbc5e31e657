//! The active role of a hot-standby pool: one has it, or nobody.

use thiserror::Error;

use super::{Cause, Failback, Fitness, Id, Standby, Tick, View, Why};

/// Milliseconds after which backends whose actions before traffic failed are tried again, where
/// nobody else is left.
pub const HOOK_RETRY: Tick = 30_000;

/// Who has the active role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody: connections find no backend.
    Vacant,
    /// Nobody yet: actions run for this one, and connections wait.
    Preparing(Id),
    /// This one.
    Active(Id),
}

/// Something that happened to the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its backends or its policy are others than before, or differently fit; why.
    Changed(Why),
    /// It is the time that [`Step::wake`] named, or later. Too early does no harm.
    Timer,
    /// The actions before traffic, begun by the [`Action::Prepare`] of this number, have all
    /// succeeded, or one has finally failed. Of another number: it counts for nothing.
    Hooked {
        /// The number.
        serial: u64,
        /// Whether all succeeded.
        is_ok: bool,
    },
}

/// The active role has moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Who had it before; `None`: nobody since the process started.
    pub from: Option<Id>,
    /// Who has it now. The same as `from`: it came back to it, which is no takeover.
    pub to: Id,
    /// Why.
    pub why: Why,
}

impl Switch {
    /// Whether this counts as a takeover.
    #[must_use]
    pub fn is_takeover(&self) -> bool {
        self.from != Some(self.to)
    }
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This one has lost the role: no thread may give it another connection once this is done, and
    /// its demotion begins.
    Vacate {
        /// Who.
        from: Id,
        /// Why.
        why: Why,
    },
    /// The actions before traffic that run with this number are wanted no more; no answer counts.
    Abandon {
        /// The number.
        serial: u64,
    },
    /// Run the actions before traffic for this one; answer with [`Event::Hooked`].
    Prepare {
        /// For whom.
        to: Id,
        /// The number to answer with.
        serial: u64,
    },
    /// The role is in force: give it connections.
    Switch(Switch),
}

/// What one step comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state after it.
    pub next: Failover,
    /// What to do.
    pub actions: Vec<Action>,
    /// When to send [`Event::Timer`]; in place of what an earlier step said.
    pub wake: Option<Tick>,
}

/// Why an operator's move is not possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MoveError {
    /// The target is no backend of the pool.
    #[error("no such backend in the pool")]
    Unknown,
    /// The target is not usable.
    #[error("the backend is not usable")]
    NotUsable,
    /// The target has the role already, or is being prepared for it.
    #[error("the backend is active already")]
    AlreadyActive,
    /// No other backend is usable.
    #[error("no other backend is usable")]
    NobodyElse,
}

/// The active role of a pool. A value: copied, compared, saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    role: Role,
    /// Who had the role last.
    last: Option<Id>,
    /// Why the role is on its way to whom it is prepared for.
    pending: Option<Why>,
    /// Why whoever made room for a failback could not go on meanwhile.
    lost: Option<Why>,
    /// An operator gave it to whom has it.
    is_pinned: bool,
    /// Those whose actions failed, until they have been away or an operator names them.
    barred: Vec<Id>,
    /// When `barred` ends, because nobody else is left.
    retry_at: Option<Tick>,
    serial: u64,
}

/// What is known of a role from before this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Who had it.
    pub active: Option<Id>,
    /// Whether an operator's move held it there.
    pub is_pinned: bool,
    /// Those whose actions before traffic had failed.
    pub barred: Vec<Id>,
}

impl Failover {
    /// The role at start: with whom it was before, if that one is still there and not known to be
    /// down, else with the first in order that is not known to be down. No takeover, no actions.
    #[must_use]
    pub fn start(known: Known, view: &View<'_>) -> Self {
        let still = known.active.filter(|id| view.find(*id).is_some_and(|m| m.fitness.is_usable()));
        let mut order = view.in_order().into_iter();
        let first = order.find(|member| member.fitness.is_usable()).map(|member| member.id);
        let active = still.or(first).or_else(|| in_order_on_trial(view).next());
        Self {
            role: active.map_or(Role::Vacant, Role::Active),
            last: active,
            pending: None,
            lost: None,
            is_pinned: known.is_pinned && still.is_some(),
            barred: known.barred,
            retry_at: None,
            serial: 0,
        }
    }

    /// Who has the role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who gets connections.
    #[must_use]
    pub fn active(&self) -> Option<Id> {
        match self.role {
            Role::Active(id) => Some(id),
            Role::Preparing(_) | Role::Vacant => None,
        }
    }

    /// Whether an operator's move holds it where it is.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// Those whose actions before traffic have failed; they are passed over until they have been
    /// away, an operator names them, or nobody else is left for a while.
    #[must_use]
    pub fn barred(&self) -> &[Id] {
        &self.barred
    }

    /// One step: what `event` makes of the role, in a pool that looks like `view` now.
    #[must_use]
    pub fn step(&self, event: Event, view: &View<'_>) -> Step {
        let mut run = Run::new(self, view);
        let timer = || Why::new(Cause::Configuration, "time has passed");
        let why = match event {
            Event::Changed(why) => why,
            Event::Timer => timer(),
            Event::Hooked { serial, is_ok } => {
                run.hooked(serial, is_ok);
                timer()
            }
        };
        run.settle(&why);
        run.finish()
    }

    /// An operator moves the role: to `to`, or to the next usable one in order, from the first again
    /// after the last.
    ///
    /// It then stays there, whatever `failback` says, until that one is evicted or an operator moves
    /// it again.
    ///
    /// # Errors
    ///
    /// Why it cannot be moved; nothing has changed then.
    pub fn move_to(&self, to: Option<Id>, view: &View<'_>) -> Result<Step, MoveError> {
        let mut run = Run::new(self, view);
        let holder = self.holder();
        let to = match to {
            Some(to) => {
                let target = view.find(to).ok_or(MoveError::Unknown)?;
                if holder == Some(to) {
                    return Err(MoveError::AlreadyActive);
                }
                if !target.fitness.is_usable() {
                    return Err(MoveError::NotUsable);
                }
                to
            }
            None => run.next_in_order(holder).ok_or(MoveError::NobodyElse)?,
        };
        run.next.barred.retain(|id| *id != to);
        let why = Why::new(Cause::Operator, "operator");
        run.leave(&why);
        run.give(to, why);
        run.next.is_pinned = true;
        Ok(run.finish())
    }

    /// Who has the role or is being prepared for it.
    fn holder(&self) -> Option<Id> {
        match self.role {
            Role::Active(id) | Role::Preparing(id) => Some(id),
            Role::Vacant => None,
        }
    }
}

/// One step under way.
struct Run<'a> {
    view: &'a View<'a>,
    next: Failover,
    actions: Vec<Action>,
    wake: Option<Tick>,
}

impl<'a> Run<'a> {
    fn new(before: &Failover, view: &'a View<'a>) -> Self {
        let mut next = before.clone();
        // Who has been away comes back with a clean slate; without actions, everybody has one.
        let is_here = |id: &Id| view.find(*id).is_some_and(|m| m.fitness != Fitness::Down);
        next.barred.retain(|id| view.policy.has_hooks && is_here(id));
        Self { view, next, actions: Vec::new(), wake: None }
    }

    fn finish(self) -> Step {
        Step { next: self.next, actions: self.actions, wake: self.wake }
    }

    fn fitness(&self, id: Id) -> Option<Fitness> {
        self.view.find(id).map(|member| member.fitness)
    }

    /// Enters how the actions before traffic ended.
    fn hooked(&mut self, serial: u64, is_ok: bool) {
        let Role::Preparing(to) = self.next.role else { return };
        if serial != self.next.serial {
            return;
        }
        if is_ok {
            return self.enter(to);
        }
        self.next.barred.push(to);
        self.next.role = Role::Vacant;
        self.next.is_pinned = false;
        // Whoever left only to make room goes on, or its successor is sought for why it cannot.
        self.next.pending = self.next.lost.take().or(self.next.pending.take());
        let last = self.next.last.filter(|id| self.may_have(*id));
        if let (Some(last), Some(why)) = (last, self.next.pending.clone()) {
            self.activate(last, why);
        }
    }

    /// Puts the role where it belongs.
    fn settle(&mut self, why: &Why) {
        if let Some(holder) = self.next.holder() {
            match self.fitness(holder) {
                Some(Fitness::Healthy(_) | Fitness::Unknown) => {
                    self.note_lost(why);
                    return self.stay_or_fail_back(holder);
                }
                // On trial for want of anybody else: it goes on unless there is somebody.
                Some(Fitness::Trial) if self.best_usable().is_none() => return,
                _ => {}
            }
            let is_gone = self.view.find(holder).is_none();
            let gone = || Why::new(Cause::Configuration, "no longer configured");
            self.leave(&if is_gone { gone() } else { why.clone() });
        }
        self.fill(why);
    }

    /// While a failback is prepared: remembers why the one it comes from could not go on.
    fn note_lost(&mut self, why: &Why) {
        let is_failback = self.next.pending.as_ref().is_some_and(|w| w.cause == Cause::Failback);
        let is_lost = self.next.last.is_none_or(|id| !self.may_have(id));
        if is_failback && is_lost && self.next.lost.is_none() {
            self.next.lost = Some(why.clone());
        }
    }

    /// Gives the vacant role to the best there is.
    fn fill(&mut self, why: &Why) {
        if self.successor().is_none() && !self.next.barred.is_empty() {
            // Everybody left has had its chance; some time later everybody has another one.
            let retry_at = *self.next.retry_at.get_or_insert(self.view.at + HOOK_RETRY);
            if retry_at > self.view.at {
                self.wake = Some(retry_at);
                return;
            }
            self.next.barred.clear();
        }
        let Some(to) = self.successor() else { return };
        let pending = self.next.pending.take();
        self.give(to, pending.unwrap_or_else(|| why.clone()));
    }

    /// Leaves the role with `holder`, who is fit, unless it is time to give it back to the preferred
    /// one.
    fn stay_or_fail_back(&mut self, holder: Id) {
        if let Role::Preparing(to) = self.next.role {
            if !self.view.policy.has_hooks {
                self.actions.push(Action::Abandon { serial: self.next.serial });
                self.enter(to);
            }
            return;
        }
        if self.next.is_pinned || self.view.policy.failback == Failback::Manual {
            return;
        }
        let order = self.view.in_order();
        let better = order.iter().take_while(|member| member.id != holder);
        let preferred = better.filter(|member| !self.is_barred(member.id)).find_map(|member| {
            let Fitness::Healthy(age) = member.fitness else { return None };
            Some((member.id, self.view.policy.failback_delay.saturating_sub(age)))
        });
        match preferred {
            Some((to, 0)) => {
                let why = Why::new(Cause::Failback, "the preferred backend is healthy again");
                self.leave(&why);
                self.give(to, why);
            }
            Some((_, left)) => self.wake = Some(self.view.at.saturating_add(left)),
            None => {}
        }
    }

    /// Takes the role from whom has it, or is prepared for it.
    fn leave(&mut self, why: &Why) {
        match self.next.role {
            Role::Active(from) => {
                self.actions.push(Action::Vacate { from, why: why.clone() });
                self.next.pending = Some(why.clone());
            }
            Role::Preparing(_) => {
                self.actions.push(Action::Abandon { serial: self.next.serial });
            }
            Role::Vacant => {}
        }
        self.next.role = Role::Vacant;
        self.next.is_pinned = false;
    }

    /// Gives the vacant role to `to`, after the actions that come before traffic. Whoever had it
    /// last needs none: it only goes on.
    fn give(&mut self, to: Id, why: Why) {
        self.next.retry_at = None;
        self.wake = None;
        if self.view.policy.has_hooks && self.next.last != Some(to) {
            self.next.serial += 1;
            self.next.role = Role::Preparing(to);
            self.next.pending = Some(why);
            self.actions.push(Action::Prepare { to, serial: self.next.serial });
        } else {
            self.activate(to, why);
        }
    }

    /// Whoever is prepared is so no more, but active.
    fn enter(&mut self, to: Id) {
        let why = self.next.pending.take();
        self.activate(to, why.unwrap_or_else(|| Why::new(Cause::Configuration, "prepared")));
    }

    fn activate(&mut self, to: Id, why: Why) {
        (self.next.pending, self.next.lost) = (None, None);
        self.next.role = Role::Active(to);
        let from = self.next.last.replace(to);
        self.actions.push(Action::Switch(Switch { from, to, why }));
    }

    fn may_have(&self, id: Id) -> bool {
        self.fitness(id).is_some_and(Fitness::is_usable) && !self.is_barred(id)
    }

    fn is_barred(&self, id: Id) -> bool {
        self.next.barred.contains(&id)
    }

    /// The first usable one in order: by priority, in it those that are healthy before those that
    /// are not known yet, then by the list.
    fn best_usable(&self) -> Option<Id> {
        let usable = self.view.members.iter().filter(|m| m.fitness.is_usable());
        let allowed = usable.filter(|member| !self.is_barred(member.id));
        let rank = |m: &&Standby| (m.priority, m.fitness == Fitness::Unknown);
        allowed.min_by_key(rank).map(|member| member.id)
    }

    /// Who is to have the vacant role.
    fn successor(&self) -> Option<Id> {
        let on_trial = || in_order_on_trial(self.view).find(|id| !self.is_barred(*id));
        self.best_usable().or_else(on_trial)
    }

    /// The usable one that follows `holder` in order, from the first again after the last.
    fn next_in_order(&self, holder: Option<Id>) -> Option<Id> {
        let order = self.view.in_order();
        let start = order.iter().position(|m| Some(m.id) == holder).map_or(0, |index| index + 1);
        let around = || (0..order.len()).map(|i| order[(start + i) % order.len()]);
        let others = || around().filter(|m| Some(m.id) != holder && m.fitness.is_usable());
        let is_healthy = |m: &Standby| matches!(m.fitness, Fitness::Healthy(_));
        let has_healthy = |priority| others().any(|m| m.priority == priority && is_healthy(m));
        others().find(|m| is_healthy(m) || !has_healthy(m.priority)).map(|m| m.id)
    }
}

/// Those on trial, in order.
fn in_order_on_trial(view: &View<'_>) -> impl Iterator<Item = Id> {
    let order = view.in_order().into_iter();
    order.filter(|m| m.fitness == Fitness::Trial).map(|m| m.id)
}

#[cfg(test)]
mod tests;
