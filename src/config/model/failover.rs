//! Keys about which backend comes first, and what happens when another takes over.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{PerSecond, Period};
use super::super::unit::Rate;
use super::super::written::As;
use super::Strategy;

/// How work moves between priorities, and the active role between the backends of a hot standby.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    /// Whether a preferred backend takes its place again by itself. Without it: `manual` with
    /// `hot_standby`, else `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
    /// Time that the preferred backend must have been `healthy` before it takes its place again.
    #[serde(with = "As::<Period>")]
    pub failback_delay: Duration,
    /// What becomes of connections on a backend that has lost the active role, or whose priority is
    /// no longer in use.
    pub demotion: Demotion,
}

impl Failover {
    /// The failback in force with a strategy.
    #[must_use]
    pub fn failback(&self, strategy: &Strategy) -> Failback {
        self.failback.unwrap_or(match strategy.is_hot_standby() {
            true => Failback::Manual,
            false => Failback::Auto,
        })
    }

    /// What becomes of connections on a demoted backend, with a strategy.
    #[must_use]
    pub fn demoted_connections(&self, strategy: &Strategy) -> DemotionConnections {
        self.demotion.connections.unwrap_or(match strategy.is_hot_standby() {
            true => DemotionConnections::Close,
            false => DemotionConnections::Keep,
        })
    }
}

/// Whether a preferred backend takes its place again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failback {
    /// It does, once `failback_delay` is over.
    Auto,
    /// An operator says so.
    Manual,
}

/// What becomes of connections on a backend that has been demoted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Demotion {
    /// Without it: `close` with `hot_standby`, else `keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<DemotionConnections>,
    /// Time that they have before the first is closed.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-maximum" = "1d"))]
    pub grace: Duration,
    /// How many are closed a second from then on, the idle ones first.
    #[serde(with = "As::<PerSecond>")]
    #[schemars(extend("x-minimum" = "1/s"))]
    pub rate: Rate,
}

impl Default for Demotion {
    fn default() -> Self {
        Self { connections: None, grace: Duration::from_secs(2), rate: Rate(200) }
    }
}

/// Whether connections on a demoted backend go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DemotionConnections {
    /// They go on.
    Keep,
    /// They are closed, from `grace` on and at `rate`.
    Close,
}
