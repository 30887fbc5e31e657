//! What goes into a step: the policy, the axes' values, the events.

use serde::{Deserialize, Serialize};

use super::Tick;
use super::change::{State, Trouble};
use super::outlier::Outlier;
use super::schedule::{Checking, Judged};

/// What a pool's configuration says about the health of its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Active checks; `None`: none are made.
    pub checks: Option<Checking>,
    /// Passive detection; `None`: off.
    pub outlier: Option<Outlier>,
}

/// The operator's axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// In use, as far as the operator is concerned.
    #[default]
    Enabled,
    /// No new connections.
    Draining,
    /// No new connections, no checks.
    Disabled,
}

/// The verdict of the checks so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// None yet.
    Unknown,
    /// The last change was to healthy.
    Healthy,
    /// The last change was to unhealthy.
    Unhealthy,
}

/// The axis of passive detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejection {
    /// Not ejected.
    None,
    /// Ejected until then.
    Until(Tick),
    /// Still ejected; the next connection decides. It is known by this number, so that an older
    /// one's news is not mistaken for its.
    Trial(u64),
}

/// Something that happened to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A check that began in this [`epoch`](super::Health::epoch) ended. One of another epoch is dropped.
    Checked {
        /// The epoch when it began.
        epoch: u64,
        /// What it counts as.
        result: Judged,
    },
    /// The data path saw connections fail in a row, and the pool [may](super::may_eject) spare the
    /// backend.
    Tripped {
        /// How many.
        count: u32,
        /// How the last one failed.
        last: Trouble,
        /// When the first of them failed.
        first: Tick,
        /// When the last of them began. What began before the backend was reinstated is no news.
        began: Tick,
        /// For the jitter of the ejection, uniform over `u64`.
        draw: u64,
    },
    /// The trial of this number passed.
    TrialPassed(u64),
    /// The trial of this number failed.
    TrialFailed {
        /// Its number.
        trial: u64,
        /// How.
        trouble: Trouble,
        /// For the jitter of the ejection, uniform over `u64`.
        draw: u64,
    },
    /// It is the time that [`Step::wake`](super::Step::wake) named, or later. Too early does no harm.
    Timer,
    /// An operator's word, or the file's where no operator's stands against it.
    Operator(Operator),
    /// The backend's name resolves to it (again), or no longer does.
    Resolved(bool),
    /// The policy that `step` is given is another one than before.
    Configured {
        /// Whether what is checked, or how, is another thing now: results under way are dropped.
        is_new_check: bool,
    },
}

/// What is known of a backend from before this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What people saw of it.
    pub state: State,
    /// The verdict of its checks, if it was checked.
    pub verdict: Option<Verdict>,
    /// When its ejection ends; a time that is over: it is to be tried.
    pub ejected_until: Option<Tick>,
    /// Ejections in a row.
    pub ejections: u32,
    /// How long it has been in that state.
    pub age: Tick,
    /// How long ago it came back to usability, if it was ever away.
    pub back_for: Option<Tick>,
}
