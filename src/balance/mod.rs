//! Who gets the next connection.
//!
//! A [`Strategy`] is pure: whatever varies from one connection to the next comes in as an argument,
//! so a pick can be repeated, explained and tested without a socket, a clock or a random source. A
//! new strategy is one file with an `ENTRY`, one line in [`STRATEGIES`] and one row in
//! `docs/strategies.md`; `contract.rs` then holds it to the laws that all of them obey.
//!
//! Reading order: this file, `first_available.rs` (the shortest), `round_robin.rs`.

mod first_available;
mod hot_standby;
mod least_connections;
mod least_latency;
mod load;
mod lowest;
mod power_of_two;
mod random;
mod registry;
mod round_robin;
mod shares;
mod source_hash;
mod tried;

#[cfg(test)]
mod contract;

use std::net::IpAddr;
use std::sync::Arc;

pub use load::Load;
pub use registry::{Build, Entry, OptionKey, Options, Registry};
pub use tried::Tried;

/// Every built-in strategy, in the order of the documentation. The only such list.
pub const STRATEGIES: &[Entry] = &[
    round_robin::ENTRY,
    least_connections::ENTRY,
    random::ENTRY,
    power_of_two::ENTRY,
    least_latency::ENTRY,
    source_hash::ENTRY,
    first_available::ENTRY,
    hot_standby::ENTRY,
];

/// Chooses the backend to try next.
///
/// Has no side effects: asked twice with the same arguments it answers the same. Reading a
/// candidate's [`Load`] counts as reading an argument.
pub trait Strategy: Send + Sync {
    /// An index into `candidates`, never one that `request.tried` holds; `None` when all were tried.
    ///
    /// `candidates` is the slice that the strategy was built from, in the same order. Allocates
    /// nothing and never panics.
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize>;
}

/// A backend as a strategy sees it: a weight and live numbers.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Identity within the process, unique among the candidates; what [`Tried`] remembers.
    pub id: u32,
    /// Stable name for consistent hashing: the same over restarts and on every balancer.
    pub key: Arc<str>,
    /// Share of new connections, relative to the other candidates. At least 1: whoever makes a
    /// rotation leaves out a backend of weight 0, and a strategy that meets one never picks it.
    pub weight: u32,
    /// Open connections and latency, live.
    pub load: Arc<Load>,
}

impl Candidate {
    /// Whether it can still be picked: it has a weight and was not tried.
    #[must_use]
    pub fn is_left(&self, tried: &Tried) -> bool {
        self.weight > 0 && !tried.contains(self.id)
    }
}

/// What is known about the connection that wants a backend.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Address of the client; `None` for a client of a unix socket.
    pub source: Option<IpAddr>,
    /// The pool's pick counter: round robin is `schedule[turn % len]`.
    pub turn: u64,
    /// One uniform draw by the caller.
    pub random: u64,
    /// Milliseconds since the process started; for the decay of latencies.
    pub now_ms: u32,
    /// Backends this connection has tried already.
    pub tried: &'a Tried,
}

/// The first candidate in order that is left.
fn first_left(candidates: &[Candidate], tried: &Tried) -> Option<usize> {
    candidates.iter().position(|candidate| candidate.is_left(tried))
}
