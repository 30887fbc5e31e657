//! Keys about repair: what is run when a state changes.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{ActionArgument, Period, Url};
use super::super::written::{As, ListOf, OrOff, Whole};

/// Actions on a change of state that checks or passive detection brought about. Nothing is run at
/// start-up or on an operator's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// A backend was evicted.
    pub on_evict: Vec<Action>,
    /// A standby takes the active role over (strategy `hot_standby`).
    pub on_takeover: Vec<Action>,
    /// A backend is back in rotation.
    pub on_reinstate: Vec<Action>,
    /// The last usable backend of the pool was evicted.
    pub on_pool_down: Vec<Action>,
    /// The pool has a usable backend again.
    pub on_pool_up: Vec<Action>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Runs a program; succeeds when it ends with 0.
    Exec(ExecAction),
    /// Sends a POST with the event as JSON; succeeds with a status of 200 to 299.
    Webhook(WebhookAction),
}

/// A program that is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecAction {
    /// The program and its arguments, no shell. `{pool}`, `{backend}`, `{host}`, `{port}`,
    /// `{event}` and `{cause}` stand for those of the change; of a unix socket `{host}` is the path
    /// and `{port}` is empty. `{{` and `}}` are braces.
    #[serde(with = "ListOf::<ActionArgument>")]
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Time that one attempt may take; then it is killed with all that it started.
    #[serde(default = "timeout", with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1d"))]
    pub timeout: Duration,
    /// Attempts until one succeeds.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Time before the second attempt; it doubles before each further one.
    #[serde(default = "backoff", with = "As::<Period>")]
    #[schemars(extend("x-maximum" = "1d"))]
    pub backoff: Duration,
    /// Runs of this action within an hour; more are suppressed, and an event says so.
    #[serde(default, with = "OrOff::<PerHour>")]
    pub max_per_hour: Option<NonZeroU32>,
    /// New connections wait until it has succeeded; when it finally fails the next standby is
    /// tried. Only in `on_takeover`.
    #[serde(default)]
    pub before_traffic: bool,
}

/// An HTTP request that is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookAction {
    /// Where it is sent.
    #[serde(with = "As::<Url>")]
    pub url: Uri,
    /// Time that one attempt may take.
    #[serde(default = "timeout", with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1d"))]
    pub timeout: Duration,
    /// Attempts until one succeeds.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Time before the second attempt; it doubles before each further one.
    #[serde(default = "backoff", with = "As::<Period>")]
    #[schemars(extend("x-maximum" = "1d"))]
    pub backoff: Duration,
    /// Runs of this action within an hour; more are suppressed, and an event says so.
    #[serde(default, with = "OrOff::<PerHour>")]
    pub max_per_hour: Option<NonZeroU32>,
}

/// Runs within an hour.
type PerHour = Whole<NonZeroU32, 1, 100_000>;

const fn timeout() -> Duration {
    Duration::from_secs(30)
}

const fn attempts() -> u32 {
    1
}

const fn backoff() -> Duration {
    Duration::from_secs(5)
}
