//! Keys of connections to backends: attempts, waiting, names.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{NameServer, Period};
use super::super::written::{As, OneOrMany, OrOff, Sources, Whole};

/// How connections to the backends of a pool are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connect {
    /// Time that one attempt may take.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub timeout: Duration,
    /// Attempts for one connection, each on another backend.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// When an attempt has no answer by then, a second one starts on another backend; the first to
    /// connect wins, the other is reset.
    #[serde(with = "OrOff::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub hedge: Option<Duration>,
    /// Time that all attempts of one connection may take together.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub deadline: Duration,
    /// Percent of this pool's connections of the last 10 seconds that may be retries; never under
    /// 10 a second.
    #[schemars(range(min = 0, max = 100))]
    pub retry_budget: u32,
    /// Local address to connect from; a list is used in turn. Empty = the kernel chooses. `client` =
    /// the client's own address, which needs routing and a capability of this process.
    #[serde(with = "Sources")]
    pub source: Source,
    /// The PROXY header that backends are sent.
    pub send_proxy_protocol: SendProxyProtocol,
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            attempts: 3,
            hedge: Some(Duration::from_millis(250)),
            deadline: Duration::from_secs(5),
            retry_budget: 100,
            source: Source::default(),
            send_proxy_protocol: SendProxyProtocol::Off,
        }
    }
}

/// How the names of backends are looked up: again when the answer's time to live ends, within these
/// bounds. A failed or empty answer keeps the last good one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resolve {
    /// The shortest time between two look-ups of a name.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "1d"))]
    pub min_interval: Duration,
    /// The longest.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "7d"))]
    pub max_interval: Duration,
    /// Time that a look-up may take.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1m"))]
    pub timeout: Duration,
    /// Name servers: IP addresses, with a port where it is not 53. Empty = those of the system.
    #[serde(with = "OneOrMany::<NameServer>")]
    pub servers: Vec<SocketAddr>,
}

impl Default for Resolve {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(5),
            max_interval: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
            servers: Vec::new(),
        }
    }
}

/// Connections that wait while every backend is at its `max_connections`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// How long one waits; then it is closed.
    #[serde(with = "As::<Period>")]
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub timeout: Duration,
    /// How many wait; more are closed at once.
    #[serde(with = "As::<Whole<NonZeroU32, 1, 1_000_000>>")]
    pub max: NonZeroU32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3), max: NonZeroU32::MIN.saturating_add(999) }
    }
}

/// The local address of connections to backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// These, in turn; none: the kernel chooses.
    Addresses(Vec<IpAddr>),
    /// The client's own (transparent).
    Client,
}

impl Default for Source {
    fn default() -> Self {
        Self::Addresses(Vec::new())
    }
}

impl Source {
    /// The addresses to use in turn; none where there are none or it is the client's.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Addresses(addresses) => addresses,
            Self::Client => &[],
        }
    }
}

/// The PROXY header that a backend is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendProxyProtocol {
    /// None.
    #[default]
    Off,
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary.
    V2,
}
