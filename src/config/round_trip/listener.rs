//! Everything that a listener and its routes can be.

use std::net::IpAddr;
use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{count, millis};
use crate::config::model::{Bandwidth, Listener, Match, OverLimit, Route, Tcp, Timeouts};
use crate::config::unit::{Rate, Throughput};
use crate::net::addr::Address;
use crate::net::cidr::{Cidr, Origin};
use crate::net::name::NamePattern;

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
    (millis(1, 3_600_000), long(), option::of(millis(0, 1 << 20)), long()).prop_map(
        |(peek, idle, half_closed, max_duration)| Timeouts {
            peek,
            idle,
            half_closed,
            max_duration,
        },
    )
}

fn origin() -> impl Strategy<Value = Origin> {
    let net = (any::<IpAddr>(), 0..=128_u8).prop_map(|(ip, length)| {
        let length = if ip.is_ipv4() { length.min(32) } else { length };
        Origin::Net(Cidr::parse(&format!("{ip}/{length}")).unwrap())
    });
    prop_oneof![4 => net, 1 => Just(Origin::Unix)]
}

fn origins() -> impl Strategy<Value = Vec<Origin>> {
    vec(origin(), 0..4)
}

fn conditions() -> impl Strategy<Value = Match> {
    let sni = "\\*|(\\*\\.)?[A-Za-z][a-z0-9_-]{0,6}(\\.[a-z]{1,5}){0,3}\\.?";
    let sni = sni.prop_map(|text| NamePattern::parse(&text).unwrap());
    let alpn = "[!-+.-~]{1,9}".prop_filter("a slip of the finger", |text| {
        !["http", "h2", "h3"].iter().any(|slip| text.to_ascii_lowercase().starts_with(slip))
    });
    let alpn = prop_oneof![alpn, prop::sample::select(vec!["h2", "http/1.1"]).prop_map(Into::into)];
    let ports = vec(1..=u16::MAX, 0..4);
    (vec(sni, 0..4), vec(alpn, 0..3), option::of(any::<bool>()), origins(), ports)
        .prop_map(|(sni, alpn, tls, source, port)| Match { sni, alpn, tls, source, port })
}

/// The pools are filled in when they are known.
fn routes() -> impl Strategy<Value = Vec<Route>> {
    let route = prop_oneof![Just(Match::default()), conditions()]
        .prop_map(|conditions| Route { conditions, pool: String::new() });
    vec(route, 1..4)
}

fn bandwidth() -> impl Strategy<Value = Bandwidth> {
    let throughput = || option::of((1_024..u64::MAX).prop_map(Throughput));
    (throughput(), throughput()).prop_map(|(inward, outward)| Bandwidth { inward, outward })
}

type PerSource = (Option<NonZeroU32>, Option<Rate>);

fn per_source() -> impl Strategy<Value = PerSource> {
    (count(), option::of((1..=u32::MAX).prop_map(Rate)))
}

/// Listens at ports that no backend is at, and where no other listener is.
pub(super) fn listener(index: usize) -> impl Strategy<Value = Listener> {
    let over_limit = prop::sample::select(vec![OverLimit::Wait, OverLimit::Close]);
    let limits = (count(), over_limit, per_source(), bandwidth());
    let access = (origins(), origins(), origins());
    (1..4_usize, routes(), access, tcp(), timeouts(), limits).prop_map(
        move |(addresses, routes, (allow, deny, accept_proxy_protocol), tcp, timeouts, limits)| {
            let bind = |at: usize| match at {
                0 => Address::Unix(format!("/run/tidegate {index}.sock").into()),
                1 => Address::Tcp(format!("[::]:{}", 100 + index).parse().unwrap()),
                at => Address::Tcp(format!("0.0.0.0:{}", 100 * at + index).parse().unwrap()),
            };
            let (max_connections, over_limit, per_source, bandwidth) = limits;
            Listener {
                bind: (0..addresses).map(bind).collect(),
                routes,
                allow,
                deny,
                accept_proxy_protocol,
                tcp,
                timeouts,
                max_connections,
                over_limit,
                max_connections_per_source: per_source.0,
                connection_rate_per_source: per_source.1,
                bandwidth,
            }
        },
    )
}
