//! Tests only: every configuration that can be, written as YAML, is read as the same.

mod health;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::{hash_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::model::{
    Action, Backend, Config, Connect, EvictedConnections, Listener, Log, LogFormat,
};
use super::model::{LogLevel, OverLimit, Pool, Runtime, Strategy as Named, Tcp, Timeouts};
use super::tests::{config, registry};
use crate::net::addr::Address;

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
    (format, level).prop_map(|(format, level)| Log { format, level })
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

fn tcp() -> impl Strategy<Value = Tcp> {
    let keepalive = option::of(millis(1_000, 32_767_000));
    let user_timeout = option::of(millis(1, 24 * 86_400_000));
    let defer_accept = option::of(millis(1_000, 3_600_000));
    (any::<bool>(), keepalive, user_timeout, 1..=65_535_u32, defer_accept, any::<bool>()).prop_map(
        |(nodelay, keepalive, user_timeout, backlog, defer_accept, fast_open)| Tcp {
            nodelay,
            keepalive,
            user_timeout,
            backlog,
            defer_accept,
            fast_open,
        },
    )
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let long = || option::of(millis(1, 1 << 38));
    (long(), option::of(millis(0, 1 << 20)), long())
        .prop_map(|(idle, half_closed, max_duration)| Timeouts { idle, half_closed, max_duration })
}

/// Listens at ports that no backend is at, and where no other listener is.
fn listener(index: usize) -> impl Strategy<Value = Listener> {
    let over_limit = prop::sample::select(vec![OverLimit::Wait, OverLimit::Close]);
    (1..4_usize, tcp(), timeouts(), count(), over_limit).prop_map(
        move |(addresses, tcp, timeouts, max_connections, over_limit)| {
            let bind = |at: usize| match at {
                0 => Address::Unix(format!("/run/tidegate {index}.sock").into()),
                1 => Address::Tcp(format!("[::]:{}", 100 + index).parse().unwrap()),
                at => Address::Tcp(format!("0.0.0.0:{}", 100 * at + index).parse().unwrap()),
            };
            Listener {
                bind: (0..addresses).map(bind).collect(),
                pool: String::new(),
                tcp,
                timeouts,
                max_connections,
                over_limit,
            }
        },
    )
}

fn backend(name: String) -> impl Strategy<Value = Backend> {
    let tcp =
        (any::<IpAddr>(), 1_000..=u16::MAX).prop_map(|(ip, port)| Address::Tcp((ip, port).into()));
    let unix = "/[a-z #:{}'\"]{1,20}".prop_map(|path| Address::Unix(path.into()));
    let health = (option::of(1..=u16::MAX), any::<bool>(), 0..=Backend::MAX_PRIORITY);
    (prop_oneof![tcp, unix], 1..=Backend::MAX_WEIGHT, count(), health).prop_map(
        move |(address, weight, max_connections, (health_port, disabled, priority))| {
            // Unnamed backends are left out: their name is no name that can be written.
            let name = name.clone();
            let health_port = health_port.filter(|_| matches!(address, Address::Tcp(_)));
            Backend { address, name, weight, max_connections, health_port, disabled, priority }
        },
    )
}

fn connect() -> impl Strategy<Value = Connect> {
    let short = || millis(1, 3_600_000);
    let source = vec(any::<IpAddr>(), 0..3);
    (short(), 1..=100_u32, option::of(short()), short(), 0..=100_u32, source).prop_map(
        |(timeout, attempts, hedge, deadline, retry_budget, source)| Connect {
            timeout,
            attempts,
            hedge,
            deadline,
            retry_budget,
            source,
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
    (strategy, backends, connect(), health, policy, health::failover(), health::recovery())
        .prop_map(|(strategy, backends, connect, health, policy, failover, recovery)| Pool {
            strategy,
            backends,
            connect,
            health_check: health.0,
            outlier_detection: health.1,
            evicted_connections: policy.0,
            slow_start: policy.1,
            panic_threshold: policy.2,
            failover,
            recovery,
        })
}

fn any_config() -> impl Strategy<Value = Config> {
    let pools = hash_set(name(), 1..4).prop_flat_map(|names| {
        names.into_iter().map(|name| (Just(name), pool())).collect::<Vec<_>>()
    });
    let listeners = hash_set(name(), 1..4).prop_flat_map(|names| {
        let with_listener = |(index, name)| (Just(name), listener(index));
        names.into_iter().enumerate().map(with_listener).collect::<Vec<_>>()
    });
    let state_file = option::of("/[a-z #:]{0,9}[a-z]".prop_map(PathBuf::from));
    let process = (state_file, runtime(), log());
    (process, listeners, pools).prop_map(|(process, mut listeners, mut pools)| {
        let (state_file, runtime, log) = process;
        pools.iter_mut().for_each(|(_, pool)| only_fitting_sources(pool));
        pools.iter_mut().for_each(|(_, pool)| only_fitting_health(pool));
        listeners.iter_mut().for_each(|(_, listener)| only_fitting_options(listener));
        for (index, (_, listener)) in listeners.iter_mut().enumerate() {
            listener.pool.clone_from(&pools[index % pools.len()].0);
        }
        let (listeners, pools) = (listeners.into_iter().collect(), pools.into_iter().collect());
        Config { state_file, runtime, log, listeners, pools }
    })
}

/// Sources that no backend could be connected to from are refused.
fn only_fitting_sources(pool: &mut Pool) {
    let is_v4 = |backend: &Backend| match &backend.address {
        Address::Tcp(to) => Some(to.is_ipv4()),
        Address::Unix(_) => None,
    };
    let families: Vec<_> = pool.backends.iter().filter_map(is_v4).collect();
    pool.connect.source.retain(|source| families.contains(&source.is_ipv4()));
}

/// So are a port to check where nothing has one, and traffic that waits where none is active.
fn only_fitting_health(pool: &mut Pool) {
    let has_tcp = pool.backends.iter().any(|one| matches!(one.address, Address::Tcp(_)));
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
