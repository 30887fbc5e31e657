//! Tests only: every configuration that can be, written as YAML, is read as the same.

mod connect;
mod health;
mod listener;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::hash_set;
use proptest::option;
use proptest::prelude::*;

use super::model::{AccessLog, Action, Backend, Config, EvictedConnections, Listener, Log};
use super::model::{LogFormat, LogLevel, Pool, Runtime, Source, Strategy as Named, Tcp};
use super::tests::{config, registry};
use crate::net::addr::{Address, Target};

fn millis(from: u64, to: u64) -> impl Strategy<Value = Duration> {
    (from..=to).prop_map(Duration::from_millis)
}

fn count() -> impl Strategy<Value = Option<NonZeroU32>> {
    any::<u32>().prop_map(NonZeroU32::new)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[A-Za-z0-9_.-]{1,12}", "null|off|true|0x1f|017|1e3|auto|no|-|\\.|--"]
}

fn log() -> impl Strategy<Value = Log> {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    let format = prop::sample::select(vec![LogFormat::Text, LogFormat::Json]);
    let level = prop::sample::select(vec![Error, Warn, Info, Debug, Trace]);
    let file = "/[a-z #]{0,8}[a-z]".prop_map(|path| AccessLog::File(path.into()));
    let access = option::of(prop_oneof![Just(AccessLog::Stdout), file]);
    (format, level, access).prop_map(|(format, level, access)| Log { format, level, access })
}

fn runtime() -> impl Strategy<Value = Runtime> {
    let threads = (0..=1024_u32).prop_map(NonZeroU32::new);
    (threads, option::of(millis(0, 1 << 40)), count()).prop_map(
        |(threads, shutdown_grace, max_connections)| {
            let shutdown_grace = shutdown_grace.map(|grace| grace.min(super::unit::LONGEST));
            Runtime { threads, shutdown_grace, max_connections }
        },
    )
}

fn backend(name: String) -> impl Strategy<Value = Backend> {
    let health = (option::of(1..=u16::MAX), any::<bool>(), 0..=Backend::MAX_PRIORITY);
    (connect::target(), 1..=Backend::MAX_WEIGHT, count(), health).prop_map(
        move |(address, mut weight, max_connections, (health_port, disabled, mut priority))| {
            // Unnamed backends are left out: their name is no name that can be written.
            let name = name.clone();
            let is_unix = matches!(address, Target::Address(Address::Unix(_)));
            let health_port = health_port.filter(|_| !is_unix);
            if matches!(address, Target::Service(_)) {
                (weight, priority) = (1, 0);
            }
            Backend { address, name, weight, max_connections, health_port, disabled, priority }
        },
    )
}

fn pool() -> impl Strategy<Value = Pool> {
    let names: Vec<&str> = registry().entries().iter().map(|entry| entry.name).collect();
    let strategy = prop::sample::select(names)
        .prop_map(|name| Named { name: name.to_owned(), ..Named::default() });
    let backends = hash_set(name(), 1..5)
        .prop_flat_map(|names| names.into_iter().map(backend).collect::<Vec<_>>());
    let health = (option::of(health::health_check()), option::of(health::outlier_detection()));
    let evicted = vec![EvictedConnections::Keep, EvictedConnections::Close];
    let slow_start = option::of(millis(1, 86_400_000));
    let policy = (prop::sample::select(evicted), slow_start, 0..=100_u32);
    let connect = (connect::connect(), connect::resolve(), connect::queue());
    (strategy, backends, connect, health, policy, health::failover(), health::recovery()).prop_map(
        |(strategy, backends, connect, health, policy, failover, recovery)| Pool {
            strategy,
            backends,
            connect: connect.0,
            resolve: connect.1,
            queue: connect.2,
            health_check: health.0,
            outlier_detection: health.1,
            evicted_connections: policy.0,
            slow_start: policy.1,
            panic_threshold: policy.2,
            failover,
            recovery,
        },
    )
}

fn any_config() -> impl Strategy<Value = Config> {
    let pools = hash_set(name(), 1..4).prop_flat_map(|names| {
        names.into_iter().map(|name| (Just(name), pool())).collect::<Vec<_>>()
    });
    let listeners = hash_set(name(), 1..4).prop_flat_map(|names| {
        let with_listener = |(index, name)| (Just(name), listener::listener(index));
        names.into_iter().enumerate().map(with_listener).collect::<Vec<_>>()
    });
    let state_file = option::of("/[a-z #:]{0,9}[a-z]".prop_map(PathBuf::from));
    let process = (connect::admin(), state_file, runtime(), log());
    (process, listeners, pools).prop_map(|(process, mut listeners, mut pools)| {
        let (admin, state_file, runtime, log) = process;
        pools.iter_mut().for_each(|(_, pool)| only_fitting_sources(pool));
        pools.iter_mut().for_each(|(_, pool)| only_fitting_health(pool));
        listeners.iter_mut().for_each(|(_, listener)| only_fitting_options(listener));
        for (index, (_, listener)) in listeners.iter_mut().enumerate() {
            for (at, route) in listener.routes.iter_mut().enumerate() {
                route.pool.clone_from(&pools[(index + at) % pools.len()].0);
            }
        }
        let (listeners, pools) = (listeners.into_iter().collect(), pools.into_iter().collect());
        Config { admin, state_file, runtime, log, listeners, pools }
    })
}

/// Sources that no backend could be connected to from are refused.
fn only_fitting_sources(pool: &mut Pool) {
    let is_v4 = |address: &Address| match address {
        Address::Tcp(to) => Some(to.is_ipv4()),
        Address::Unix(_) => None,
    };
    // What a name stands for is not known.
    let Some(addresses): Option<Vec<_>> =
        pool.backends.iter().map(|backend| backend.address.address()).collect()
    else {
        return;
    };
    let families: Vec<_> = addresses.into_iter().filter_map(is_v4).collect();
    match &mut pool.connect.source {
        Source::Addresses(sources) => {
            sources.retain(|source| families.contains(&source.is_ipv4()));
        }
        Source::Client if families.is_empty() => pool.connect.source = Source::default(),
        Source::Client => {}
    }
}

/// So are a port to check where nothing has one, and traffic that waits where none is active.
fn only_fitting_health(pool: &mut Pool) {
    let is_unix = |one: &Backend| matches!(one.address, Target::Address(Address::Unix(_)));
    let has_tcp = !pool.backends.iter().all(is_unix);
    if let Some(check) = pool.health_check.as_mut().filter(|_| !has_tcp) {
        check.port = None;
    }
    if !pool.strategy.is_hot_standby() {
        for action in &mut pool.recovery.on_takeover {
            if let Action::Exec(exec) = action {
                exec.before_traffic = false;
            }
        }
    }
}

/// So are options of TCP where only unix sockets are bound.
fn only_fitting_options(listener: &mut Listener) {
    if listener.bind.iter().all(|address| matches!(address, Address::Unix(_))) {
        listener.tcp = Tcp { defer_accept: None, fast_open: false, ..listener.tcp.clone() };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_configuration_survives_the_round_trip(original in any_config()) {
        let mut bytes = Vec::new();
        // As maps: by themselves choices with options would be written with tags.
        let mut yaml = serde_yaml::Serializer::new(&mut bytes);
        serde_yaml::with::singleton_map_recursive::serialize(&original, &mut yaml).unwrap();
        let text = String::from_utf8(bytes).unwrap().replace("${", "$${");
        prop_assert_eq!(config(&text), original, "{}", text);
    }
}
