//! A pool and what it publishes.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};

use super::backend::Backend;
use super::budget::RetryBudget;
use crate::balance::{Candidate, Entry, Options, Request, Strategy};
use crate::config::model;
use crate::net::addr::Address;
use crate::net::clock::{Tick, ticks};

/// A named set of backends, and how to choose and to connect.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// How its backends are connected to.
    pub connect: ConnectPolicy,
    /// How many retries it may make.
    pub budget: RetryBudget,
    rotation: ArcSwap<Rotation>,
    turn: Turn,
    source_turn: AtomicU64,
}

/// The counter of picks on its own cache line: every connection of every thread adds to it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Turn(AtomicU64);

/// How the backends of a pool are connected to; times in milliseconds.
#[derive(Clone, Debug)]
pub struct ConnectPolicy {
    /// Longest time of one attempt.
    pub timeout: Tick,
    /// Attempts for one connection, each on another backend.
    pub attempts: u32,
    /// Without an answer for this long, another attempt is started beside the first.
    pub hedge: Option<Tick>,
    /// Longest time of all attempts together.
    pub deadline: Tick,
    /// Local addresses, used in turn; empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
}

impl ConnectPolicy {
    /// The policy that a configuration asks for.
    #[must_use]
    pub fn new(connect: &model::Connect, strategy: &str) -> Self {
        Self {
            timeout: ticks(connect.timeout),
            attempts: connect.attempts,
            // Two backends of a hot standby must not be connected to at the same time.
            hedge: connect.hedge.filter(|_| strategy != "hot_standby").map(ticks),
            deadline: ticks(connect.deadline),
            sources: connect.source.addresses().to_vec(),
        }
    }
}

/// The backends in rotation now; immutable and complete in itself.
#[derive(Debug)]
pub struct Rotation {
    members: Vec<Member>,
    candidates: Vec<Candidate>,
    strategy: Picker,
}

/// The strategy built from a rotation's candidates.
struct Picker(Box<dyn Strategy>);

impl std::fmt::Debug for Picker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Strategy")
    }
}

/// A backend as a member of a pool: with what the configuration says of it now.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub backend: Arc<Backend>,
    /// Share of new connections; 0: none.
    pub weight: u32,
    /// Most connections at the same time.
    pub max_connections: Option<NonZeroU32>,
}

impl Rotation {
    /// A rotation over `members`, those of weight 0 left out, with the strategy built from them.
    #[must_use]
    pub fn new(mut members: Vec<Member>, entry: &Entry, options: &Options) -> Self {
        members.retain(|member| member.weight > 0);
        let candidates: Vec<_> = members
            .iter()
            .map(|member| Candidate {
                id: member.backend.id,
                key: Arc::clone(&member.backend.name),
                weight: member.weight,
                load: Arc::clone(&member.backend.load),
            })
            .collect();
        let strategy = Picker((entry.build)(&candidates, options));
        Self { members, candidates, strategy }
    }

    /// The member to try next; `None` when all were tried.
    #[must_use]
    pub fn pick(&self, request: &Request<'_>) -> Option<&Member> {
        self.members.get(self.strategy.0.pick(&self.candidates, request)?)
    }

    /// Those that are at their `max_connections`, by [`Backend::id`].
    pub fn full(&self) -> impl Iterator<Item = u32> {
        let is_full = |m: &&Member| {
            m.max_connections.is_some_and(|limit| m.backend.load.open() >= limit.get())
        };
        self.members.iter().filter(is_full).map(|member| member.backend.id)
    }

    /// Whether nothing is in rotation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Pool {
    /// A pool that begins with `rotation`.
    #[must_use]
    pub fn new(name: &str, connect: ConnectPolicy, retry_percent: u32, rotation: Rotation) -> Self {
        Self {
            name: name.into(),
            connect,
            budget: RetryBudget::new(retry_percent),
            rotation: ArcSwap::from_pointee(rotation),
            turn: Turn::default(),
            source_turn: AtomicU64::new(0),
        }
    }

    /// The rotation now.
    pub fn rotation(&self) -> Guard<Arc<Rotation>> {
        self.rotation.load()
    }

    /// The number of this pick: one counter for all threads, so that taking turns is exact.
    pub fn next_turn(&self) -> u64 {
        self.turn.0.fetch_add(1, Relaxed)
    }

    /// The local addresses to connect to `address` from, beginning with the one whose turn it is; a
    /// single `None` where the kernel chooses. Addresses of the other family are passed over.
    pub fn sources(&self, address: &Address) -> impl Iterator<Item = Option<IpAddr>> {
        let is_v4 = match address {
            Address::Tcp(to) => Some(to.is_ipv4()),
            Address::Unix(_) => None,
        };
        let sources = &self.connect.sources;
        let fits = move |source: &IpAddr| Some(source.is_ipv4()) == is_v4;
        let count = sources.iter().filter(|source| fits(source)).count();
        let first = match count {
            0 | 1 => 0,
            _ => usize::try_from(self.source_turn.fetch_add(1, Relaxed)).unwrap_or(0) % count,
        };
        let in_turn = sources.iter().filter(move |source| fits(source)).cycle().skip(first);
        in_turn.take(count).copied().map(Some).chain((count == 0).then_some(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(sources: &[&str]) -> Pool {
        let connect = ConnectPolicy {
            timeout: 1,
            attempts: 1,
            hedge: None,
            deadline: 1,
            sources: sources.iter().map(|s| s.parse().unwrap()).collect(),
        };
        let rotation = Rotation {
            members: Vec::new(),
            candidates: Vec::new(),
            strategy: Picker(Box::new(Never)),
        };
        Pool::new("p", connect, 0, rotation)
    }

    struct Never;

    impl Strategy for Never {
        fn pick(&self, _: &[Candidate], _: &Request<'_>) -> Option<usize> {
            None
        }
    }

    #[test]
    fn source_addresses_are_used_in_turn_and_all_of_them_for_one_connection() {
        let pool = pool(&["127.0.0.2", "::1", "127.0.0.3"]);
        let to = Address::Tcp("127.0.0.1:1".parse().unwrap());
        let ips =
            |pool: &Pool| pool.sources(&to).map(|s| s.unwrap().to_string()).collect::<Vec<_>>();
        assert_eq!(ips(&pool), ["127.0.0.2", "127.0.0.3"]);
        assert_eq!(ips(&pool), ["127.0.0.3", "127.0.0.2"]);
    }

    #[test]
    fn without_a_source_of_its_family_the_kernel_chooses() {
        let to = Address::Tcp("[::1]:1".parse().unwrap());
        assert_eq!(pool(&["127.0.0.2"]).sources(&to).collect::<Vec<_>>(), [None]);
    }
}
