//! What choosing a route costs among 10,000 names and 10,000 networks, and what comes before it:
//! reading a ClientHello and a PROXY header, and finding a source in a set of networks. Then what a scan
//! from ten million sources leaves in the table of sources.
//!
//! `cargo bench --bench route`

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a bench of small numbers"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::net::cidr::{Cidr, CidrSet, Origin};
use tidegate::net::client_hello::{ClientHello, Reader};
use tidegate::net::name::NamePattern;
use tidegate::net::proxy_protocol::{self, Ends, Version};
use tidegate::state::route::{Caller, Match, Routes};
use tidegate::state::sources::{SourceLimits, Sources};

const MANY: u32 = 10_000;

fn name(n: u32) -> NamePattern {
    let text = match n % 10 {
        0 => format!("*.tenant-{n}.example.com"),
        1 => format!("*.shop-{n}.example"),
        _ => format!("www.customer-{n}.example.com"),
    };
    NamePattern::parse(&text).unwrap()
}

/// A network; every tenth nests in a larger one, and every third is of IPv6.
fn network(n: u32) -> Cidr {
    let text = match n % 10 {
        0 => format!("{}.0.0.0/8", 1 + n / 100),
        3 | 6 | 9 => format!("2001:db8:{n:x}::/48"),
        _ => format!("{}.{}.{}.0/24", 1 + n / 100, n % 256, n / 7 % 256),
    };
    Cidr::parse(&text).unwrap()
}

fn source(turn: u32) -> IpAddr {
    if turn.is_multiple_of(3) {
        let bits = (0x2001_0db8_u128 << 96) | (u128::from(turn % 16_384) << 80) | 1;
        return Ipv6Addr::from_bits(bits).into();
    }
    Ipv4Addr::from_bits(turn.wrapping_mul(0x9e37_79b9)).into()
}

fn hello(turn: u32) -> ClientHello {
    let n = turn.wrapping_mul(0x9e37_79b9) % (MANY + MANY / 10);
    let sni = match n % 10 {
        0 => format!("a.b.tenant-{n}.example.com"),
        1 => format!("www.shop-{n}.example"),
        _ => format!("www.customer-{n}.example.com"),
    };
    let alpn = ["h2", "http/1.1"].iter().collect();
    ClientHello { sni: Some(sni.into()), alpn }
}

/// Routes by the same names and networks, laid out in different ways; all end in a default.
fn layouts() -> Vec<(&'static str, Vec<Match>)> {
    let by_name = |n| Match { sni: vec![name(n)], ..Match::default() };
    let by_source = |n| Match { source: vec![Origin::Net(network(n))], ..Match::default() };
    let both = |n| Match { source: by_source(n).source, ..by_name(n) };
    let one = || Match {
        sni: (0..MANY).map(name).collect(),
        source: (0..MANY).map(|n| Origin::Net(network(n))).collect(),
        ..Match::default()
    };
    let default = Match::default;
    vec![
        ("one_route_of_all", vec![one(), default()]),
        ("a_route_for_each_pair", (0..MANY).map(both).chain([default()]).collect()),
        (
            "a_route_for_each_name_then_each_network",
            (0..MANY).map(by_name).chain((0..MANY).map(by_source)).chain([default()]).collect(),
        ),
        (
            "a_route_for_each_network_then_each_name",
            (0..MANY).map(by_source).chain((0..MANY).map(by_name)).chain([default()]).collect(),
        ),
    ]
}

fn first_match(c: &mut Criterion) {
    let mut group = c.benchmark_group("first_match");
    let hellos: Vec<_> = (0..4096).map(hello).collect();
    for (layout, matches) in layouts() {
        let routes = Routes::new(matches);
        let mut turn = 0;
        group.bench_function(layout, |b| {
            b.iter(|| {
                turn += 1;
                let hello = Some(&hellos[turn as usize % hellos.len()]);
                let caller = Caller { source: Some(source(turn)), port: Some(443), hello };
                black_box(routes.first_match(black_box(&caller)))
            });
        });
    }
    let plain = Routes::new(vec![Match::default()]);
    group.bench_function("one_route_without_a_match", |b| {
        let caller = Caller { source: Some(source(1)), port: Some(443), hello: None };
        b.iter(|| plain.first_match(black_box(&caller)));
    });
    group.bench_function("compile", |b| {
        let (_, matches) = layouts().remove(2);
        b.iter(|| Routes::new(black_box(matches.clone())));
    });
    group.bench_function("suspicions", |b| {
        let routes = Routes::new(layouts().remove(2).1);
        b.iter(|| routes.suspicions(black_box(&[443])));
    });
    group.finish();
}

fn networks(c: &mut Criterion) {
    let set: CidrSet = (0..MANY).map(network).collect();
    let mut turn = 0;
    c.bench_function("cidr_set/10000", |b| {
        b.iter(|| {
            turn += 1;
            black_box(set.contains(black_box(source(turn))))
        });
    });
}

fn headers(c: &mut Criterion) {
    let at = |text: &str| text.parse().unwrap();
    let ends = Some(Ends { source: at("192.0.2.1:4660"), destination: at("198.51.100.2:443") });
    for version in [Version::V1, Version::V2] {
        let mut bytes = Vec::new();
        proxy_protocol::write(version, ends, &mut bytes);
        c.bench_function(&format!("proxy_protocol/{version:?}"), |b| {
            b.iter(|| proxy_protocol::parse(black_box(&bytes)));
        });
    }
}

fn client_hello(c: &mut Criterion) {
    let bytes = recorded_hello(1500);
    c.bench_function("client_hello/whole", |b| {
        b.iter(|| Reader::default().read(black_box(&bytes)));
    });
    c.bench_function("client_hello/byte_by_byte", |b| {
        b.iter(|| {
            let mut reader = Reader::default();
            (1..bytes.len()).for_each(|end| {
                black_box(reader.read(&bytes[..end]));
            });
        });
    });
}

/// A ClientHello with a name, two protocols and `padding` bytes, in one record.
fn recorded_hello(padding: u16) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let name = long(&[&[0], &long(b"www.example.com")[..]].concat());
    let extensions = [
        &[0, 21][..],
        &long(&vec![0; padding.into()]),
        &[0, 0],
        &long(&name),
        &[0, 16],
        &long(&long(b"\x02h2\x08http/1.1")),
    ];
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &long(&extensions.concat())];
    let body = body.concat();
    let handshake = [&[1, 0][..], &long(&body)].concat();
    [&[22, 3, 1][..], &long(&handshake)].concat()
}

/// A scan: each of ten million sources comes once, a thousand in a millisecond. Says what stays of it.
fn scan(c: &mut Criterion) {
    const SOURCES: u32 = 10_000_000;
    let limits = SourceLimits { connections: NonZeroU32::new(200), rate: NonZeroU32::new(100) };
    let mut told = false;
    let mut group = c.benchmark_group("sources");
    group.sample_size(10).throughput(Throughput::Elements(SOURCES.into()));
    group.bench_function("scan/10000000", |b| {
        b.iter(|| {
            let (sources, before) = (Arc::new(Sources::default()), resident_kib());
            let mut most = 0;
            for n in 0..SOURCES {
                // Each once, in no order: an odd factor is one to one.
                let ip = IpAddr::V4(n.wrapping_mul(0x9e37_79b9).into());
                drop(black_box(sources.admit(ip, limits, (n / 1_000).into())));
                if n % 65_536 == 0 {
                    most = most.max(sources.len());
                }
            }
            if !std::mem::replace(&mut told, true) {
                let grown = resident_kib().saturating_sub(before);
                println!(
                    "\n{SOURCES} sources: at most {most} remembered, {grown} KiB more resident"
                );
            }
        });
    });
}

/// Memory of this process, of /proc/self/statm in pages of 4 KiB; 0 where that is not there.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4
}

criterion_group!(benches, first_match, networks, headers, client_hello, scan);
criterion_main!(benches);
