//! The routing state built from one configuration.

use std::collections::HashMap;
use std::sync::Arc;

use super::pool::{ConnectPolicy, Detection, Pool};
use super::slots::Slots;
use crate::config::model::{self, Config, OverLimit};
use crate::net::addr::Address;
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
    /// Builds the routing state of a validated configuration. Its pools have nobody in rotation yet.
    ///
    /// # Errors
    ///
    /// The name of a pool that `config` refers to and that is not there, which a validated
    /// configuration has not.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut pools = HashMap::new();
        for (name, pool) in &config.pools {
            pools.insert(name.as_str(), Arc::new(build_pool(name, pool)));
        }
        let mut listeners = Vec::new();
        for (name, listener) in &config.listeners {
            let pool = pools.get(listener.pool.as_str()).ok_or_else(|| listener.pool.clone())?;
            listeners.push(Arc::new(build_listener(name, listener, pool)));
        }
        let pools = config.pools.keys().filter_map(|name| pools.remove(name.as_str())).collect();
        Ok(Self { listeners, pools })
    }
}

fn build_pool(name: &str, pool: &model::Pool) -> Pool {
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
        hold: HOLD,
        live: Arc::default(),
    }
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
