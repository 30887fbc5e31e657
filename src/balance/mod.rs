//! Who gets the next connection.
//!
//! A [`Strategy`] is pure: whatever varies from one connection to the next comes in as an argument,
//! so a pick can be repeated, explained and tested without a socket, a clock or a random source. A
//! new strategy is one file with an `ENTRY` and one line in [`STRATEGIES`].

mod load;

use std::net::IpAddr;
use std::sync::Arc;

pub use load::Load;

/// Chooses the backend to try next.
///
/// Has no side effects: asked twice with the same arguments it answers the same. Reading a
/// candidate's [`Load`] counts as reading an argument.
pub trait Strategy: Send + Sync {
    /// An index into `candidates`, never one that `request.tried` holds; `None` when all were tried.
    ///
    /// `candidates` is the slice that the strategy was built from, in the same order. Allocates
    /// nothing.
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize>;
}

/// A backend as a strategy sees it: a weight and live numbers.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Identity within the process; what [`Tried`] remembers.
    pub id: u32,
    /// Stable name for consistent hashing: the same over restarts and on every balancer.
    pub key: Arc<str>,
    /// Share of new connections, relative to the other candidates. At least 1.
    pub weight: u32,
    /// Open connections and latency, live.
    pub load: Arc<Load>,
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

/// The backends one connection has tried, by [`Candidate::id`]. Empty costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<u32>);

impl Tried {
    /// Remembers that `id` was tried.
    pub fn insert(&mut self, id: u32) {
        if !self.contains(id) {
            self.0.push(id);
        }
    }

    /// Whether `id` was tried.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.0.contains(&id)
    }

    /// Whether nothing was tried yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many backends were tried.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets everything: the connection starts anew.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Builds a strategy for a set of candidates and the options of the configuration.
pub type Build = fn(candidates: &[Candidate], options: &Options) -> Box<dyn Strategy>;

/// One row of the table of strategies.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in the configuration.
    pub name: &'static str,
    /// One line for the reference page.
    pub summary: &'static str,
    /// Options it takes; empty for most.
    pub options: &'static [OptionKey],
    /// Builds it. Called on the control thread whenever the rotation changes.
    pub build: Build,
}

/// An option of a strategy: a whole number within a range.
#[derive(Clone, Copy, Debug)]
pub struct OptionKey {
    /// The key in the configuration.
    pub name: &'static str,
    /// One line for the reference page.
    pub summary: &'static str,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
    /// Value when the key is absent.
    pub default: u64,
}

/// The options given for one strategy, already checked against its [`OptionKey`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, u64)>);

impl Options {
    /// Options from `(name, value)` pairs.
    #[must_use]
    pub fn new(pairs: Vec<(String, u64)>) -> Self {
        Self(pairs)
    }

    /// The value given for `key`, else its default.
    #[must_use]
    pub fn get(&self, key: &OptionKey) -> u64 {
        self.0.iter().find(|(name, _)| name == key.name).map_or(key.default, |(_, value)| *value)
    }
}

/// Every built-in strategy, in the order of the documentation. The only such list.
pub const STRATEGIES: &[Entry] = &[];

/// The strategies a process knows: the built-in ones and those an embedder registered.
#[derive(Clone, Debug)]
pub struct Registry(Vec<Entry>);

impl Default for Registry {
    fn default() -> Self {
        Self(STRATEGIES.to_vec())
    }
}

impl Registry {
    /// Adds a strategy; one of the same name is replaced.
    pub fn register(&mut self, entry: Entry) {
        self.0.retain(|known| known.name != entry.name);
        self.0.push(entry);
    }

    /// The strategy called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    /// All strategies, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}
