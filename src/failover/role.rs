//! The active role of a hot-standby pool: one has it, or nobody.

mod run;

use thiserror::Error;

use super::{Cause, Fitness, Id, Tick, View, Why};
use run::Run;

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
        /// Why.
        why: Why,
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
    /// For whom actions before traffic ran, and why.
    pub preparing: Option<(Id, Why)>,
    /// Who had it last, where nobody had it then.
    pub last: Option<Id>,
    /// Whether anybody ever had it, who may be gone.
    pub was_held: bool,
    /// Whether an operator's move held it there.
    pub is_pinned: bool,
    /// Those whose actions before traffic had failed.
    pub barred: Vec<Id>,
}

impl Known {
    /// Whether anything happened to the role before this process.
    fn is_any(&self) -> bool {
        let is_named = self.active.or(self.last).is_some() || self.preparing.is_some();
        is_named || self.was_held || !self.barred.is_empty()
    }
}

impl Failover {
    /// The role at start: with whom it was before, if that one is still there and not known to be
    /// down. Actions before traffic that ran are to be run anew; and nobody else may have traffic
    /// without them, where anything is known from before. Where nothing is, or there are no such
    /// actions, the first in order that is not known to be down has the role at once.
    #[must_use]
    pub fn start(known: Known, view: &View<'_>) -> Step {
        let nobody = Self {
            role: Role::Vacant,
            last: known.active.or(known.last),
            pending: None,
            lost: None,
            is_pinned: false,
            barred: known.barred.clone(),
            retry_at: None,
            serial: 0,
        };
        let mut run = Run::new(&nobody, view);
        run.begin(known);
        run.finish()
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

    /// Who had it last, or has it.
    #[must_use]
    pub fn last(&self) -> Option<Id> {
        self.last
    }

    /// For whom actions before traffic run, and why.
    #[must_use]
    pub fn preparing(&self) -> Option<(Id, &Why)> {
        match self.role {
            Role::Preparing(id) => Some((id, self.pending.as_ref()?)),
            Role::Active(_) | Role::Vacant => None,
        }
    }

    /// Whether it waits for the actions that were begun with this number.
    #[must_use]
    pub fn awaits(&self, serial: u64) -> bool {
        matches!(self.role, Role::Preparing(_)) && self.serial == serial
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

/// Those on trial, in order.
fn in_order_on_trial(view: &View<'_>) -> impl Iterator<Item = Id> {
    let order = view.in_order().into_iter();
    order.filter(|m| m.fitness == Fitness::Trial).map(|m| m.id)
}

#[cfg(test)]
mod tests;
