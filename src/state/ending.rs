//! How a connection ended: one word, the same in metric, log and API.

use crate::net::relay::{Side, Stop};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended in order, the client's first.
    ClientClosed,
    /// Both directions ended in order, the backend's first.
    BackendClosed,
    /// The client reset the connection or vanished.
    ClientReset,
    /// The backend reset the connection or vanished.
    BackendReset,
    /// No byte in either direction for `timeouts.idle`.
    IdleTimeout,
    /// One direction had ended and nothing moved in the other for `timeouts.half_closed`.
    HalfClosedTimeout,
    /// It lasted `timeouts.max_duration`.
    MaxDuration,
    /// The listener or the process was at its limit, and `over_limit` says `close`.
    OverLimit,
    /// No backend was in rotation.
    NoBackend,
    /// No backend could be connected to.
    ConnectFailed,
    /// This host lacked descriptors, ports, memory or permission.
    LocalError,
    /// Every backend was at its `max_connections`.
    QueueFull,
    /// No new active backend came within the time that connections wait for one.
    QueueTimeout,
    /// Its backend was evicted, and `evicted_connections` says `close`.
    Evicted,
    /// Its backend has lost the active role, and `failover.demotion` says `close`.
    Demoted,
    /// An operator closed it, or disabled its backend.
    Killed,
    /// The process stopped and its grace had passed.
    Shutdown,
}

impl Ending {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::BackendClosed => "backend_closed",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfClosedTimeout => "half_closed_timeout",
            Self::MaxDuration => "max_duration",
            Self::OverLimit => "over_limit",
            Self::NoBackend => "no_backend",
            Self::ConnectFailed => "connect_failed",
            Self::LocalError => "local_error",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Evicted => "evicted",
            Self::Demoted => "demoted",
            Self::Killed => "killed",
            Self::Shutdown => "shutdown",
        }
    }

    /// The word for why a relay stopped; `told` is why it was told to, if it was.
    #[must_use]
    pub fn of_relay(stop: Stop, told: Self) -> Self {
        match stop {
            Stop::Closed(Side::Client) => Self::ClientClosed,
            Stop::Closed(Side::Backend) => Self::BackendClosed,
            Stop::Reset(Side::Client) => Self::ClientReset,
            Stop::Reset(Side::Backend) => Self::BackendReset,
            Stop::Idle => Self::IdleTimeout,
            Stop::HalfClosed => Self::HalfClosedTimeout,
            Stop::MaxDuration => Self::MaxDuration,
            Stop::Told => told,
        }
    }
}
