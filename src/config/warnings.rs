//! What is valid and yet can hardly be meant.
//!
//! What is suspicious about the routes of a listener is told by whoever compiles them.

use std::net::IpAddr;

use super::form::{Period, Text as _};
use super::model::{Backend, Listener, Match, Pool, is_local};
use super::places::Loaded;
use super::places::Step::{self, Item, Key};
use super::problem::{MAX_PROBLEMS, Problem, show};
use crate::net::addr::{Address, Target};
use crate::net::cidr::Origin;

/// What a configuration does not say and its warnings depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The most connections that the limit on file descriptors allows; `None`: not known.
    pub connections: Option<u32>,
}

/// Everything that is suspicious, in the order of the file; at most [`MAX_PROBLEMS`].
#[must_use]
pub fn warnings(loaded: &Loaded, facts: &Facts) -> Vec<Problem> {
    let mut told = Told { loaded, list: Vec::new() };
    let config = &loaded.config;
    check_process(facts, &mut told);
    for (name, listener) in &config.listeners {
        check_listener(&[Key("listeners"), Key(name)], listener, facts, &mut told);
    }
    for (name, pool) in &config.pools {
        let path = [Key("pools"), Key(name)];
        check_standby(&path, pool, &mut told);
        check_unused(&path, pool, &mut told);
        check_times(&path, pool, &mut told);
        let leads = |listener: &Listener| listener.routes.iter().any(|route| route.pool == *name);
        if !config.listeners.values().any(leads) {
            told.add(&path, &[], || "no listener leads to this pool".to_owned());
        }
    }
    let mut list = told.list;
    list.sort();
    list.dedup();
    list
}

/// The warnings so far.
struct Told<'l> {
    loaded: &'l Loaded,
    list: Vec<Problem>,
}

impl Told<'_> {
    /// Warns of the value at `at` below `path`.
    fn add(&mut self, path: &[Step<'_>], at: &[Step<'_>], message: impl FnOnce() -> String) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(self.loaded.places.problem(&[path, at].concat(), message()));
        }
    }

    fn has(&self, path: &[Step<'_>], at: &[Step<'_>]) -> bool {
        self.loaded.places.has(&[path, at].concat())
    }
}

fn check_process(facts: &Facts, told: &mut Told<'_>) {
    let config = &told.loaded.config;
    if let (Some(wanted), Some(most)) = (config.runtime.max_connections, facts.connections)
        && wanted.get() > most
    {
        told.add(&[Key("runtime")], &[Key("max_connections")], || {
            format!(
                "{wanted} connections need more file descriptors than there are here; {most} are \
                 possible, and the start is refused"
            )
        });
    }
    if let Some(admin) = &config.admin
        && admin.public_metrics
        && admin.token_file.is_none()
    {
        told.add(&[Key("admin")], &[Key("public_metrics")], || {
            "without token_file everything is public already".to_owned()
        });
    }
}

fn check_listener(path: &[Step<'_>], listener: &Listener, facts: &Facts, told: &mut Told<'_>) {
    if let (Some(wanted), Some(most)) = (listener.max_connections, facts.connections)
        && wanted.get() > most
    {
        told.add(path, &[Key("max_connections")], || {
            format!("{wanted} are never reached: file descriptors allow {most} connections here")
        });
    }
    if let (Some(idle), Some(keepalive)) = (listener.timeouts.idle, listener.tcp.keepalive)
        && idle < keepalive
        && listener.bind.iter().any(|address| matches!(address, Address::Tcp(_)))
    {
        told.add(path, &[Key("timeouts"), Key("idle")], || {
            let (idle, keepalive) = (Period::print(&idle), Period::print(&keepalive));
            format!(
                "an idle connection is closed after {idle}, before tcp.keepalive ({keepalive}) \
                 would ask whether its client is there"
            )
        });
    }
    let is_unix = |address: &Address| matches!(address, Address::Unix(_));
    let has_sources =
        !listener.bind.iter().all(is_unix) || !listener.accept_proxy_protocol.is_empty();
    for key in ["max_connections_per_source", "connection_rate_per_source"] {
        if !has_sources && told.has(path, &[Key(key)]) {
            told.add(path, &[Key(key)], || {
                "clients of a unix socket have no source, so this limits nobody".to_owned()
            });
        }
    }
    for (index, route) in listener.routes.iter().enumerate() {
        let pool = told.loaded.config.pools.get(&route.pool);
        if pool.is_none_or(|pool| pool.strategy.name != "source_hash" || pool.backends.len() < 2) {
            continue;
        }
        if let Some(why) = single_source(listener, &route.conditions) {
            let is_short = !told.has(path, &[Key("routes")]);
            let at = [Key("routes"), Item(index), Key("pool")];
            let at = if is_short { &at[2..] } else { &at[..] };
            told.add(path, at, || {
                format!(
                    "pool {} has the strategy source_hash, and {why}; where that is a proxy, let \
                     it send a PROXY header (accept_proxy_protocol), or take another strategy",
                    show(&route.pool)
                )
            });
        }
    }
}

/// Why all connections of a route come from one address, if they do.
fn single_source(listener: &Listener, conditions: &Match) -> Option<String> {
    if !listener.accept_proxy_protocol.is_empty() {
        return None;
    }
    let single = |origins: &[Origin]| match origins {
        [Origin::Net(cidr)] => {
            let text = cidr.to_string();
            let (ip, length) = text.split_once('/')?;
            let ip: IpAddr = ip.parse().ok()?;
            let is_one = length == if ip.is_ipv4() { "32" } else { "128" };
            is_one.then(|| format!("all its connections come from {ip}"))
        }
        _ => None,
    };
    if let Some(why) = single(&conditions.source).or_else(|| single(&listener.allow)) {
        return Some(why);
    }
    listener
        .bind
        .iter()
        .all(is_local)
        .then(|| "all its connections come from this machine".to_owned())
}

/// A hot standby in which nobody would take over.
fn check_standby(path: &[Step<'_>], pool: &Pool, told: &mut Told<'_>) {
    if !pool.strategy.is_hot_standby() {
        for key in ["failback", "failback_delay", "demotion"] {
            let has_levels = pool.backends.iter().any(|one| one.priority != first_priority(pool));
            let is_service = |one: &Backend| matches!(one.address, Target::Service(_));
            let is_used = has_levels || pool.backends.iter().any(is_service);
            if !is_used && told.has(path, &[Key("failover"), Key(key)]) {
                told.add(path, &[Key("failover"), Key(key)], || {
                    "all backends have one priority, and the strategy is not hot_standby, so \
                     nothing ever fails over"
                        .to_owned()
                });
            }
        }
        if !pool.recovery.on_takeover.is_empty() {
            told.add(path, &[Key("recovery"), Key("on_takeover")], || {
                "only a pool with the strategy hot_standby has takeovers, so these never run"
                    .to_owned()
            });
        }
        return;
    }
    if let [one] = pool.backends.as_slice()
        && one.address.address().is_some()
    {
        told.add(path, &[Key("backends")], || {
            "a hot standby with one backend has nobody to take over".to_owned()
        });
    }
    if pool.health_check.is_none() && pool.outlier_detection.is_none() {
        told.add(path, &[Key("strategy")], || {
            "without health_check and outlier_detection nobody notices that the active backend \
             fails, so none takes over by itself"
                .to_owned()
        });
    }
}

fn first_priority(pool: &Pool) -> u32 {
    pool.backends.first().map_or(0, |one| one.priority)
}

/// Keys that have no effect for want of others.
fn check_unused(path: &[Step<'_>], pool: &Pool, told: &mut Told<'_>) {
    for (index, backend) in pool.backends.iter().enumerate() {
        if backend.health_port.is_some() && pool.health_check.is_none() {
            told.add(path, &[Key("backends"), Item(index), Key("health_port")], || {
                "the pool has no health_check, so nothing looks at this port".to_owned()
            });
        }
    }
    if pool.backends.iter().all(|backend| backend.disabled) {
        told.add(path, &[Key("backends")], || {
            "every backend is disabled, so connections find none".to_owned()
        });
    }
    let is_name = |backend: &Backend| backend.address.address().is_none();
    if told.has(path, &[Key("resolve")]) && !pool.backends.iter().any(is_name) {
        told.add(path, &[Key("resolve")], || {
            "no backend of this pool is a name, so nothing is looked up".to_owned()
        });
    }
    if pool.queue.is_some() && pool.backends.iter().any(|one| one.max_connections.is_none()) {
        told.add(path, &[Key("queue")], || {
            "a backend without max_connections is never full, so none waits while it is usable"
                .to_owned()
        });
    }
}

/// Times that are never reached.
fn check_times(path: &[Step<'_>], pool: &Pool, told: &mut Told<'_>) {
    let connect = &pool.connect;
    if connect.deadline < connect.timeout {
        told.add(path, &[Key("connect"), Key("timeout")], || {
            let (timeout, deadline) =
                (Period::print(&connect.timeout), Period::print(&connect.deadline));
            format!("an attempt never gets {timeout}: connect.deadline ({deadline}) is over first")
        });
    }
    if let Some(hedge) = connect.hedge
        && hedge >= connect.timeout
        && told.has(path, &[Key("connect"), Key("hedge")])
    {
        told.add(path, &[Key("connect"), Key("hedge")], || {
            let (hedge, timeout) = (Period::print(&hedge), Period::print(&connect.timeout));
            format!("no attempt lasts {hedge}: connect.timeout ({timeout}) is over first")
        });
    }
}

#[cfg(test)]
mod tests;
