//! How long a configuration of 10,000 backends takes, from text to values, and from values to the
//! state that the data path reads.

#![expect(clippy::expect_used, reason = "a benchmark that cannot run is of no use")]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::balance::Registry;
use tidegate::config::load;
use tidegate::state::Snapshot;

const BACKENDS: usize = 10_000;

fn text(strategy: &str) -> String {
    let mut text = format!(
        "listeners:\n  web: {{ bind: '127.0.0.1:9501', pool: app }}\npools:\n  app:\n    \
         strategy: {strategy}\n    backends:\n"
    );
    for n in 0..BACKENDS {
        let (high, low) = (n / 250, n % 250 + 1);
        writeln!(text, "      - {{ address: 10.1.{high}.{low}:9501, name: b-{n}, weight: 2 }}")
            .expect("a string takes everything");
    }
    text
}

fn parse(c: &mut Criterion) {
    let registry = Registry::default();
    let round_robin = text("round_robin");
    c.bench_function("parse/10000 backends", |b| {
        b.iter(|| black_box(load(black_box(&round_robin), &|_| None, &registry)).is_ok());
    });
    for strategy in ["round_robin", "source_hash"] {
        let config = load(&text(strategy), &|_| None, &registry).expect("the text is valid");
        c.bench_function(&format!("snapshot/10000 backends, {strategy}"), |b| {
            b.iter(|| black_box(Snapshot::new(black_box(&config), None)).is_ok());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = parse
}
criterion_main!(benches);
