//! One step of the active role: from what happened to who has it.

use super::{Action, Failover, HOOK_RETRY, Known, Role, Step, Switch, in_order_on_trial};
use crate::failover::{Cause, Failback, Fitness, Id, Standby, Tick, View, Why};

/// One step under way.
pub(super) struct Run<'a> {
    view: &'a View<'a>,
    pub(super) next: Failover,
    actions: Vec<Action>,
    wake: Option<Tick>,
}

impl<'a> Run<'a> {
    pub(super) fn new(before: &Failover, view: &'a View<'a>) -> Self {
        let mut next = before.clone();
        // Who has been away comes back with a clean slate; without actions, everybody has one.
        let is_here = |id: &Id| view.find(*id).is_some_and(|m| m.fitness != Fitness::Down);
        next.barred.retain(|id| view.policy.has_hooks && is_here(id));
        Self { view, next, actions: Vec::new(), wake: None }
    }

    pub(super) fn finish(self) -> Step {
        Step { next: self.next, actions: self.actions, wake: self.wake }
    }

    fn fitness(&self, id: Id) -> Option<Fitness> {
        self.view.find(id).map(|member| member.fitness)
    }

    /// Puts the role where it was before this process, or where it belongs at first.
    pub(super) fn begin(&mut self, known: Known) {
        let is_any = known.is_any();
        let is_usable = |id: Id| self.fitness(id).is_some_and(Fitness::is_usable);
        if let Some(active) = known.active.filter(|id| is_usable(*id)) {
            self.next.role = Role::Active(active);
            self.next.is_pinned = known.is_pinned;
        } else if let Some((to, why)) = known.preparing.filter(|(to, _)| is_usable(*to)) {
            self.give(to, why);
            self.next.is_pinned = known.is_pinned;
        } else if self.view.policy.has_hooks && is_any {
            self.fill(&Why::new(Cause::Configuration, "start"));
        } else {
            let mut order = self.view.in_order().into_iter();
            let first = order.find(|member| member.fitness.is_usable()).map(|member| member.id);
            let active = first.or_else(|| in_order_on_trial(self.view).next());
            self.next.role = active.map_or(Role::Vacant, Role::Active);
            self.next.last = active.or(self.next.last);
        }
        // Who has the role has had it: nobody takes over from anybody.
        self.actions.retain(|action| matches!(action, Action::Prepare { .. }));
    }

    /// Enters how the actions before traffic ended.
    pub(super) fn hooked(&mut self, serial: u64, is_ok: bool) {
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
    pub(super) fn settle(&mut self, why: &Why) {
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
        let is_lost = self.next.last.is_none_or(|id| !self.may_have(id));
        if self.is_failback() && is_lost && self.next.lost.is_none() {
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
            if self.view.policy.has_hooks {
                return;
            }
            // Nothing is waited for any more; and what is due otherwise is due now.
            self.actions.push(Action::Abandon { serial: self.next.serial });
            self.enter(to);
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
    pub(super) fn leave(&mut self, why: &Why) {
        match self.next.role {
            Role::Active(from) => {
                self.actions.push(Action::Vacate { from, why: why.clone() });
                self.next.pending = Some(why.clone());
            }
            Role::Preparing(_) => {
                self.actions.push(Action::Abandon { serial: self.next.serial });
                // A failback is over with whom it was to.
                if self.is_failback() {
                    self.next.pending = self.next.lost.take();
                }
            }
            Role::Vacant => {}
        }
        self.next.role = Role::Vacant;
        self.next.is_pinned = false;
    }

    fn is_failback(&self) -> bool {
        self.next.pending.as_ref().is_some_and(|why| why.cause == Cause::Failback)
    }

    /// Gives the vacant role to `to`, after the actions that come before traffic. Whoever had it
    /// last needs none: it only goes on.
    pub(super) fn give(&mut self, to: Id, why: Why) {
        self.next.retry_at = None;
        self.wake = None;
        if self.view.policy.has_hooks && self.next.last != Some(to) {
            self.next.serial += 1;
            self.next.role = Role::Preparing(to);
            self.next.pending = Some(why.clone());
            self.actions.push(Action::Prepare { to, serial: self.next.serial, why });
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
    pub(super) fn next_in_order(&self, holder: Option<Id>) -> Option<Id> {
        let order = self.view.in_order();
        let start = order.iter().position(|m| Some(m.id) == holder).map_or(0, |index| index + 1);
        let around = || (0..order.len()).map(|i| order[(start + i) % order.len()]);
        let others = || around().filter(|m| Some(m.id) != holder && m.fitness.is_usable());
        let is_healthy = |m: &Standby| matches!(m.fitness, Fitness::Healthy(_));
        let has_healthy = |priority| others().any(|m| m.priority == priority && is_healthy(m));
        others().find(|m| is_healthy(m) || !has_healthy(m.priority)).map(|m| m.id)
    }
}
