//! The configuration as values. THE source of its keys.
//!
//! From these structs come parsing, defaults, ranges, `tidegate schema`, the nearest-name hints and
//! the reference page. To add a key: add a documented field. Its documentation comment is what the
//! user reads; notes for programmers are ordinary comments.
//!
//! - A plain number: its type, and `#[schemars(range(min = 1, max = 100))]`.
//! - A value written with a unit, `off`, `auto`, or as one or a list: a form of `written.rs` in
//!   `#[serde(with = "…")]`; a smallest or largest duration in
//!   `#[schemars(extend("x-minimum" = "1ms"))]`.
//! - A section: a struct with `#[serde(default, deny_unknown_fields)]` and `Default`; where it may
//!   be turned off, `#[serde(with = "OrOff::<Section<Name>>")]` on an `Option<Name>`.
//! - A choice: an enum in snake case, whose variants may carry a section:
//!   `tcp` or `{http: {…}}`.
//! - A key that must be there: a field without a default.

mod admin;
mod connect;
mod failover;
mod health;
mod listener;
mod recovery;
mod route;
mod template;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use admin::Admin;
pub(super) use admin::is_local;
pub use connect::{Connect, Queue, Resolve, SendProxyProtocol, Source};
pub use failover::{Demotion, DemotionConnections, Failback, Failover};
pub use health::{EvictedConnections, ExecProbe, HealthCheck, HttpProbe, OutlierDetection, Probe};
pub use health::{SendExpectProbe, StatusRange, TlsProbe};
pub use listener::{Listener, OverLimit, Tcp, Timeouts};
pub use recovery::{Action, ExecAction, Recovery, WebhookAction};
pub use route::{Bandwidth, Match, Route};
pub(super) use template::check as check_template;
pub use template::{ACTION_PLACEHOLDERS, PROBE_PLACEHOLDERS, Values, expand};

use super::form::{AccessTarget, BackendTarget, FilePath, Period};
use super::written::{As, OrAuto, OrOff, Section, Whole};
use crate::balance::Options;
use crate::net::addr::Target;

/// A number of connections.
type Count = Whole<NonZeroU32, 1, { u32::MAX as u64 }>;

/// A configuration: where connections come in, where they go, and how the process runs.
// `defaults` is no part of it: what stands there has been put into the listeners and pools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The admin endpoint: dashboard, metrics, API; `off` = none.
    #[serde(default, with = "OrOff::<Section<Admin>>")]
    pub admin: Option<Admin>,
    /// A file in which health, active roles, addresses of names and what operators said survive a
    /// restart; `off` = none.
    #[serde(default, with = "OrOff::<FilePath>")]
    pub state_file: Option<PathBuf>,
    /// The process: threads, shutdown, limits.
    #[serde(default)]
    pub runtime: Runtime,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// Where connections come in, by name.
    #[schemars(extend("minProperties" = 1))]
    pub listeners: IndexMap<String, Listener>,
    /// Where connections go, by name.
    #[schemars(extend("minProperties" = 1))]
    pub pools: IndexMap<String, Pool>,
}

impl Config {
    /// Gives keys that are absent the defaults that depend on others.
    pub(super) fn settle(&mut self) {
        for check in self.pools.values_mut().filter_map(|pool| pool.health_check.as_mut()) {
            // A longer one that was written has been refused.
            check.fast_interval = check.fast_interval.min(check.interval);
        }
    }
}

/// Any key of a listener or a pool. A listener or pool that has the key itself overrides it: the
/// keys of sections one by one; values, lists and choices as a whole.
// Never a value: the keys are merged into listeners and pools before there are values.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Defaults {
    /// Defaults of every listener.
    pub(super) listener: Listener,
    /// Defaults of every pool.
    pub(super) pool: Pool,
}

/// The process as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Worker threads; `auto` = the cores this process may use.
    #[serde(with = "OrAuto::<Whole<NonZeroU32, 1, 1024>>")]
    pub threads: Option<NonZeroU32>,
    /// How long `SIGTERM` waits for open connections; then they are closed. `off` = for ever.
    #[serde(with = "OrOff::<Period>")]
    pub shutdown_grace: Option<Duration>,
    /// Connections of all listeners together; `auto` = from the file-descriptor limit, which is
    /// raised to its hard limit.
    #[serde(with = "OrAuto::<Count>")]
    pub max_connections: Option<NonZeroU32>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { threads: None, shutdown_grace: Some(Duration::from_secs(30)), max_connections: None }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// One line of text or one JSON object for each event.
    pub format: LogFormat,
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// Where a line for each finished connection goes: `stdout`, or a file, which is opened again on
    /// `SIGHUP`.
    #[serde(with = "OrOff::<AccessTarget>")]
    pub access: Option<AccessLog>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// The end of this file.
    File(PathBuf),
}

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line that people read.
    #[default]
    Text,
    /// A line that programs read.
    Json,
}

/// A severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What needs somebody's attention.
    Error,
    /// What may need it soon.
    Warn,
    /// Changes of state.
    #[default]
    Info,
    /// Every connection.
    Debug,
    /// Everything.
    Trace,
}

/// A named set of backends with a strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Who gets the next connection: a name, or `{name: {options}}`.
    #[serde(default)]
    pub strategy: Strategy,
    /// The nodes that connections are forwarded to: each an address, or a section.
    #[schemars(length(min = 1))]
    pub backends: Vec<Backend>,
    /// How names of backends are looked up.
    #[serde(default)]
    pub resolve: Resolve,
    /// How connections to backends are made.
    #[serde(default)]
    pub connect: Connect,
    /// Connections that wait while every backend is at its `max_connections`; `off` = none do.
    #[serde(default, with = "OrOff::<Section<Queue>>")]
    pub queue: Option<Queue>,
    /// Active checks; `off` = none.
    #[serde(default, with = "OrOff::<Section<HealthCheck>>")]
    pub health_check: Option<HealthCheck>,
    /// Passive detection, from real connections; `off` = none.
    #[serde(default = "Pool::default_outlier_detection")]
    #[serde(with = "OrOff::<Section<OutlierDetection>>")]
    pub outlier_detection: Option<OutlierDetection>,
    /// What becomes of the open connections of a backend that is evicted.
    #[serde(default)]
    pub evicted_connections: EvictedConnections,
    /// Time over which the share of a backend that returns to rotation grows from 10 % to all of
    /// it; never at start-up.
    #[serde(default, with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1d"))]
    pub slow_start: Option<Duration>,
    /// Percent of the backends in rotation under which all but disabled ones are used; 0 = never.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: u32,
    /// How work moves between priorities and standbys.
    #[serde(default)]
    pub failover: Failover,
    /// What is run when checks or passive detection have changed a state; nothing at start-up or on
    /// an operator's word.
    #[serde(default)]
    pub recovery: Recovery,
}

impl Pool {
    #[expect(clippy::unnecessary_wraps, reason = "serde wants the type of the field")]
    fn default_outlier_detection() -> Option<OutlierDetection> {
        Some(OutlierDetection::default())
    }
}

/// A strategy by name, with the options given for it.
///
/// Its schema and its serde forms are in `strategy.rs`: they come from the table of strategies.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// A name of the registry.
    pub name: String,
    /// Options given in the file; others have their defaults.
    pub options: Options,
}

impl Strategy {
    /// Whether one backend is active and the others stand by.
    #[must_use]
    pub fn is_hot_standby(&self) -> bool {
        self.name == "hot_standby"
    }
}

/// One node that connections are forwarded to. An address alone is short for `{address: …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-shorthand" = "address"), transform = with_backup)]
pub struct Backend {
    /// Where it is: an IP address and a port, a unix socket, a name and a port (one backend for each
    /// address of it), or `srv+` and the name of a service (one for each of its hosts, with its
    /// ports, weights and priorities).
    #[serde(with = "As::<BackendTarget>")]
    pub address: Target,
    /// What it is called; unique within the pool. Without one, the address as written.
    // The checker fills it in.
    #[schemars(extend("x-form" = "name", "x-default-from" = "address"))]
    pub name: String,
    /// Share of new connections relative to the other backends; 0 = no new connections.
    #[serde(default = "Backend::default_weight")]
    #[schemars(range(min = 0, max = 65535))]
    pub weight: u32,
    /// Connections at one time; `off` = no limit.
    #[serde(default, with = "OrOff::<Count>")]
    pub max_connections: Option<NonZeroU32>,
    /// Port that is checked instead of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub health_port: Option<u16>,
    /// Begin as if an operator had disabled it: no connections, no checks.
    #[serde(default)]
    pub disabled: bool,
    /// Backends of the lowest number that has a usable one get all connections.
    // `backup: true` becomes 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    pub priority: u32,
}

impl Backend {
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 65_535;
    /// The largest priority.
    pub const MAX_PRIORITY: u32 = 65_535;

    const fn default_weight() -> u32 {
        1
    }
}

/// Adds the key `backup`, which is a word for a priority: the checker puts that in its place.
fn with_backup(schema: &mut Schema) {
    let Some(Value::Object(keys)) = schema.get_mut("properties") else { return };
    let backup = json!({
        "description": "Stands by for the others: short for `priority: 1`.",
        "type": "boolean",
        "default": false,
        "x-means": { "priority": 1 },
    });
    let priority = keys.shift_remove("priority");
    keys.insert("backup".to_owned(), backup);
    keys.extend(priority.map(|priority| ("priority".to_owned(), priority)));
}
