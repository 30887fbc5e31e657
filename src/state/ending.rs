//! How a connection ended: one word, the same in metric, log and API.

use crate::net::relay::{Side, Stop};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
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
    /// The source is denied, or not among those allowed.
    Denied,
    /// The listener or the process was at its limit, and `over_limit` says `close`.
    OverLimit,
    /// The source was at its limit of connections.
    SourceLimit,
    /// The source connected too often.
    SourceRate,
    /// A trusted peer sent no PROXY header, or a wrong one.
    BadProxyHeader,
    /// What had to be known for routing was not there within `timeouts.peek`.
    PeekTimeout,
    /// No route matched.
    NoRoute,
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
    /// Every ending, in the order of the documentation: each stands at the place of its number.
    pub const ALL: [Self; 23] = [
        Self::ClientClosed,
        Self::BackendClosed,
        Self::ClientReset,
        Self::BackendReset,
        Self::IdleTimeout,
        Self::HalfClosedTimeout,
        Self::MaxDuration,
        Self::Denied,
        Self::OverLimit,
        Self::SourceLimit,
        Self::SourceRate,
        Self::BadProxyHeader,
        Self::PeekTimeout,
        Self::NoRoute,
        Self::NoBackend,
        Self::ConnectFailed,
        Self::LocalError,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Evicted,
        Self::Demoted,
        Self::Killed,
        Self::Shutdown,
    ];

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
            Self::Denied => "denied",
            Self::OverLimit => "over_limit",
            Self::SourceLimit => "source_limit",
            Self::SourceRate => "source_rate",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::PeekTimeout => "peek_timeout",
            Self::NoRoute => "no_route",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_stands_at_its_number_and_has_a_word_of_its_own() {
        for (index, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, index);
        }
        let words: std::collections::BTreeSet<_> = Ending::ALL.map(Ending::as_str).into();
        assert_eq!(words.len(), Ending::ALL.len());
    }
}
