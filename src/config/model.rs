//! The configuration as values. THE source of its keys.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use indexmap::IndexMap;

use crate::balance::Options;
use crate::net::addr::Address;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub runtime: Runtime,
    pub log: Log,
    pub listeners: IndexMap<String, Listener>,
    pub pools: IndexMap<String, Pool>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Worker threads; `None` = auto, the cores this process may use.
    pub threads: Option<NonZeroU32>,
    /// `None` = off, wait for ever.
    pub shutdown_grace: Option<Duration>,
    /// `None` = auto, from the descriptor limit.
    pub max_connections: Option<NonZeroU32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Ranges are expanded.
    pub bind: Vec<Address>,
    pub pool: String,
    pub tcp: Tcp,
    pub timeouts: Timeouts,
    /// `None` = no limit of its own.
    pub max_connections: Option<NonZeroU32>,
    pub over_limit: OverLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    Wait,
    Close,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    pub nodelay: bool,
    pub keepalive: Option<Duration>,
    pub user_timeout: Option<Duration>,
    pub backlog: u32,
    pub defer_accept: Option<Duration>,
    pub fast_open: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    pub idle: Option<Duration>,
    /// Zero: the first end ends both. `None` = off.
    pub half_closed: Option<Duration>,
    pub max_duration: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub strategy: Strategy,
    pub backends: Vec<Backend>,
    pub connect: Connect,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    pub name: String,
    pub options: Options,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    pub address: Address,
    /// 0: no new connections.
    pub weight: u32,
    pub max_connections: Option<NonZeroU32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    pub timeout: Duration,
    pub attempts: u32,
    pub hedge: Option<Duration>,
    pub deadline: Duration,
    pub retry_budget: u32,
    /// Used in turn; empty = the kernel chooses.
    pub source: Vec<IpAddr>,
}
