//! What this process may use, and how it is shared out.

use std::num::{NonZeroU32, NonZeroUsize};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin::MAX_CONNECTIONS;
use crate::config::model::Config;

/// Descriptors for everything that is no connection of a client: log, runtimes, configuration, checks.
const RESERVED: u64 = 64;
/// Descriptors of the admin endpoint: its listening socket, twice, and its connections. Kept for it where
/// there is none too, so that a reload can open one.
const ENDPOINT: u64 = 2 + MAX_CONNECTIONS as u64;
/// Descriptors of a connection: its two sockets.
const PER_CONNECTION: u64 = 2;
/// One pipe for every so many descriptors, so that nearly all are left for connections. A pipe is
/// held only while bulk data is on its way, and copying serves where there is none.
const DESCRIPTORS_PER_PIPE: u64 = 256;
/// Most pipes of one thread.
const MAX_PIPES: u64 = 256;

/// Raises the limit on descriptors to its hard limit, and says what it is.
///
/// A limit that cannot be raised is used as it is.
pub(super) fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX))
}

/// The most connections that this process could have with a configuration, its limit on descriptors
/// raised.
pub(super) fn possible_connections(config: &Config) -> u32 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let descriptors = maximum.or(current).unwrap_or(u64::from(u32::MAX));
    let threads = threads(config.runtime.threads);
    let addresses: usize = config.listeners.values().map(|listener| listener.bind.len()).sum();
    match share(descriptors, addresses * threads, threads, None) {
        Ok(Shares { connections, .. }) => connections,
        Err(possible) => possible,
    }
}

/// Threads to run: as configured, else as many as cores may be used.
pub(super) fn threads(configured: Option<NonZeroU32>) -> usize {
    configured.map_or_else(
        || std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        |threads| usize::try_from(threads.get()).unwrap_or(1),
    )
}

/// How the descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Most connections of the process.
    pub(super) connections: u32,
    /// Most pipes of each thread.
    pub(super) pipes: usize,
}

/// Shares `descriptors` out between connections, pipes and `sockets` listening sockets.
///
/// # Errors
///
/// The most connections possible, when more are configured, or when that is none.
pub(super) fn share(
    descriptors: u64,
    sockets: usize,
    threads: usize,
    configured: Option<NonZeroU32>,
) -> Result<Shares, u32> {
    let threads = (threads as u64).max(1);
    let pipes = (descriptors / DESCRIPTORS_PER_PIPE / threads).min(MAX_PIPES);
    // A runtime has an epoll instance, an event descriptor and a copy of each.
    let fixed = RESERVED + ENDPOINT + sockets as u64 + threads * (4 + 2 * pipes);
    let possible = descriptors.saturating_sub(fixed) / PER_CONNECTION;
    let possible = u32::try_from(possible).unwrap_or(u32::MAX);
    let connections = configured.map_or(possible, NonZeroU32::get);
    if connections > possible || connections == 0 {
        return Err(possible);
    }
    Ok(Shares { connections, pipes: usize::try_from(pipes).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_connection_are_left_after_what_is_fixed() {
        // 64 reserved and 66 for the endpoint, 2 sockets, 2 threads of 4, and 2 pipes of two descriptors for each thread.
        let shares = share(1024, 2, 2, None).unwrap();
        assert_eq!(shares, Shares { connections: (1024 - 64 - 66 - 2 - 8 - 8) / 2, pipes: 2 });
    }

    #[test]
    fn more_connections_than_descriptors_allow_are_refused_with_what_is_possible() {
        let wanted = NonZeroU32::new(1000);
        assert_eq!(share(1024, 2, 2, wanted), Err(438));
        assert!(share(4096, 2, 2, wanted).is_ok());
    }

    #[test]
    fn a_limit_that_leaves_no_connection_is_refused() {
        assert_eq!(share(64, 1, 1, None), Err(0));
    }
}
