//! The routing state built from one configuration.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::backend::Backend;
use super::pool::{ConnectPolicy, Member, Pool, Rotation};
use super::slots::Slots;
use crate::balance::Registry;
use crate::config::model::{self, Config, OverLimit};
use crate::net::addr::Address;
use crate::net::clock::ticks;
use crate::net::listen::ListenOptions;
use crate::net::relay::Limits;

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
    /// Where its connections go.
    pub pool: Arc<Pool>,
    /// Its limits in time.
    pub limits: Limits,
    /// Its limit in number.
    pub slots: Arc<Slots>,
    /// What happens at a limit in number.
    pub over_limit: OverLimit,
}

impl Snapshot {
    /// Builds the routing state of a validated configuration.
    ///
    /// # Errors
    ///
    /// The name of a pool or a strategy that `config` refers to and that is not there, which a
    /// validated configuration has not.
    pub fn new(config: &Config, registry: &Registry) -> Result<Self, String> {
        let ids = AtomicU32::new(0);
        let mut pools = HashMap::new();
        for (name, pool) in &config.pools {
            pools.insert(name.as_str(), Arc::new(build_pool(name, pool, registry, &ids)?));
        }
        let mut listeners = Vec::new();
        for (name, listener) in &config.listeners {
            // More than one route, and what one wants, waits for the route table.
            let [route] = listener.routes.as_slice() else { return Err(name.clone()) };
            if route.conditions != model::Match::default() {
                return Err(name.clone());
            }
            let pool = pools.get(route.pool.as_str()).ok_or_else(|| route.pool.clone())?;
            listeners.push(Arc::new(build_listener(name, listener, pool)));
        }
        let pools = config.pools.keys().filter_map(|name| pools.remove(name.as_str())).collect();
        Ok(Self { listeners, pools })
    }
}

fn build_pool(
    name: &str,
    pool: &model::Pool,
    registry: &Registry,
    ids: &AtomicU32,
) -> Result<Pool, String> {
    let entry = registry.find(&pool.strategy.name).ok_or_else(|| pool.strategy.name.clone())?;
    // A name gives no backend before it is looked up.
    let addresses = pool.backends.iter().filter_map(|one| Some((one, one.address.address()?)));
    let members = addresses.map(|(backend, address)| Member {
        backend: Arc::new(Backend {
            id: ids.fetch_add(1, Relaxed),
            name: backend.name.as_str().into(),
            address: address.clone(),
            load: Arc::default(),
            totals: Arc::default(),
        }),
        weight: backend.weight,
        max_connections: backend.max_connections,
    });
    let rotation = Rotation::new(members.collect(), entry, &pool.strategy.options);
    let connect = ConnectPolicy::new(&pool.connect, entry.name);
    Ok(Pool::new(name, connect, pool.connect.retry_budget, rotation))
}

fn build_listener(name: &str, listener: &model::Listener, pool: &Arc<Pool>) -> Listener {
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
        pool: Arc::clone(pool),
        limits: Limits {
            idle: timeouts.idle.map(ticks),
            half_closed: timeouts.half_closed.map(|d| if d.is_zero() { 0 } else { ticks(d) }),
            max_duration: timeouts.max_duration.map(ticks),
            keepalive,
            user_timeout,
        },
        slots: Arc::new(Slots::new(listener.max_connections.map(Into::into))),
        over_limit: listener.over_limit,
    }
}
