//! Routes that are valid and yet can hardly be meant.

use std::fmt;

use super::{Common, Key, Match, Routes};
use crate::net::cidr::Origin;
use crate::net::name::NamePattern;

/// Earlier routes that are compared with one, at most: a warning is no reason to be slow.
const MOST_COMPARED: usize = 64;

/// What is strange about a route. Routes are named by their places in the list, from 0 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Whatever would match it matches an earlier route.
    Covered {
        /// The route.
        route: usize,
        /// The earlier ones, in order.
        by: Vec<usize>,
    },
    /// One of its names only matches what an earlier route matches already.
    Shadowed {
        /// The route.
        route: usize,
        /// The name.
        name: NamePattern,
        /// The earlier route.
        by: usize,
    },
    /// Its keys contradict each other: `tls: false` beside the one named.
    Contradiction {
        /// The route.
        route: usize,
        /// The other key.
        key: Key,
    },
    /// None of its ports is one of the listener's.
    OtherPorts {
        /// The route.
        route: usize,
    },
}

impl Suspicion {
    /// The route it is about.
    #[must_use]
    pub fn route(&self) -> usize {
        match self {
            Self::Covered { route, .. }
            | Self::Shadowed { route, .. }
            | Self::Contradiction { route, .. }
            | Self::OtherPorts { route } => *route,
        }
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Covered { by, .. } => {
                let routes: Vec<_> = by.iter().map(|by| format!("routes[{by}]")).collect();
                let routes = routes.join(" and ");
                write!(f, "this route can never match: {routes} before it takes all of it")
            }
            Self::Shadowed { name, by, .. } => {
                write!(f, "\"{name}\" can never match here: routes[{by}] before it takes it")
            }
            Self::Contradiction { key, .. } => write!(
                f,
                "this route can never match: what is no TLS has no {key}, so leave out `tls: false`"
            ),
            Self::OtherPorts { .. } => f.write_str(
                "this route can never match: the listener is bound to none of its ports",
            ),
        }
    }
}

impl Routes {
    /// What is suspicious, in the order of the routes. `ports` are the listener's; none if they are
    /// not known before it is bound.
    ///
    /// Says nothing of a route that only several earlier ones together cover by their sources, ports
    /// or protocols. Costs a look-up for each name.
    #[must_use]
    pub fn suspicions(&self, ports: &[u16]) -> Vec<Suspicion> {
        (0..self.matches.len()).flat_map(|route| self.suspicions_of(route, ports)).collect()
    }

    fn suspicions_of(&self, route: usize, ports: &[u16]) -> Vec<Suspicion> {
        let one = &self.matches[route];
        if one.tls == Some(false)
            && let Some(key) = [Key::Sni, Key::Alpn].into_iter().find(|key| one.has(*key))
        {
            return vec![Suspicion::Contradiction { route, key }];
        }
        let is_bound = |port: &u16| ports.is_empty() || ports.contains(port);
        if one.has(Key::Port) && !one.port.iter().any(is_bound) {
            return vec![Suspicion::OtherPorts { route }];
        }
        if one.sni.is_empty() {
            let by = self.covering(route, None);
            return by.map(|by| Suspicion::Covered { route, by: vec![by] }).into_iter().collect();
        }
        let shadows: Vec<_> = one
            .sni
            .iter()
            .filter_map(|name| Some((name, self.covering(route, Some(name))?)))
            .collect();
        if shadows.len() == one.sni.len() {
            let mut by: Vec<_> = shadows.iter().map(|(_, by)| *by).collect();
            by.sort_unstable();
            by.dedup();
            return vec![Suspicion::Covered { route, by }];
        }
        let shadowed = |(name, by): (&NamePattern, usize)| {
            let name = name.clone();
            Suspicion::Shadowed { route, name, by }
        };
        shadows.into_iter().map(shadowed).collect()
    }

    /// The first route before `route` that takes all of it, or of it with `name` alone.
    fn covering(&self, route: usize, name: Option<&NamePattern>) -> Option<usize> {
        let one = &self.matches[route];
        let mut common = Common::default();
        if self.sni.is_used() {
            common.add(&self.sni.exact.without);
            if let Some(pattern) = name {
                common.add(&self.sni.any);
                self.sni.add_covering(pattern, &mut common);
            }
            common.close_group();
        }
        if self.source.is_used {
            common.add(&self.source.without);
            match one.source.first() {
                Some(Origin::Unix) => common.add(&self.source.unix),
                Some(Origin::Net(cidr)) => {
                    let nets = self.source.nets.covering(*cidr);
                    nets.for_each(|at| common.add(&self.source.routes[at]));
                }
                None => {}
            }
            common.close_group();
        }
        let earlier: Box<dyn Iterator<Item = usize>> =
            if common.has_groups() { Box::new(common) } else { Box::new(0..route) };
        let mut earlier = earlier.take_while(|other| *other < route).take(MOST_COMPARED);
        earlier.find(|other| self.covers(*other, one))
    }

    /// Whether `other` has no key that could fail where all of `one` hold, names aside.
    fn covers(&self, other: usize, one: &Match) -> bool {
        let wide = &self.matches[other];
        let has_hello = match one.tls {
            None if one.needs_hello() => Some(true),
            tls => tls,
        };
        let is_subset = |narrow: &[u16], wide: &[u16]| narrow.iter().all(|p| wide.contains(p));
        (wide.tls.is_none() || wide.tls == has_hello)
            && (wide.port.is_empty()
                || has_all(one.has(Key::Port), is_subset(&one.port, &wide.port)))
            && (wide.alpn.is_empty()
                || has_all(one.has(Key::Alpn), one.alpn.iter().all(|p| wide.alpn.contains(p))))
            && (wide.source.is_empty()
                || has_all(
                    one.has(Key::Source),
                    one.source.iter().all(|origin| self.source.covers(other, *origin)),
                ))
    }
}

/// A key that one has not is not covered by one that has it.
fn has_all(has_key: bool, all: bool) -> bool {
    has_key && all
}

impl super::Names {
    fn add_covering<'a>(&'a self, pattern: &NamePattern, common: &mut Common<'a>) {
        match pattern {
            NamePattern::Any => {}
            NamePattern::Exact(name) => {
                self.exact.look_up(&**name, common);
                self.look_up_suffixes(name, common);
            }
            NamePattern::Below(suffix) => {
                if let Some(rows) = self.below.get(suffix) {
                    common.add(rows);
                }
                self.look_up_suffixes(suffix, common);
            }
        }
    }
}

impl super::Sources {
    /// Whether a route has a source that covers `origin`.
    fn covers(&self, route: usize, origin: Origin) -> bool {
        let Ok(route) = u32::try_from(route) else { return false };
        match origin {
            Origin::Unix => self.unix.contains(route),
            Origin::Net(cidr) => self.nets.covering(cidr).any(|at| self.routes[at].contains(route)),
        }
    }
}
