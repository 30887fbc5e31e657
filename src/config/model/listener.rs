//! Keys of listeners.

use std::num::NonZeroU32;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{PerSecond, Period, SourceOrigin};
use super::super::unit::Rate;
use super::super::written::{As, Binds, OneOrMany, OrOff};
use super::route::with_pool;
use super::{Bandwidth, Count, Route};
use crate::net::addr::Address;
use crate::net::cidr::Origin;

/// One or more bound addresses with their routes, limits and timeouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = with_pool)]
pub struct Listener {
    /// Where to listen: one address or a list. IPv6 addresses stand in brackets and quotes, and
    /// bind IPv6 only; `0.0.0.0:9501-9504` binds each port; at port 0 the kernel chooses one.
    // Ranges are expanded.
    #[serde(with = "Binds")]
    pub bind: Vec<Address>,
    /// Where its connections go: the first route that matches; without any, they are closed.
    // `pool: name` becomes the only route.
    #[schemars(length(min = 1))]
    pub routes: Vec<Route>,
    /// Networks whose clients may come, or `unix` for clients of a unix socket; all others are
    /// refused. Without it all may. `::/0` is every IPv6 address and no IPv4 one.
    #[serde(default, with = "OneOrMany::<SourceOrigin, 1>", skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Origin>,
    /// Networks whose clients are refused, or `unix`; looked at before `allow`.
    #[serde(default, with = "OneOrMany::<SourceOrigin>")]
    pub deny: Vec<Origin>,
    /// Peers that must send a PROXY header, version 1 or 2, and are believed: networks, or `unix`.
    /// From others its bytes are payload.
    #[serde(default, with = "OneOrMany::<SourceOrigin>")]
    pub accept_proxy_protocol: Vec<Origin>,
    /// Options of the listening socket and of accepted connections.
    #[serde(default)]
    pub tcp: Tcp,
    /// How long a connection may last or be idle.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Connections of this listener at one time; `off` = no limit of its own.
    #[serde(default, with = "OrOff::<Count>")]
    pub max_connections: Option<NonZeroU32>,
    /// What happens to connections over a limit.
    #[serde(default)]
    pub over_limit: OverLimit,
    /// Connections of one source address at one time; more are closed. Clients of a unix socket
    /// have none.
    #[serde(default, with = "OrOff::<Count>")]
    pub max_connections_per_source: Option<NonZeroU32>,
    /// New connections of one source address, with a burst of one second's worth; more are closed.
    #[serde(default, with = "OrOff::<PerSecond>")]
    #[schemars(extend("x-minimum" = "1/s"))]
    pub connection_rate_per_source: Option<Rate>,
    /// Bytes a second of each connection.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// What happens to connections over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverLimit {
    /// None is accepted until another ends; the kernel's backlog holds them.
    #[default]
    Wait,
    /// They are closed at once.
    Close,
}

/// Options of a listening socket and of the connections accepted on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tcp {
    /// Send small segments at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Time without traffic after which the peer is probed (`TCP_KEEPIDLE`): the client, and, once
    /// a connection is 5 s old, its backend.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "32767s"))]
    pub keepalive: Option<Duration>,
    /// Time that data sent to the client, or to the backend of a connection 5 s old, may stay
    /// unacknowledged before the connection is given up (`TCP_USER_TIMEOUT`); `off` = the kernel's
    /// retransmission limit. A peer that reads nothing for so long while bytes wait for it is given
    /// up as well: give a reader that pauses for longer a longer time.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "24d"))]
    pub user_timeout: Option<Duration>,
    /// Connections that the kernel holds for a listener that has not accepted them yet; the kernel
    /// cuts it at `net.core.somaxconn`.
    #[schemars(range(min = 1, max = 65535))]
    pub backlog: u32,
    /// Accept a connection only when its first byte is there, or this time has passed
    /// (`TCP_DEFER_ACCEPT`; the kernel rounds it). Only for protocols in which the client speaks
    /// first.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1h"))]
    pub defer_accept: Option<Duration>,
    /// Take data in the first segment of clients that send some (`TCP_FASTOPEN`).
    pub fast_open: bool,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: Some(Duration::from_secs(60)),
            backlog: 4096,
            defer_accept: None,
            fast_open: false,
        }
    }
}

/// How long a connection may last or be idle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// PROXY header and ClientHello, where they are waited for, must be in by then; from accept on.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub peek: Duration,
    /// No byte in either direction for this long ends the connection.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1ms"))]
    pub idle: Option<Duration>,
    /// One direction has ended and no byte moves in the other for this long. `0s` = the first end
    /// ends both.
    #[serde(with = "OrOff::<Period>")]
    pub half_closed: Option<Duration>,
    /// The longest that a connection may last.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1ms"))]
    pub max_duration: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            peek: Duration::from_secs(3),
            idle: Some(Duration::from_secs(3600)),
            half_closed: Some(Duration::from_secs(60)),
            max_duration: None,
        }
    }
}
