//! Keys about the health of backends: active checks and passive detection.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{Filled, HostHeader, HostName, Method, Period, Plain};
use super::super::form::{ProbeArgument, RequestPath, Status};
use super::super::written::{As, ListOf, Maybe, OneOrMany, OrOff};

/// Active checks of the backends of a pool. They never overlap: one that takes longer than
/// `interval` puts off the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// What a check does: a name, or `{name: {options}}`.
    pub probe: Probe,
    /// Time from the start of a check to the start of the next.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "10ms", "x-maximum" = "1d"))]
    pub interval: Duration,
    /// Time that one check may take, from the first packet to the last byte it waits for. May be
    /// longer than `interval`.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub timeout: Duration,
    /// Successes in a row that reinstate.
    #[schemars(range(min = 1, max = 1000))]
    pub rise: u32,
    /// Failures in a row that evict.
    #[schemars(range(min = 1, max = 1000))]
    pub fall: u32,
    /// The interval while a change of state is under way, and before the first check has answered.
    /// Not longer than `interval`; without it, `500ms` or `interval`, whichever is shorter.
    // The default of a shorter interval is put in by `Config::settle`.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "10ms", "x-maximum" = "1d"))]
    pub fast_interval: Duration,
    /// Percent by which each interval is longer or shorter at random.
    #[schemars(range(min = 0, max = 50))]
    pub jitter: u32,
    /// Port that is checked instead of the backend's own; `health_port` of a backend comes first.
    /// Unix sockets are checked where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            fast_interval: Duration::from_millis(500),
            jitter: 20,
            port: None,
        }
    }
}

/// What a check does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Connects; passes when the connection is accepted.
    #[default]
    Tcp,
    /// Connects and makes a TLS handshake.
    Tls(TlsProbe),
    /// Sends an HTTP/1.1 request and looks at the answer.
    Http(HttpProbe),
    /// Sends some bytes and waits for others.
    SendExpect(SendExpectProbe),
    /// Runs a program; passes when it ends with 0.
    Exec(ExecProbe),
}

impl Probe {
    /// Descriptors that one check has open at most: a socket, or a program's output, in both
    /// directions until it runs, and the program itself, twice.
    #[must_use]
    pub fn descriptors(&self) -> u32 {
        if matches!(self, Self::Exec(_)) { 4 } else { 1 }
    }
}

/// A TLS handshake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsProbe {
    /// The name that is asked for and that the certificate must have. Without one no name is sent
    /// and the certificate must have the IP address of the backend.
    #[serde(with = "Maybe::<HostName>", skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whether the certificate must be valid: of a known authority, in time, of this name.
    pub verify: bool,
}

impl Default for TlsProbe {
    fn default() -> Self {
        Self { server_name: None, verify: true }
    }
}

/// An HTTP request and what its answer must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpProbe {
    /// What is asked for: path and query.
    #[serde(with = "As::<RequestPath>")]
    pub path: String,
    /// The `Host` of the request; without one, the address that is checked.
    #[serde(with = "Maybe::<HostHeader>", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The method of the request.
    #[serde(with = "As::<Method>")]
    pub method: String,
    /// Status codes that pass: one, a range, or a list of them.
    #[serde(with = "OneOrMany::<Status, 1>")]
    pub expect_status: Vec<StatusRange>,
    /// Text that the body of the answer must hold.
    #[serde(with = "Maybe::<Filled>", skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<String>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            host: None,
            method: "GET".to_owned(),
            expect_status: vec![StatusRange { first: 200, last: 299 }],
            expect_body: None,
        }
    }
}

/// Status codes of HTTP, written `200-299` or `204`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest, from 100.
    pub first: u16,
    /// The highest, to 599; not below `first`.
    pub last: u16,
}

impl StatusRange {
    /// Whether it holds this code.
    #[must_use]
    pub const fn holds(self, code: u16) -> bool {
        self.first <= code && code <= self.last
    }
}

/// Bytes to send and bytes to wait for, both as UTF-8. In double quotes YAML knows `\r`, `\n` and
/// `\x00`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendExpectProbe {
    /// What is sent once connected; without it nothing is, for servers that speak first.
    #[serde(default, with = "As::<Plain>")]
    pub send: String,
    /// What the answer must hold.
    #[serde(with = "As::<Filled>")]
    pub expect: String,
}

/// A program that judges a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecProbe {
    /// The program and its arguments, no shell. `{pool}`, `{backend}`, `{host}` and `{port}` stand
    /// for those of the backend; of a unix socket `{host}` is the path and `{port}` is empty.
    /// `{{` and `}}` are braces.
    #[serde(with = "ListOf::<ProbeArgument>")]
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}

/// Passive detection: what becomes of real connections. A failure is a connect that is refused or
/// times out, and a reset before the first byte of the backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierDetection {
    /// Failures in a row that eject.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: u32,
    /// Bytes of the client are delivered and none came back by then: one failure. Only for
    /// protocols in which the server answers at once.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub first_byte: Option<Duration>,
    /// Length of the first ejection. It doubles each time, with 20 % jitter, and is forgotten after
    /// 10 healthy minutes.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1d"))]
    pub base_ejection: Duration,
    /// The longest ejection.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1d"))]
    pub max_ejection: Duration,
    /// Most of the pool that may be ejected at one time, in percent. 0 = none ever, 100 = all;
    /// between them one of two may always be ejected, the last usable one never.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            first_byte: None,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 50,
        }
    }
}

/// What becomes of the open connections of a backend that is evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvictedConnections {
    /// They go on.
    #[default]
    Keep,
    /// They are closed.
    Close,
}
