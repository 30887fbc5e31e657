//! [HH-3] The checks of a large fleet are spread over the interval.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Setup, TestBackend, eventually, ms};

const FLEET: usize = 200;
const INTERVAL: Duration = Duration::from_secs(2);

/// Every address of this host under one port: when each was connected to.
struct Fleet {
    backend: TestBackend,
    times: Arc<Mutex<Vec<Instant>>>,
}

impl Fleet {
    fn new() -> Self {
        let times = Arc::<Mutex<Vec<Instant>>>::default();
        let log = Arc::clone(&times);
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let backend = TestBackend::serving(&any.into(), move |_| {
            log.lock().unwrap().push(Instant::now());
        });
        Self { backend, times }
    }

    /// So many pools that have all of them together, the listener leading to the first.
    fn in_pools(&self, pools: usize) -> Setup {
        let port = self.backend.address().rsplit(':').next().unwrap();
        let each = FLEET / pools;
        let pool = |pool: usize| {
            let address = |index: usize| {
                let number = pool * each + index;
                format!("\"127.7.{}.{}:{port}\"", number / 100, number % 100 + 1)
            };
            let backends: Vec<_> = (0..each).map(address).collect();
            format!(
                "  p{pool}: {{backends: [{}], health_check: {{interval: 2s}}}}\n",
                backends.join(", ")
            )
        };
        let pools: String = (0..pools).map(pool).collect();
        Setup::yaml(format!(
            "listeners:\n  web: {{bind: \"127.0.0.1:0\", pool: p0}}\npools:\n{pools}"
        ))
    }
}

/// The most that fall into any `width`.
fn peak(times: &[Duration], width: Duration) -> usize {
    let within =
        |from: &Duration| times.iter().filter(|at| **at >= *from && **at < *from + width).count();
    times.iter().map(within).max().unwrap_or(0)
}

fn spread_at_start(pools: usize) {
    let fleet = Fleet::new();
    let start = Instant::now();
    let proxy = fleet.in_pools(pools).start();
    eventually(PATIENCE, "two rounds of checks", || fleet.times.lock().unwrap().len() >= 2 * FLEET);
    let mut times: Vec<_> =
        fleet.times.lock().unwrap().iter().map(|at| at.duration_since(start)).collect();
    times.sort_unstable();
    let first = times[0];
    let took = times[FLEET - 1] - first;
    // The first checks are spread over an interval, and a fast one follows none of them: they pass.
    assert!(took < INTERVAL * 12 / 10 + ms(300), "all of them in {took:?}");
    let per_window = FLEET as f64 * 0.1 / INTERVAL.as_secs_f64();
    let peak = peak(&times, ms(100));
    assert!((peak as f64) <= 3.0 * per_window, "{peak} in 100 ms, {per_window} on average");
    drop(proxy);
}

#[test]
fn two_hundred_backends_of_one_pool_are_spread_from_the_start() {
    spread_at_start(1);
}

#[test]
fn two_hundred_backends_of_forty_pools_are_spread_from_the_start() {
    spread_at_start(40);
}

#[test]
fn two_hundred_pools_of_one_backend_are_spread_from_the_start() {
    spread_at_start(FLEET);
}
