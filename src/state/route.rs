//! Where a listener's connections go: the first route whose keys all hold.
//!
//! The list is compiled into one table for each key, from a value to the set of routes that it
//! satisfies. Asking is a look-up for each key and the first route that all answers have in common,
//! so that the order of the list decides and its length hardly costs.

mod rows;
mod suspicious;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use self::rows::{Common, Rows};
pub use self::suspicious::Suspicion;
use crate::net::cidr::{Cidr, CidrSet, Origin};
use crate::net::client_hello::ClientHello;
use crate::net::name::NamePattern;

/// What must hold for a route; an empty list is no key, which always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The name asked for in the ClientHello is one of these.
    pub sni: Vec<NamePattern>,
    /// Any protocol offered in the ClientHello is one of these.
    pub alpn: Vec<Box<[u8]>>,
    /// Whether the connection begins with a ClientHello.
    pub tls: Option<bool>,
    /// The client comes from one of these.
    pub source: Vec<Origin>,
    /// The port that the client has connected to is one of these.
    pub port: Vec<u16>,
}

/// A key of a [`Match`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `sni`
    Sni,
    /// `alpn`
    Alpn,
    /// `tls`
    Tls,
    /// `source`
    Source,
    /// `port`
    Port,
}

/// What is known of a connection when its route is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The client, after the PROXY header; `None` over a unix socket.
    pub source: Option<IpAddr>,
    /// The port that the client has connected to; `None` over a unix socket.
    pub port: Option<u16>,
    /// Its ClientHello; `None` if it sent none.
    pub hello: Option<&'a ClientHello>,
}

/// What can be said of a connection before any of its bytes has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// The route is this one, or there is none, whatever comes.
    Decided(Option<usize>),
    /// The ClientHello must be seen first.
    NeedsHello,
}

/// The routes of a listener, compiled.
#[derive(Debug, Default)]
pub struct Routes {
    matches: Vec<Match>,
    sni: Names,
    alpn: Table<Box<[u8]>>,
    tls: Table<bool>,
    source: Sources,
    port: Table<u16>,
}

/// Which routes a value satisfies, and which have no such key.
#[derive(Debug)]
struct Table<K> {
    routes: HashMap<K, Rows>,
    without: Rows,
}

/// The same for names.
#[derive(Debug, Default)]
struct Names {
    exact: Table<Box<str>>,
    below: HashMap<Box<str>, Rows>,
    /// How many labels the names of `below` have, a bit for each number: others are not looked up.
    depths: u128,
    any: Rows,
}

/// The same for sources.
#[derive(Debug, Default)]
struct Sources {
    nets: CidrSet,
    /// For each of `nets`.
    routes: Vec<Rows>,
    unix: Rows,
    without: Rows,
    is_used: bool,
}

impl Routes {
    /// Compiles a list of routes.
    #[must_use]
    pub fn new(matches: Vec<Match>) -> Self {
        let nets = matches.iter().flat_map(|one| &one.source).filter_map(net_of).collect();
        let mut routes = Self { source: Sources::new(nets), ..Self::default() };
        for (at, one) in matches.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            routes.sni.add(at, &one.sni);
            routes.alpn.add(at, &one.alpn);
            routes.tls.add(at, one.tls.as_slice());
            routes.source.add(at, &one.source);
            routes.port.add(at, &one.port);
        }
        Self { matches, ..routes }
    }

    /// The place of the first route whose keys all hold for `caller`.
    ///
    /// Costs a hash look-up for each key in use, one for each depth of wildcards and each protocol
    /// offered, and a binary search among all networks.
    #[must_use]
    pub fn first_match(&self, caller: &Caller<'_>) -> Option<usize> {
        let mut common = Common::default();
        let hello = caller.hello;
        if self.sni.is_used() {
            self.sni.look_up(hello.and_then(|hello| hello.sni.as_deref()), &mut common);
        }
        if self.alpn.is_used() {
            common.add(&self.alpn.without);
            for protocol in hello.iter().flat_map(|hello| hello.alpn.iter()) {
                self.alpn.look_up(protocol, &mut common);
            }
            common.close_group();
        }
        if self.tls.is_used() {
            common.add(&self.tls.without);
            self.tls.look_up(&hello.is_some(), &mut common);
            common.close_group();
        }
        self.look_up_place(caller.source, caller.port, &mut common);
        self.first_of(common)
    }

    /// Whether any route asks for the ClientHello. A listener without such a route never waits for a
    /// client's bytes, so that the backend may speak first.
    #[must_use]
    pub fn needs_peek(&self) -> bool {
        self.matches.iter().any(Match::needs_hello)
    }

    /// What can be said before the client has sent anything: nothing need be waited for where the
    /// first route for this source and port does not ask for the ClientHello.
    #[must_use]
    pub fn before_peek(&self, source: Option<IpAddr>, port: Option<u16>) -> Early {
        let mut common = Common::default();
        self.look_up_place(source, port, &mut common);
        match self.first_of(common) {
            Some(first) if self.matches[first].needs_hello() => Early::NeedsHello,
            decided => Early::Decided(decided),
        }
    }

    /// The keys of a route that do not hold for `caller`; none if it matches.
    #[must_use]
    pub fn misses(&self, route: usize, caller: &Caller<'_>) -> Vec<Key> {
        self.matches.get(route).map(|one| one.misses(caller)).unwrap_or_default()
    }

    fn look_up_place<'a>(
        &'a self,
        source: Option<IpAddr>,
        port: Option<u16>,
        common: &mut Common<'a>,
    ) {
        if self.source.is_used {
            self.source.look_up(source, common);
        }
        if self.port.is_used() {
            common.add(&self.port.without);
            if let Some(port) = port {
                self.port.look_up(&port, common);
            }
            common.close_group();
        }
    }

    /// The first route that all groups have in common; without any group the first of all.
    fn first_of(&self, mut common: Common<'_>) -> Option<usize> {
        if common.has_groups() { common.next() } else { (!self.matches.is_empty()).then_some(0) }
    }
}

impl Match {
    /// Whether it can be decided only with the ClientHello.
    #[must_use]
    pub fn needs_hello(&self) -> bool {
        self.tls.is_some() || !self.sni.is_empty() || !self.alpn.is_empty()
    }

    /// The keys that do not hold for `caller`, one after the other.
    #[must_use]
    pub fn misses(&self, caller: &Caller<'_>) -> Vec<Key> {
        let name = caller.hello.and_then(|hello| hello.sni.as_deref());
        let mut offered = caller.hello.iter().flat_map(|hello| hello.alpn.iter());
        let is_in = |origin: &Origin| match (origin, caller.source) {
            (Origin::Net(cidr), Some(ip)) => cidr.contains(ip),
            (Origin::Unix, None) => true,
            _ => false,
        };
        let holds = [
            (Key::Sni, name.is_some_and(|name| self.sni.iter().any(|p| p.matches(name)))),
            (Key::Alpn, offered.any(|protocol| self.alpn.iter().any(|own| **own == *protocol))),
            (Key::Tls, self.tls == Some(caller.hello.is_some())),
            (Key::Source, self.source.iter().any(is_in)),
            (Key::Port, caller.port.is_some_and(|port| self.port.contains(&port))),
        ];
        let misses = holds.into_iter().filter(|(key, holds)| self.has(*key) && !holds);
        misses.map(|(key, _)| key).collect()
    }

    fn has(&self, key: Key) -> bool {
        match key {
            Key::Sni => !self.sni.is_empty(),
            Key::Alpn => !self.alpn.is_empty(),
            Key::Tls => self.tls.is_some(),
            Key::Source => !self.source.is_empty(),
            Key::Port => !self.port.is_empty(),
        }
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { routes: HashMap::new(), without: Rows::default() }
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn is_used(&self) -> bool {
        !self.routes.is_empty()
    }

    fn add(&mut self, route: u32, values: &[K]) {
        if values.is_empty() {
            self.without.push(route);
        }
        for value in values {
            self.routes.entry(value.clone()).or_default().push(route);
        }
    }

    fn look_up<'a, Q>(&'a self, value: &Q, common: &mut Common<'a>)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(rows) = self.routes.get(value) {
            common.add(rows);
        }
    }
}

impl Names {
    fn is_used(&self) -> bool {
        self.exact.is_used() || !self.below.is_empty() || !self.any.is_empty()
    }

    fn add(&mut self, route: u32, patterns: &[NamePattern]) {
        if patterns.is_empty() {
            self.exact.without.push(route);
        }
        for pattern in patterns {
            match pattern {
                NamePattern::Any => self.any.push(route),
                NamePattern::Exact(name) => self.exact.add(route, std::slice::from_ref(name)),
                NamePattern::Below(suffix) => {
                    self.depths |= 1 << labels(suffix).min(127);
                    self.below.entry(suffix.clone()).or_default().push(route);
                }
            }
        }
    }

    fn look_up<'a>(&'a self, name: Option<&str>, common: &mut Common<'a>) {
        common.add(&self.exact.without);
        if let Some(name) = name {
            common.add(&self.any);
            self.exact.look_up(name, common);
            self.look_up_suffixes(name, common);
        }
        common.close_group();
    }

    /// Looks up what `name` is below of.
    fn look_up_suffixes<'a>(&'a self, name: &str, common: &mut Common<'a>) {
        if self.depths == 0 {
            return;
        }
        let mut depth = labels(name);
        for (dot, _) in name.match_indices('.') {
            depth -= 1;
            if self.depths & (1 << depth.min(127)) != 0
                && let Some(rows) = self.below.get(&name[dot + 1..])
            {
                common.add(rows);
            }
        }
    }
}

/// How many labels a name has: at most 127.
fn labels(name: &str) -> u32 {
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    u32::try_from(dots).unwrap_or(u32::MAX - 1) + 1
}

fn net_of(origin: &Origin) -> Option<Cidr> {
    match origin {
        Origin::Net(cidr) => Some(*cidr),
        Origin::Unix => None,
    }
}

impl Sources {
    fn new(nets: CidrSet) -> Self {
        let routes = vec![Rows::default(); nets.cidrs().len()];
        Self { nets, routes, ..Self::default() }
    }

    fn add(&mut self, route: u32, origins: &[Origin]) {
        if origins.is_empty() {
            self.without.push(route);
            return;
        }
        self.is_used = true;
        for origin in origins {
            match origin {
                Origin::Unix => self.unix.push(route),
                Origin::Net(cidr) => {
                    if let Some(at) = self.nets.place(*cidr) {
                        self.routes[at].push(route);
                    }
                }
            }
        }
    }

    fn look_up<'a>(&'a self, source: Option<IpAddr>, common: &mut Common<'a>) {
        common.add(&self.without);
        match source {
            None => common.add(&self.unix),
            Some(ip) => self.nets.matches(ip).for_each(|at| common.add(&self.routes[at])),
        }
        common.close_group();
    }
}

impl Key {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sni => "sni",
            Self::Alpn => "alpn",
            Self::Tls => "tls",
            Self::Source => "source",
            Self::Port => "port",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
