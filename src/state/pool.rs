//! A pool and what it publishes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::backend::Member;
use super::budget::RetryBudget;
use super::counters::PoolCounters;
use super::queue::Queue;
use super::streak::BySecond;
use crate::balance::{Candidate, Entry, Options, Request, Strategy, Tried};
use crate::config::model;
use crate::net::addr::Address;
use crate::net::clock::{Tick, ticks};
use crate::net::proxy_protocol::{self, Version};

/// A named set of backends: what a configuration says of it, and what lives on when that changes.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// Whether one of its backends serves alone.
    pub is_hot_standby: bool,
    /// How its backends are connected to.
    pub connect: ConnectPolicy,
    /// What counts as a failure of a backend, and when failures are reported; `None`: never.
    pub detection: Option<Detection>,
    /// Longest time that a connection waits while actions run for a new active backend.
    pub hold: Tick,
    /// How many connections may wait for a slot, and how long; `None`: none may.
    pub queue: Option<(u32, Tick)>,
    /// What outlives a change of the configuration.
    pub live: Arc<Live>,
}

/// How failures of real connections are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection {
    /// Failures in a row that are reported. At least 1.
    pub consecutive_failures: u32,
    /// How long a backend may be silent once it has what the client sent.
    pub first_byte: Option<Tick>,
}

/// What lives as long as the pool keeps its name.
#[derive(Debug)]
pub struct Live {
    /// How many retries it may make.
    pub budget: RetryBudget,
    /// Told whenever another rotation is in force, or a report was answered.
    pub changed: Arc<Notify>,
    /// How connections fare that a takeover meets.
    pub met: Met,
    /// What else is counted of it.
    pub counters: Arc<PoolCounters>,
    /// Connections that wait for a slot.
    pub queue: Arc<Queue>,
    rotation: ArcSwap<Rotation>,
    turn: Turn,
    source_turn: AtomicU64,
    /// Reports made, and how many of them the controller has decided on.
    asked: AtomicU64,
    answered: AtomicU64,
}

/// "A report about this pool waits for its decision"; dropped when what follows is in force, or when
/// nothing will.
#[derive(Debug)]
pub struct Asked(Arc<Live>);

impl Drop for Asked {
    fn drop(&mut self) {
        // After the rotation that follows: who sees this sees that.
        self.0.answered.fetch_add(1, Release);
        self.0.changed.notify_waiters();
    }
}

/// Connections of a hot standby that did not simply find the active backend.
#[derive(Debug, Default)]
pub struct Met {
    /// Failed on one that was active, and were served by the next.
    pub retried: AtomicU64,
    /// Got no backend.
    pub lost: BySecond,
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
    /// Percent of the connections that may be retries.
    pub retry_percent: u32,
    /// Local addresses, used in turn; empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// The local address is the client's own.
    pub is_transparent: bool,
    /// The header that backends are sent first.
    pub send_proxy: Option<Version>,
}

impl ConnectPolicy {
    /// The policy that a configuration asks for.
    #[must_use]
    pub fn new(connect: &model::Connect, is_hot_standby: bool) -> Self {
        Self {
            timeout: ticks(connect.timeout),
            attempts: connect.attempts,
            // Two backends of a hot standby must not be connected to at the same time.
            hedge: connect.hedge.filter(|_| !is_hot_standby).map(ticks),
            deadline: ticks(connect.deadline),
            retry_percent: connect.retry_budget,
            sources: connect.source.addresses().to_vec(),
            is_transparent: connect.source == model::Source::Client,
            send_proxy: match connect.send_proxy_protocol {
                model::SendProxyProtocol::Off => None,
                model::SendProxyProtocol::V1 => Some(Version::V1),
                model::SendProxyProtocol::V2 => Some(Version::V2),
            },
        }
    }
}

/// The backends in rotation now; immutable and complete in itself.
#[derive(Debug)]
pub struct Rotation {
    members: Vec<Member>,
    candidates: Vec<Candidate>,
    strategy: Picker,
    /// Usable backends of priorities that are not in use: for a connection that has tried the others.
    reserve: Vec<Member>,
    wait: Option<Wait>,
    /// Counts who has had the active role: another number is another holder.
    reign: u64,
    /// When the first connection was made in it; 0: none was yet.
    served: AtomicU64,
}

/// Why connections wait although nobody is in rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The active role is on its way from one backend to the next: well under a millisecond.
    Takeover,
    /// Actions have to succeed before the new active one gets connections.
    Actions,
}

/// The strategy built from a rotation's candidates.
struct Picker(Box<dyn Strategy>);

impl std::fmt::Debug for Picker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Strategy")
    }
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
        Self { members, candidates, strategy, ..Self::empty(None) }
    }

    /// Nobody; `wait` tells connections to wait for another rotation.
    #[must_use]
    pub fn empty(wait: Option<Wait>) -> Self {
        struct Nobody;
        impl Strategy for Nobody {
            fn pick(&self, _: &[Candidate], _: &Request<'_>) -> Option<usize> {
                None
            }
        }
        Self {
            members: Vec::new(),
            candidates: Vec::new(),
            strategy: Picker(Box::new(Nobody)),
            reserve: Vec::new(),
            wait,
            reign: 0,
            served: AtomicU64::new(0),
        }
    }

    /// The same, of this reign.
    #[must_use]
    pub fn of_reign(self, reign: u64) -> Self {
        Self { reign, ..self }
    }

    /// The same, with backends for connections that have tried all others, in order.
    #[must_use]
    pub fn with_reserve(self, reserve: Vec<Member>) -> Self {
        Self { reserve, ..self }
    }

    /// The first of the reserve that was not tried.
    #[must_use]
    pub fn reserve(&self, tried: &Tried) -> Option<&Member> {
        self.reserve.iter().find(|member| !tried.contains(member.backend.id))
    }

    /// The member to try next; `None` when all were tried.
    #[must_use]
    pub fn pick(&self, request: &Request<'_>) -> Option<&Member> {
        self.members.get(self.strategy.0.pick(&self.candidates, request)?)
    }

    /// Those that are at their `max_connections`, by id.
    pub fn full(&self) -> impl Iterator<Item = u32> {
        let is_full = |m: &&Member| {
            m.max_connections.is_some_and(|limit| m.backend.load.open() >= limit.get())
        };
        let all = self.members.iter().chain(&self.reserve);
        all.filter(is_full).map(|member| member.backend.id)
    }

    /// Its members, in the order of the strategy's candidates.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether nothing is in rotation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Why connections wait, if they do.
    #[must_use]
    pub fn wait(&self) -> Option<Wait> {
        self.wait
    }

    /// The number of the holder of the active role.
    #[must_use]
    pub fn reign(&self) -> u64 {
        self.reign
    }

    /// A connection was made to `backend` of this rotation; the first one counts.
    pub fn note_served(&self, backend: u32, at: Tick) {
        let is_member = self.members.iter().any(|member| member.backend.id == backend);
        if is_member && self.served.load(Relaxed) == 0 {
            self.served.store(at.max(1), Relaxed);
        }
    }

    /// When the first connection was made in it.
    #[must_use]
    pub fn served(&self) -> Option<Tick> {
        Some(self.served.load(Relaxed)).filter(|at| *at > 0)
    }
}

impl Default for Live {
    fn default() -> Self {
        Self {
            budget: RetryBudget::default(),
            changed: Arc::default(),
            met: Met::default(),
            queue: Arc::default(),
            counters: Arc::default(),
            rotation: ArcSwap::from_pointee(Rotation::empty(None)),
            turn: Turn::default(),
            source_turn: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }
}

impl Live {
    /// The rotation now.
    pub fn rotation(&self) -> Guard<Arc<Rotation>> {
        self.rotation.load()
    }

    /// Puts another rotation in force, on every thread at once, and wakes who waits for one.
    pub fn publish(&self, rotation: Arc<Rotation>) {
        self.rotation.store(rotation);
        self.changed.notify_waiters();
        self.queue.all_changed();
    }

    /// Notes that a report about the pool is being made: whoever waits for what follows from it may
    /// wait until the guard is dropped.
    #[must_use]
    pub fn ask(self: &Arc<Self>) -> Asked {
        self.asked.fetch_add(1, Relaxed);
        Asked(Arc::clone(self))
    }

    /// Whether a report waits for its decision. To be asked before the rotation is looked at: after a
    /// no, that is what was decided.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        let answered = self.answered.load(Acquire);
        self.asked.load(Relaxed) != answered
    }

    /// The number of this pick: one counter for all threads, so that taking turns is exact.
    pub fn next_turn(&self) -> u64 {
        self.turn.0.fetch_add(1, Relaxed)
    }

    /// The number that [`next_turn`](Self::next_turn) would give.
    #[must_use]
    pub fn peek_turn(&self) -> u64 {
        self.turn.0.load(Relaxed)
    }
}

impl Pool {
    /// What checks send first: the header of a connection that nobody is spoken for in.
    #[must_use]
    pub fn preface_of_checks(&self) -> Arc<[u8]> {
        self.connect.send_proxy.map_or(&[][..], proxy_protocol::local).into()
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
            _ => {
                let turn = self.live.source_turn.fetch_add(1, Relaxed);
                usize::try_from(turn).unwrap_or(0) % count
            }
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
            retry_percent: 0,
            is_transparent: false,
            send_proxy: None,
            sources: sources.iter().map(|s| s.parse().unwrap()).collect(),
        };
        Pool {
            name: "p".into(),
            is_hot_standby: false,
            connect,
            detection: None,
            hold: 1,
            queue: None,
            live: Arc::default(),
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
