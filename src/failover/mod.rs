//! Who is active: takeover, failback, an operator's move, and the report of it.
//!
//! [`Failover`] holds the active role of one hot-standby pool, [`Levels`] the priority in use of a
//! pool of several. Both are given the whole view of the pool at each step, so nothing that was
//! missed can go wrong later; both say what to do and do nothing. Time is an argument.
//!
//! Reading order: this file, `role.rs`, `levels.rs`, `report.rs`.

mod levels;
mod presence;
mod report;
mod role;

use std::sync::Arc;

pub use levels::{LevelStep, Levels};
pub use presence::{Edge, Presence};
pub use report::{Assembly, Report, Takeover};
pub use role::{Action, Event, Failover, HOOK_RETRY, Known, MoveError, Role, Step, Switch};

/// Milliseconds since the process started.
pub type Tick = u64;

/// The identity of a backend within the process.
pub type Id = u32;

/// How fit a backend is for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Healthy, for so many milliseconds.
    Healthy(Tick),
    /// Not known yet.
    Unknown,
    /// Ejected, the time is over, and one trial decides: used when there is nobody else.
    Trial,
    /// Not to be used: down as far as is known, of weight 0, or taken out by an operator.
    Down,
}

impl Fitness {
    fn is_usable(self) -> bool {
        matches!(self, Self::Healthy(_) | Self::Unknown)
    }
}

/// A backend of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Who it is.
    pub id: Id,
    /// Lower numbers come first; equal ones in order of the list.
    pub priority: u32,
    /// How fit it is.
    pub fitness: Fitness,
}

/// Whether the preferred backend takes its role back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// By itself, after the delay.
    Auto,
    /// On an operator's word only.
    Manual,
}

/// What a pool's configuration says about failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether there is a failback.
    pub failback: Failback,
    /// Milliseconds that the preferred one must have been healthy.
    pub failback_delay: Tick,
    /// Whether actions have to succeed before a new active one gets traffic.
    pub has_hooks: bool,
}

/// A pool at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its backends, in order of the list.
    pub members: &'a [Standby],
    /// Its policy.
    pub policy: &'a Policy,
    /// The moment.
    pub at: Tick,
}

impl View<'_> {
    fn find(&self, id: Id) -> Option<&Standby> {
        self.members.iter().find(|member| member.id == id)
    }

    /// In the order of taking over.
    fn in_order(&self) -> Vec<&Standby> {
        let mut order: Vec<_> = self.members.iter().collect();
        order.sort_by_key(|member| member.priority);
        order
    }
}

/// Why the active role moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The active one was evicted by checks.
    Probe,
    /// The active one was ejected for connections that failed.
    Outlier,
    /// An operator moved it, or took the active one out.
    Operator,
    /// The active one's name no longer resolves to it.
    Resolve,
    /// The active one is not configured any more.
    Configuration,
    /// The preferred one is back.
    Failback,
}

impl Cause {
    /// The word for it in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Outlier => "outlier",
            Self::Operator => "operator",
            Self::Resolve => "resolve",
            Self::Configuration => "configuration",
            Self::Failback => "failback",
        }
    }

    /// The cause that this is the word for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        const ALL: [Cause; 6] = [
            Cause::Probe,
            Cause::Outlier,
            Cause::Operator,
            Cause::Resolve,
            Cause::Configuration,
            Cause::Failback,
        ];
        ALL.into_iter().find(|cause| cause.as_str() == word)
    }
}

/// Why, with the evidence in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The cause.
    pub cause: Cause,
    /// The evidence.
    pub evidence: Arc<str>,
}

impl Why {
    /// A reason.
    #[must_use]
    pub fn new(cause: Cause, evidence: impl Into<Arc<str>>) -> Self {
        Self { cause, evidence: evidence.into() }
    }
}
