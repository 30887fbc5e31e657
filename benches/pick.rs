//! What a pick and a build cost: every strategy of the table × 10 to 10,000 candidates.
//!
//! `cargo bench --bench pick`; one strategy: `cargo bench --bench pick -- source_hash`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tidegate::balance::{Candidate, Load, Options, Request, STRATEGIES, Tried};

/// Sizes of a pool.
const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];

/// A busy pool of mixed weights: from 1 to 4, up to 15 connections, measured.
fn candidates(n: u32) -> Vec<Candidate> {
    let candidate = |id: u32| {
        let load = Load::default();
        load.record_latency(200 + (id.wrapping_mul(0x9e37_79b9) >> 20), 0);
        assert!((0..id * 31 % 16).all(|_| load.take(None)));
        Candidate { id, key: format!("b{id}").into(), weight: 1 + id % 4, load: Arc::new(load) }
    };
    (0..n).map(candidate).collect()
}

fn pick(c: &mut Criterion) {
    let tried = Tried::default();
    for entry in STRATEGIES {
        let mut group = c.benchmark_group(format!("pick/{}", entry.name));
        for n in SIZES {
            let candidates = candidates(n);
            let strategy = (entry.build)(&candidates, &Options::default());
            let mut turn = 0_u64;
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| {
                    turn += 1;
                    let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let source = Some(IpAddr::V4(Ipv4Addr::from_bits((random >> 32) as u32)));
                    let request = Request { source, turn, random, now_ms: 9_000, tried: &tried };
                    black_box(strategy.pick(black_box(&candidates), &request))
                });
            });
        }
    }
}

fn build(c: &mut Criterion) {
    for entry in STRATEGIES {
        let mut group = c.benchmark_group(format!("build/{}", entry.name));
        for n in SIZES {
            let candidates = candidates(n);
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| (entry.build)(black_box(&candidates), &Options::default()));
            });
        }
    }
}

criterion_group!(benches, pick, build);
criterion_main!(benches);
