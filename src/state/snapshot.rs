//! The routing state built from one configuration.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::counters::ListenerCounters;
use super::pool::{ConnectPolicy, Detection, Live, Pool};
use super::route::{Match, Routes};
use super::slots::Slots;
use super::sources::{SourceLimits, Sources};
use crate::config::model::{self, Config, OverLimit};
use crate::net::addr::Address;
use crate::net::cidr::{Origin, Origins};
use crate::net::clock::{Tick, ticks};
use crate::net::listen::ListenOptions;
use crate::net::relay::Limits;

/// How long connections wait for a new active backend where no queue is configured, in milliseconds.
const HOLD: Tick = 3_000;

/// Listeners and pools; immutable.
#[derive(Debug)]
pub struct Snapshot {
    /// In the order of the configuration.
    pub listeners: Vec<Arc<Listener>>,
    /// In the order of the configuration.
    pub pools: Vec<Arc<Pool>>,
}

/// A listener as the data path sees it.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is bound.
    pub bind: Vec<Address>,
    /// How its sockets are opened.
    pub options: ListenOptions,
    /// Which route a connection takes.
    pub routes: Routes,
    /// Where each route leads.
    pub pools: Vec<Arc<Pool>>,
    /// Whether any route has a condition; without, all connections take the first.
    pub has_conditions: bool,
    /// Peers that must send a PROXY header.
    pub proxies: Option<Origins>,
    /// Longest time until that and the ClientHello are in.
    pub peek: Tick,
    /// Who is refused.
    pub deny: Option<Origins>,
    /// Who alone is not.
    pub allow: Option<Origins>,
    /// Its limits for each source.
    pub source_limits: SourceLimits,
    /// Its connections by source.
    pub sources: Arc<Sources>,
    /// Its limits in time, and the bandwidth of each connection.
    pub limits: Limits,
    /// Its limit in number: in force with [`Snapshot::take_effect`].
    pub max_connections: Option<u32>,
    /// Its open connections.
    pub slots: Arc<Slots>,
    /// What it counts.
    pub counters: Arc<ListenerCounters>,
    /// What happens at a limit in number.
    pub over_limit: OverLimit,
}

/// Where connections come in at: a listening socket leads to whatever listener is in force there.
#[derive(Debug)]
pub struct Entrance(ArcSwap<Listener>);

impl Entrance {
    /// An entrance to `listener`.
    #[must_use]
    pub fn new(listener: Arc<Listener>) -> Self {
        Self(ArcSwap::new(listener))
    }

    /// The listener in force.
    #[must_use]
    pub fn listener(&self) -> Guard<Arc<Listener>> {
        self.0.load()
    }

    /// Puts another listener in force, for the connections to come.
    pub fn lead_to(&self, listener: Arc<Listener>) {
        self.0.store(listener);
    }
}

impl Snapshot {
    /// Builds the routing state of a validated configuration. Its new pools have nobody in rotation
    /// yet; listeners and pools that `before` has under the same names keep what lives on: open
    /// connections, limits, counters, rotations.
    ///
    /// # Errors
    ///
    /// The name of a pool that `config` refers to and that is not there, which a validated
    /// configuration has not.
    pub fn new(config: &Config, before: Option<&Self>) -> Result<Self, String> {
        let mut pools = HashMap::new();
        for (name, pool) in &config.pools {
            let live =
                before.and_then(|before| before.pool(name)).map(|pool| Arc::clone(&pool.live));
            pools.insert(name.as_str(), Arc::new(build_pool(name, pool, live)));
        }
        let mut listeners = Vec::new();
        for (name, listener) in &config.listeners {
            let pool_of = |route: &model::Route| {
                pools.get(route.pool.as_str()).cloned().ok_or_else(|| route.pool.clone())
            };
            let own = listener.routes.iter().map(pool_of).collect::<Result<Vec<_>, _>>()?;
            let known = before.and_then(|before| before.listener(name));
            listeners.push(Arc::new(build_listener(name, listener, (own, known))));
        }
        let pools = config.pools.keys().filter_map(|name| pools.remove(name.as_str())).collect();
        Ok(Self { listeners, pools })
    }

    /// The pool of this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| &*pool.name == name)
    }

    /// The listener of this name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }

    /// Sets the limits that live on as this configuration has them.
    pub fn take_effect(&self) {
        self.listeners.iter().for_each(|l| l.slots.set_limit(l.max_connections));
    }
}

fn build_pool(name: &str, pool: &model::Pool, live: Option<Arc<Live>>) -> Pool {
    let is_hot_standby = pool.strategy.is_hot_standby();
    let detection = pool.outlier_detection.as_ref().map(|outlier| Detection {
        consecutive_failures: outlier.consecutive_failures,
        first_byte: outlier.first_byte.map(ticks),
    });
    Pool {
        name: name.into(),
        is_hot_standby,
        connect: ConnectPolicy::new(&pool.connect, is_hot_standby),
        detection,
        hold: pool.queue.as_ref().map_or(HOLD, |queue| ticks(queue.timeout)),
        queue: pool.queue.as_ref().map(|queue| (queue.max.get(), ticks(queue.timeout))),
        live: live.unwrap_or_default(),
    }
}

fn origins(origins: &[Origin]) -> Option<Origins> {
    (!origins.is_empty()).then(|| Origins::new(origins))
}

fn match_of(conditions: &model::Match) -> Match {
    Match {
        sni: conditions.sni.clone(),
        alpn: conditions.alpn.iter().map(|token| token.as_bytes().into()).collect(),
        tls: conditions.tls,
        source: conditions.source.clone(),
        port: conditions.port.clone(),
    }
}

fn build_listener(
    name: &str,
    listener: &model::Listener,
    (pools, known): (Vec<Arc<Pool>>, Option<&Arc<Listener>>),
) -> Listener {
    let max_connections = listener.max_connections.map(Into::into);
    let model::Tcp { nodelay, keepalive, user_timeout, backlog, defer_accept, fast_open } =
        listener.tcp;
    let timeouts = &listener.timeouts;
    Listener {
        name: name.into(),
        bind: listener.bind.clone(),
        options: ListenOptions {
            nodelay,
            keepalive,
            user_timeout,
            backlog,
            defer_accept,
            fast_open,
        },
        has_conditions: listener.routes.iter().any(|r| r.conditions != model::Match::default()),
        routes: Routes::new(listener.routes.iter().map(|r| match_of(&r.conditions)).collect()),
        pools,
        proxies: origins(&listener.accept_proxy_protocol),
        peek: ticks(timeouts.peek),
        deny: origins(&listener.deny),
        allow: origins(&listener.allow),
        source_limits: SourceLimits {
            connections: listener.max_connections_per_source,
            rate: listener.connection_rate_per_source.and_then(|rate| NonZeroU32::new(rate.0)),
        },
        sources: known.map(|known| Arc::clone(&known.sources)).unwrap_or_default(),
        limits: Limits {
            idle: timeouts.idle.map(ticks),
            half_closed: timeouts.half_closed.map(|d| if d.is_zero() { 0 } else { ticks(d) }),
            max_duration: timeouts.max_duration.map(ticks),
            keepalive,
            user_timeout,
            bandwidth: (
                listener.bandwidth.inward.map(|rate| rate.0),
                listener.bandwidth.outward.map(|rate| rate.0),
            ),
        },
        max_connections,
        slots: known.map_or_else(
            || Arc::new(Slots::new(max_connections)),
            |known| Arc::clone(&known.slots),
        ),
        counters: known.map(|known| Arc::clone(&known.counters)).unwrap_or_default(),
        over_limit: listener.over_limit,
    }
}
