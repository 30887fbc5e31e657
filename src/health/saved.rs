//! What survives a restart: one versioned value, and the rules for believing it.
//!
//! Times are milliseconds since the Unix epoch, because ticks end with their process. A backend is
//! known again by pool, name and address together: at another address it is another backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::event::{Ejection, Operator, Restored, Verdict};
use super::held::Held;
use super::machine::Health;
use super::{State, Tick};

/// What marks a state file as ours.
const FORMAT: &str = "tidegate-state";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Age in milliseconds over which a state file is no longer believed: one day.
pub const STALE_AFTER: u64 = 24 * 3_600_000;

/// How far in the future, in milliseconds, a state file may have been saved: clocks are set back by
/// a little now and then. By more, either the file or the clock is wrong.
pub const EARLY_BY: u64 = 60_000;

/// The health, the active roles, the operators' words and the addresses of names of all pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    format: String,
    version: u32,
    /// When it was saved, in milliseconds since the Unix epoch.
    pub saved_at: u64,
    /// By name.
    pub pools: BTreeMap<String, SavedPool>,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPool {
    /// The name of the backend with the active role, in a hot standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// For whom actions before traffic run, so that nobody is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparing: Option<SavedMove>,
    /// The name of the backend that had the active role last, where nobody has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Whether anybody ever had the active role.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_held: bool,
    /// Whether an operator gave it the role, so that it does not fail back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_pinned: bool,
    /// The names of those whose actions before traffic had failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub barred: Vec<String>,
    /// The priority in use, in a pool of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
    /// Recovery actions under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<SavedRun>,
    /// When repairs were done that checks have yet to verify, by the name of the backend.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unverified: BTreeMap<String, u64>,
    /// The runs of the last hour of actions with a limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<SavedLimit>,
    /// By name.
    pub backends: BTreeMap<String, SavedBackend>,
    /// The names among the backends, as the configuration calls them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, SavedName>,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedName {
    /// The name, as displayed: what was found for another is not believed.
    pub target: String,
    /// Its last good answer. That may be older than the file: a failed one since changes nothing.
    pub found: Vec<SavedFound>,
}

/// One address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFound {
    /// Where it is.
    pub address: SocketAddr,
    /// What its SRV record said, of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<SavedService>,
}

/// The share and the rank that an SRV record gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedService {
    /// Lower ones are used first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
}

/// Recovery actions of one event, under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRun {
    /// What they follow, in a word.
    pub event: String,
    /// The name of the backend.
    pub backend: String,
    /// Why, in a word.
    pub cause: String,
    /// Why, in words.
    pub evidence: String,
    /// When it happened, as RFC 3339 has it.
    pub time: String,
    /// How many of them are through.
    pub through: usize,
}

/// When an action with a limit was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLimit {
    /// What it follows, in a word.
    pub event: String,
    /// A mark of the action and all its options.
    pub action: String,
    /// When its runs began, in milliseconds since the Unix epoch.
    pub runs: Vec<u64>,
}

/// An active role on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMove {
    /// The name of the backend that it is on its way to.
    pub backend: String,
    /// Why, in a word.
    pub cause: String,
    /// Why, in words.
    pub evidence: String,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBackend {
    /// Where it is, as displayed.
    pub address: String,
    /// What people saw; for readers of the file, the rest follows from the other fields.
    pub state: State,
    /// When that state began.
    pub since: u64,
    /// The verdict of its checks, where it was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// When its ejection ends, or ended where the trial is still to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<u64>,
    /// Ejections in a row.
    pub ejections: u32,
    /// When it last came back to usability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// The operator's word and the file's.
    pub operator: Held<Operator>,
    /// The operator's weight and the file's.
    pub weight: Held<u32>,
}

/// Why a state file is not believed.
#[derive(Debug, Error)]
pub enum SavedError {
    /// It is no JSON, or lacks what it must have.
    #[error("not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It is something else's file.
    #[error("not a state file of tidegate")]
    Foreign,
    /// Another version wrote it.
    #[error("version {found} of the format, expected {VERSION}")]
    Version {
        /// The version it says.
        found: u64,
    },
    /// It is too old.
    #[error("saved {} hours ago, believed for {} at most", age / 3_600_000, STALE_AFTER / 3_600_000)]
    Stale {
        /// Its age in milliseconds.
        age: u64,
    },
    /// By this host's clock it is yet to be saved.
    #[error(
        "saved {} s from now by this host's clock, believed up to {} s",
        ahead / 1_000,
        EARLY_BY / 1_000
    )]
    Future {
        /// How far ahead it is, in milliseconds.
        ahead: u64,
    },
}

impl Saved {
    /// A state to be filled with pools, saved `now`, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self { format: FORMAT.into(), version: VERSION, saved_at: now, pools: BTreeMap::new() }
    }

    /// Reads what [`to_text`](Self::to_text) wrote. `now` is in milliseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// Why it is not to be believed; the caller says so and begins without.
    pub fn read(text: &str, now: u64) -> Result<Self, SavedError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        if value.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
            return Err(SavedError::Foreign);
        }
        let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if found != u64::from(VERSION) {
            return Err(SavedError::Version { found });
        }
        let saved: Self = serde_json::from_value(value)?;
        let age = now.saturating_sub(saved.saved_at);
        let ahead = saved.saved_at.saturating_sub(now);
        match () {
            () if age > STALE_AFTER => Err(SavedError::Stale { age }),
            () if ahead > EARLY_BY => Err(SavedError::Future { ahead }),
            () => Ok(saved),
        }
    }

    /// The text of a state file.
    ///
    /// # Errors
    ///
    /// None that is known; the serializer's, if it has one.
    pub fn to_text(&self) -> Result<String, SavedError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// What is known of the backend of this pool, name and address.
    #[must_use]
    pub fn backend(&self, pool: &str, name: &str, address: &str) -> Option<&SavedBackend> {
        let backend = self.pools.get(pool)?.backends.get(name)?;
        (backend.address == address).then_some(backend)
    }
}

impl SavedBackend {
    /// What is to be saved of a backend. `at` and `now` are the same moment, as a tick and in
    /// milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(
        address: String,
        health: &Health,
        held: (Held<Operator>, Held<u32>),
        (at, now): (Tick, u64),
    ) -> Self {
        let ejected_until = match health.ejection() {
            Ejection::None => None,
            Ejection::Trial(_) => Some(now),
            Ejection::Until(until) => Some(now.saturating_add(until.saturating_sub(at))),
        };
        Self {
            address,
            state: health.state(),
            since: now.saturating_sub(health.age(at)),
            verdict: health.verdict(),
            ejected_until,
            ejections: health.ejections(at),
            returned: health.back_for(at).map(|age| now.saturating_sub(age)),
            operator: held.0,
            weight: held.1,
        }
    }

    /// What is known of the backend from a state saved at `saved_at`, as a [`Health`] takes it. `at`
    /// and `now` are the same moment, as a tick and in milliseconds since the Unix epoch.
    ///
    /// The time in which nobody looked counts for nobody's health: who was `healthy` for a minute
    /// then is so for a minute now. An ejection ends when it would have ended.
    #[must_use]
    pub fn restored(&self, saved_at: u64, (at, now): (Tick, u64)) -> Restored {
        let left = |until: u64| at.saturating_add(until.saturating_sub(now));
        Restored {
            state: self.state,
            verdict: self.verdict,
            ejected_until: self.ejected_until.map(left),
            ejections: self.ejections,
            age: saved_at.saturating_sub(self.since),
            back_for: self.returned.map(|returned| saved_at.saturating_sub(returned)),
        }
    }
}

#[cfg(test)]
mod tests;
