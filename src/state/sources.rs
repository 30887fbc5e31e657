//! How many connections one source may have, and how many it may open in a second.
//!
//! One of two locks of the data path, beside the queue's: a table of sources in shards,
//! each under a mutex that is held for a look-up and never over an `.await`. Entered only where a
//! listener has such a limit.
//!
//! A source is an IPv4 address or the /64 of an IPv6 address, which is what one host usually has to
//! itself (RFC 6177): it could come from another address each time. A client of a unix socket has no
//! source and no such limits.

#![allow(clippy::disallowed_types, reason = "one of two locks of the data path; see above")]

mod table;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::table::{Table, Verdict};
use crate::net::cidr::prefix_64;
use crate::net::clock::Tick;

/// Shards of a table; two threads seldom want the same.
const SHARDS: usize = 64;
/// The most sources that are remembered without any open connection, in all shards: some 6 MiB.
/// Beyond that the longest quiet one is forgotten, and with it that it was busy a moment ago.
const MOST_IDLE: usize = 65_536;

/// The limits for each source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Connections open at the same time.
    pub connections: Option<NonZeroU32>,
    /// Connections a second, with a burst of one second's worth.
    pub rate: Option<NonZeroU32>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The source has as many open as it may.
    Limit,
    /// It opens them too quickly.
    Rate,
}

/// The sources of one listener's connections.
#[derive(Debug)]
pub struct Sources {
    shards: Box<[Mutex<Table>]>,
    hasher: RandomState,
}

/// What counts as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

/// "This connection counts as one of that source's"; dropping it takes it off.
#[derive(Debug)]
pub struct FromSource {
    sources: Arc<Sources>,
    source: Source,
}

impl Default for Sources {
    fn default() -> Self {
        let shard = || Mutex::new(Table::new(MOST_IDLE / SHARDS));
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Sources {
    /// Counts a connection from `ip` that comes at `now`, if it is within `limits`; without any
    /// limit nothing is counted. The limits may be others each time; the number of open ones counts
    /// all that were counted.
    ///
    /// A refused connection takes nothing from the rate.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn admit(
        self: &Arc<Self>,
        ip: IpAddr,
        limits: SourceLimits,
        now: Tick,
    ) -> Result<Option<FromSource>, Refused> {
        if limits == SourceLimits::default() {
            return Ok(None);
        }
        let source = Source::of(ip);
        match self.shard(source).admit(source, limits, now) {
            Verdict::Counted => Ok(Some(FromSource { sources: Arc::clone(self), source })),
            Verdict::Refused(refused) => Err(refused),
        }
    }

    /// Connections open from the source that `ip` belongs to.
    #[must_use]
    pub fn open(&self, ip: IpAddr) -> u32 {
        let source = Source::of(ip);
        self.shard(source).open(source)
    }

    /// Sources remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| locked(shard).len()).sum()
    }

    /// Whether no source is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, Table> {
        let hash = self.hasher.hash_one(source);
        let at = usize::try_from(hash % (SHARDS as u64)).unwrap_or(0);
        locked(&self.shards[at])
    }
}

/// The table does not panic half way, so that a poisoned one is whole.
fn locked(shard: &Mutex<Table>) -> MutexGuard<'_, Table> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6(prefix_64(v6)),
        }
    }
}

impl Drop for FromSource {
    fn drop(&mut self) {
        self.sources.shard(self.source).release(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(connections: u32) -> SourceLimits {
        SourceLimits { connections: NonZeroU32::new(connections), rate: None }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_more_than_the_limit_is_refused_and_a_slot_comes_back_with_its_guard() {
        let sources = Arc::new(Sources::default());
        let admit = |text: &str| sources.admit(ip(text), at_most(2), 0);
        let first = admit("192.0.2.1").unwrap().unwrap();
        let _second = admit("::ffff:192.0.2.1").unwrap().unwrap();
        assert_eq!(admit("192.0.2.1").unwrap_err(), Refused::Limit);
        assert!(admit("192.0.2.2").is_ok(), "another source");
        drop(first);
        assert!(admit("192.0.2.1").is_ok());
        assert_eq!(sources.open(ip("192.0.2.1")), 1, "the last one was dropped at once");
    }

    #[test]
    fn addresses_of_one_64_are_one_source() {
        let sources = Arc::new(Sources::default());
        let kept = sources.admit(ip("2001:db8::1"), at_most(1), 0).unwrap();
        let admit = |text: &str| sources.admit(ip(text), at_most(1), 0);
        assert_eq!(admit("2001:db8::ffff:1:2:3").unwrap_err(), Refused::Limit);
        assert!(admit("2001:db8:0:1::1").is_ok());
        drop(kept);
        assert!(sources.is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let sources = Arc::new(Sources::default());
        assert!(sources.admit(ip("192.0.2.1"), SourceLimits::default(), 0).unwrap().is_none());
        assert!(sources.is_empty());
    }

    /// Each source once, a hundred in a millisecond: a hundred thousand would be known of a second.
    #[test]
    fn a_scan_leaves_no_more_sources_behind_than_may_be_remembered() {
        let sources = Arc::new(Sources::default());
        let limits = SourceLimits { connections: NonZeroU32::new(200), rate: NonZeroU32::new(100) };
        let scan = |range: std::ops::Range<u32>, pace: u32| {
            for n in range {
                let ip = IpAddr::V4(n.wrapping_mul(0x9e37_79b9).into());
                drop(sources.admit(ip, limits, (n / pace).into()).unwrap());
            }
            sources.len()
        };
        let most = scan(0..150_000, 100);
        assert!(most > MOST_IDLE / 2 && most <= MOST_IDLE, "{most}");
        let later = scan(150_000..250_000, 10);
        assert!(later < 12_000, "a second's worth and what nobody has looked at: {later}");
    }

    #[test]
    fn threads_together_never_pass_the_limit() {
        let sources = Arc::new(Sources::default());
        let open = std::sync::atomic::AtomicU32::new(0);
        let one = || {
            for _ in 0..10_000 {
                if let Ok(guard) = sources.admit(ip("192.0.2.1"), at_most(3), 0) {
                    let now = open.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert!(now < 3);
                    open.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(guard);
                }
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(one))));
        assert!(sources.is_empty());
    }
}
