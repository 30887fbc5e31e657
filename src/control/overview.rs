//! Answers about everything at once: the status, what there is to be measured, what would be chosen.

use std::net::IpAddr;
use std::sync::Arc;

use super::answers::backend_status;
use super::controller::Controller;
use super::fate::{PANIC, fate, nobody};
use super::handle::{Error, Explain, ExplainedCandidate, Explanation, ListenerStatus, Status};
use super::pool::Controlled;
use crate::balance::{Request, Tried};
use crate::config::did_you_mean;
use crate::config::model::Config;
use crate::metrics::{BackendView, ListenerView, PoolView, View};
use crate::net::cidr::Origins;
use crate::net::client_hello::ClientHello;
use crate::net::name::host_name;
use crate::state::route::Caller;
use crate::state::{Listener, Rotation};

impl Controller {
    /// Everything there is.
    pub(super) fn status(&self) -> Status {
        let bound = self.host.addresses();
        let addresses = |listener: &Listener| {
            let own = bound.iter().filter(|(name, _)| **name == *listener.name);
            own.map(|(_, address)| address.to_string()).collect()
        };
        let listeners = self.snapshot.listeners.iter().map(|listener| ListenerStatus {
            name: Arc::clone(&listener.name),
            addresses: addresses(listener),
            connections_active: listener.counters.active(),
            connections_total: listener.counters.accepted(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.now() / 1000,
            config_hash: hash(&self.config.load()),
            listeners: listeners.collect(),
            pools: (0..self.pools.len()).map(|index| self.pool_status(index)).collect(),
        }
    }

    /// What there is to be measured.
    pub(super) fn measures(&self) -> View {
        let listeners = self.snapshot.listeners.iter().map(|listener| ListenerView {
            name: Arc::clone(&listener.name),
            counters: Arc::clone(&listener.counters),
        });
        View {
            listeners: listeners.collect(),
            pools: self.pools.iter().map(pool_view).collect(),
            process: Arc::clone(&self.counters),
        }
    }

    /// The port of a listener that has only one.
    fn port_of(&self, listener: &Listener) -> Option<u16> {
        let bound = self.host.addresses();
        let own = bound.iter().filter(|(name, _)| **name == *listener.name);
        let mut ports: Vec<u16> = own.filter_map(|(_, address)| address.port()).collect();
        ports.dedup();
        if let [port] = ports[..] { Some(port) } else { None }
    }

    /// What would be chosen now, and why. Moves no counter.
    pub(super) fn explain(&self, question: &Explain) -> Result<Explanation, Error> {
        let name = &question.listener;
        let listener = self.snapshot.listener(name);
        let listener = listener.ok_or_else(|| {
            let known = self.snapshot.listeners.iter().map(|listener| &*listener.name);
            let hint = did_you_mean(name, known);
            Error::Unknown(format!("no listener is called {name:?}; {hint}"))
        })?;
        if let Some(refusal) = refusal(listener, question.source) {
            return Ok(Explanation {
                listener: Arc::clone(&listener.name),
                route: None,
                pool: None,
                candidates: Vec::new(),
                pick: None,
                why: refusal,
            });
        }
        let port = self.port_of(listener);
        let hello = question
            .sni
            .as_ref()
            .map(|name| ClientHello { sni: host_name(name.as_bytes()), ..ClientHello::default() });
        let caller = Caller { source: Some(question.source), port, hello: hello.as_ref() };
        let Some(route) = listener.routes.first_match(&caller) else {
            return Ok(Explanation {
                listener: Arc::clone(&listener.name),
                route: None,
                pool: None,
                candidates: Vec::new(),
                pick: None,
                why: why_no_route(listener, &caller),
            });
        };
        let target = listener.pools.get(route).ok_or(Error::Gone)?;
        let pool = self.pools.iter().find(|pool| pool.name() == &target.name);
        let pool = pool.ok_or(Error::Gone)?;
        let rotation = target.live.rotation();
        let pick = pick(&rotation, question, (target.live.peek_turn(), self.now()));
        let why = match &pick {
            Some(_) if pool.keeper.choice.is_panic => {
                format!("{}, among all: {PANIC}", pool.entry.name)
            }
            Some(_) => format!("{}: {}", pool.entry.name, pool.entry.summary),
            None if rotation.is_empty() => nobody(pool),
            None => "every backend in rotation is at its max_connections".to_owned(),
        };
        let at = self.now();
        let candidates = pool.keeper.nodes.iter().map(|node| {
            let status = backend_status(pool, node, at);
            let reason = fate(pool, &rotation, (node, &status.reason));
            ExplainedCandidate { backend: status.name, usable: status.usable, reason }
        });
        Ok(Explanation {
            listener: Arc::clone(&listener.name),
            route: Some(route),
            pool: Some(Arc::clone(pool.name())),
            candidates: candidates.collect(),
            pick,
            why,
        })
    }
}

/// Why a client of this address is refused, if it is.
fn refusal(listener: &Listener, source: IpAddr) -> Option<String> {
    let holds = |origins: &Option<Origins>| {
        origins.as_ref().map(|origins| origins.contains(Some(source.to_canonical())))
    };
    if holds(&listener.deny) == Some(true) {
        return Some(format!("denied: {source} is within deny"));
    }
    (holds(&listener.allow) == Some(false)).then(|| format!("denied: {source} is not within allow"))
}

/// Which keys of each route do not hold.
fn why_no_route(listener: &Listener, caller: &Caller<'_>) -> String {
    let words = |route: usize| {
        let misses = listener.routes.misses(route, caller);
        let keys: Vec<_> = misses.iter().map(|key| key.as_str()).collect();
        format!("route {route}: {} does not hold", keys.join(", "))
    };
    let all: Vec<_> = (0..listener.pools.len()).map(words).collect();
    format!("no route matches: {}", all.join("; "))
}

/// Whom the data path would pick: the strategy's choice, those that are full left out.
fn pick(rotation: &Rotation, question: &Explain, (turn, now): (u64, u64)) -> Option<Arc<str>> {
    let mut tried = Tried::default();
    rotation.full().for_each(|id| tried.insert(id));
    let request = Request {
        source: Some(question.source),
        turn,
        random: fastrand::u64(..),
        now_ms: u32::try_from(now & u64::from(u32::MAX)).unwrap_or(0),
        tried: &tried,
    };
    let picked = rotation.pick(&request).filter(|member| !tried.contains(member.backend.id));
    picked.map(|member| Arc::clone(&member.backend.name))
}

fn pool_view(pool: &Controlled) -> PoolView {
    let backends = pool.keeper.nodes.iter().filter_map(|node| {
        let backend = &pool.backings.get(&node.id)?.backend;
        Some(BackendView {
            name: Arc::clone(&node.name),
            address: Arc::clone(&node.address),
            state: node.health.state(),
            in_rotation: pool.is_in_rotation(node.id),
            load: Arc::clone(&backend.load),
            totals: Arc::clone(&backend.totals),
            counters: Arc::clone(&backend.counters),
        })
    });
    PoolView {
        name: Arc::clone(pool.name()),
        is_hot_standby: pool.pool.is_hot_standby,
        active: pool.active().and_then(|id| pool.name_of(id)),
        counters: Arc::clone(&pool.pool.live.counters),
        backends: backends.collect(),
    }
}

/// A short name of a configuration: the same for the same content, whatever its layout.
fn hash(config: &Config) -> String {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher::new();
    // What cannot be written as JSON is told apart by nothing; a configuration can.
    hasher.write(&serde_json::to_vec(config).unwrap_or_default());
    format!("{:016x}", hasher.finish())
}
