//! What being watched costs: a connection's counters, a line of the access log, a scrape.
//!
//! `cargo bench --bench watch`

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::config::model::LogFormat;
use tidegate::health::State;
use tidegate::log::access::{AccessLog, Destination, Place, Record, json};
use tidegate::metrics::{BackendView, ListenerView, PoolView, View, render};
use tidegate::state::Ending;
use tidegate::state::counters::{ListenerCounters, PoolCounters};

fn view(backends: usize) -> View {
    let backend = |n: usize| BackendView {
        address: "127.0.0.1:1".into(),
        name: format!("10.0.{}.{}:9501", n / 256, n % 256).into(),
        state: State::Healthy,
        in_rotation: true,
        load: Arc::default(),
        totals: Arc::default(),
        counters: Arc::default(),
    };
    let pool = PoolView {
        name: "app".into(),
        is_hot_standby: false,
        active: None,
        counters: Arc::default(),
        backends: (0..backends).map(backend).collect(),
    };
    let listener = ListenerView { name: "web".into(), counters: Arc::default() };
    View { listeners: vec![listener], pools: vec![pool], process: Arc::default() }
}

fn scrape(c: &mut Criterion) {
    let view = view(1_000);
    c.bench_function("scrape/1000 backends", |b| b.iter(|| render(black_box(&view))));
}

/// All that is counted of a connection, beside another thread that counts the same.
fn count(c: &mut Criterion) {
    let (listener, pool) = (ListenerCounters::default(), PoolCounters::default());
    let one = |lasted: Duration| {
        listener.accept();
        pool.connect.record(Duration::from_micros(80));
        listener.end(Ending::ClientClosed, lasted);
    };
    c.bench_function("count/alone", |b| b.iter(|| one(black_box(Duration::from_millis(3)))));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                one(Duration::from_millis(2));
            }
        });
        c.bench_function("count/beside another", |b| {
            b.iter(|| one(black_box(Duration::from_millis(3))));
        });
        stop.store(true, Relaxed);
    });
}

fn record() -> Record {
    let place = |text: &str| text.parse::<std::net::SocketAddr>().ok();
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        listener: "web".into(),
        local: place("10.0.0.2:443").map(Place::from),
        source: place("192.0.2.7:40000"),
        peer: None,
        pool: Some("app".into()),
        backend: Some("app-2".into()),
        backend_address: place("10.0.0.12:9501").map(Place::from),
        tried: Vec::new(),
        connect_ms: Some(0),
        first_byte_ms: Some(1),
        bytes_in: 78,
        bytes_out: 1_024,
        duration_ms: 2,
        end: Ending::ClientClosed,
        sni: Some((*b"api.example.com").into()),
    }
}

fn access_log(c: &mut Criterion) {
    let record = record();
    let mut line = Vec::new();
    c.bench_function("access/a line of JSON", |b| {
        b.iter(|| {
            line.clear();
            json(black_box(&record), &mut line);
        });
    });
    let null = Destination::File("/dev/null".into());
    if let Ok(log) = AccessLog::start(null, LogFormat::Json, Arc::default()) {
        let recorder = log.recorder();
        c.bench_function("access/handing over", |b| {
            b.iter(|| recorder.record(Box::new(black_box(&record).clone())));
        });
    }
}

criterion_group!(benches, scrape, count, access_log);
criterion_main!(benches);
