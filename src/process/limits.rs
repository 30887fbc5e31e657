//! What this process may use, and how it is shared out.

use std::num::{NonZeroU32, NonZeroUsize};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin::MAX_CONNECTIONS;
use crate::config::model::Config;

/// Descriptors for everything that is no connection of a client: log, runtimes, configuration, actions,
/// and the first checks.
const RESERVED: u64 = 64;
/// Descriptors among them that checks may have open at once.
const RESERVED_FOR_CHECKS: u64 = 32;
/// Checks may have one in so many descriptors at most; where that is not enough, they wait for each
/// other. The rest is for connections.
const DESCRIPTORS_PER_CHECK: u64 = 4;
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
    let needs = Needs::of(config, threads(config.runtime.threads));
    match share(descriptors, needs, None) {
        Ok(Shares { connections, .. }) => connections,
        Err(possible) => possible,
    }
}

/// What descriptors are needed for, connections and pipes aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Listening sockets.
    pub(super) sockets: usize,
    /// Threads of the data path.
    pub(super) threads: usize,
    /// Checks of all backends at once: one that does not answer holds its socket for its `timeout`, and
    /// the next check of it may follow soon after.
    pub(super) checks: u64,
}

impl Needs {
    /// Of a configuration, with so many threads. The addresses of a name count as one backend: how many
    /// there are is not known before it is looked up.
    pub(super) fn of(config: &Config, threads: usize) -> Self {
        let addresses: usize = config.listeners.values().map(|listener| listener.bind.len()).sum();
        let checks = config.pools.values().filter_map(|pool| {
            let check = pool.health_check.as_ref()?;
            Some(pool.backends.len() as u64 * u64::from(check.probe.descriptors()))
        });
        Self { sockets: addresses * threads, threads, checks: checks.sum() }
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
    /// Most descriptors of checks.
    pub(super) checks: u32,
}

impl Shares {
    /// Says so where not all checks can be made at once.
    pub(super) fn warn_of_checks(&self, needs: &Needs) {
        if needs.checks > u64::from(self.checks) {
            tracing::warn!(
                backends = needs.checks,
                at_once = self.checks,
                "checks may have to wait for each other: raise the limit of descriptors (ulimit -n, \
                 LimitNOFILE=)"
            );
        }
    }
}

/// Shares `descriptors` out between connections, pipes and what else there is.
///
/// # Errors
///
/// The most connections possible, when more are configured, or when that is none.
pub(super) fn share(
    descriptors: u64,
    needs: Needs,
    configured: Option<NonZeroU32>,
) -> Result<Shares, u32> {
    let threads = (needs.threads as u64).max(1);
    let pipes = (descriptors / DESCRIPTORS_PER_PIPE / threads).min(MAX_PIPES);
    let checks = needs.checks.min(descriptors / DESCRIPTORS_PER_CHECK).max(RESERVED_FOR_CHECKS);
    // A runtime has an epoll instance, an event descriptor and a copy of each.
    let fixed = RESERVED
        + (checks - RESERVED_FOR_CHECKS)
        + ENDPOINT
        + needs.sockets as u64
        + threads * (4 + 2 * pipes);
    let possible = descriptors.saturating_sub(fixed) / PER_CONNECTION;
    let possible = u32::try_from(possible).unwrap_or(u32::MAX);
    let connections = configured.map_or(possible, NonZeroU32::get);
    if connections > possible || connections == 0 {
        return Err(possible);
    }
    Ok(Shares {
        connections,
        pipes: usize::try_from(pipes).unwrap_or(0),
        checks: u32::try_from(checks).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(sockets: usize, threads: usize, checks: u64) -> Needs {
        Needs { sockets, threads, checks }
    }

    #[test]
    fn two_descriptors_a_connection_are_left_after_what_is_fixed() {
        // 64 reserved and 66 for the endpoint, 2 sockets, 2 threads of 4, and 2 pipes of two descriptors for each thread.
        let shares = share(1024, needs(2, 2, 7), None).unwrap();
        let connections = (1024 - 64 - 66 - 2 - 8 - 8) / 2;
        assert_eq!(shares, Shares { connections, pipes: 2, checks: 32 });
    }

    #[test]
    fn checks_have_one_descriptor_each_but_a_quarter_of_all_at_most() {
        // checks, then what they may have, and what that takes from connections
        for (checks, most, taken) in [(0, 32, 0), (32, 32, 0), (132, 132, 50), (5_000, 256, 112)] {
            let shares = share(1024, needs(2, 2, checks), None).unwrap();
            assert_eq!((shares.checks, 438 - shares.connections), (most, taken), "{checks}");
        }
    }

    #[test]
    fn more_connections_than_descriptors_allow_are_refused_with_what_is_possible() {
        let wanted = NonZeroU32::new(1000);
        assert_eq!(share(1024, needs(2, 2, 0), wanted), Err(438));
        assert!(share(4096, needs(2, 2, 0), wanted).is_ok());
    }

    #[test]
    fn a_limit_that_leaves_no_connection_is_refused() {
        assert_eq!(share(64, needs(1, 1, 0), None), Err(0));
    }

    #[test]
    fn a_check_by_a_program_takes_several_descriptors() {
        let text = "listeners: { a: { bind: [0.0.0.0:80, 0.0.0.0:81], pool: app } }\n\
                    pools:\n  app: { backends: [10.0.0.1:80, 10.0.0.2:80], health_check: {} }\n\
                    \x20 api: { backends: [10.0.0.1:81], health_check: { probe: { exec: { command: [x] } } } }\n\
                    \x20 raw: { backends: [10.0.0.1:82] }\n";
        let registry = crate::balance::Registry::default();
        let loaded =
            crate::config::load_with_places(text.as_bytes(), &|_| None, &registry).unwrap();
        assert_eq!(Needs::of(&loaded.config, 3), needs(6, 3, 2 + 4));
    }
}
