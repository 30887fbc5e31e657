//! Everything that the keys of connections to backends can be.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::millis;
use crate::config::model::{Admin, Connect, Queue, Resolve, SendProxyProtocol, Source};
use crate::net::addr::{Address, Target};

pub(super) fn connect() -> impl Strategy<Value = Connect> {
    let short = || millis(1, 3_600_000);
    let addresses = vec(any::<IpAddr>(), 0..3).prop_map(Source::Addresses);
    let source = prop_oneof![4 => addresses, 1 => Just(Source::Client)];
    let send = vec![SendProxyProtocol::Off, SendProxyProtocol::V1, SendProxyProtocol::V2];
    let send = prop::sample::select(send);
    (short(), 1..=100_u32, option::of(short()), short(), 0..=100_u32, source, send).prop_map(
        |(timeout, attempts, hedge, deadline, retry_budget, source, send_proxy_protocol)| Connect {
            timeout,
            attempts,
            hedge,
            deadline,
            retry_budget,
            source,
            send_proxy_protocol,
        },
    )
}

pub(super) fn resolve() -> impl Strategy<Value = Resolve> {
    let servers = vec((any::<IpAddr>(), 1..=u16::MAX).prop_map(SocketAddr::from), 0..3);
    (millis(100, 86_400_000), millis(100, 86_400_000), millis(1, 60_000), servers).prop_map(
        |(one, other, timeout, servers)| Resolve {
            min_interval: one.min(other),
            max_interval: one.max(other),
            timeout,
            servers,
        },
    )
}

pub(super) fn queue() -> impl Strategy<Value = Option<Queue>> {
    let max = (1..=1_000_000_u32).prop_map(|max| NonZeroU32::new(max).unwrap());
    option::of((millis(1, 3_600_000), max).prop_map(|(timeout, max)| Queue { timeout, max }))
}

/// Where a backend is: an address, the name of a host or of a service.
pub(super) fn target() -> impl Strategy<Value = Target> {
    let address = |address| Target::Address(address);
    let tcp =
        (any::<IpAddr>(), 1_000..=u16::MAX).prop_map(|(ip, port)| Address::Tcp((ip, port).into()));
    let unix = "/[a-z #:{}'\"]{1,20}".prop_map(|path| Address::Unix(path.into()));
    let name = "[a-z][a-z0-9_]{0,5}(\\.[a-z]{1,5}){0,2}\\.?";
    let host =
        (name, 1..=u16::MAX).prop_map(|(name, port)| Target::Host { name: name.into(), port });
    let service = "_[a-z]{1,5}\\._tcp\\.[a-z]{1,5}";
    let service = service.prop_map(|name| Target::Service(name.into()));
    prop_oneof![3 => tcp.prop_map(address), 2 => unix.prop_map(address), 1 => host, 1 => service]
}

/// With a token wherever it may be reached from.
pub(super) fn admin() -> impl Strategy<Value = Option<Admin>> {
    let bind = (any::<IpAddr>(), 20_000..=u16::MAX)
        .prop_map(|(ip, port)| Address::Tcp((ip.to_canonical(), port).into()));
    let bind = prop_oneof![bind, Just(Address::Unix("/run/admin.sock".into()))];
    let hosts = vec("[a-z]{1,5}\\.[a-z]{1,5}", 0..3);
    let token_file = option::of("/[a-z]{1,9}".prop_map(PathBuf::from));
    let admin = (bind, token_file, hosts, any::<bool>());
    option::of(admin.prop_map(|(bind, token_file, hosts, public_metrics)| {
        let mut admin = Admin { bind, token_file, hosts, public_metrics };
        if !admin.is_local() {
            admin.token_file.get_or_insert_with(|| "/etc/token".into());
        }
        admin
    }))
}
