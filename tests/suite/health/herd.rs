//! [HH-3] The checks of a large fleet are spread over the interval.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{PATIENCE, Setup, TestBackend, eventually, ms, pause};

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
        let backend = TestBackend::serving(&any.into(), move |peer| {
            log.lock().unwrap().push(Instant::now());
            let _ = peer.try_send("fine");
        });
        Self { backend, times }
    }

    /// So many pools that have all of them together, the listener leading to the first.
    fn in_pools(&self, pools: usize) -> Setup {
        self.with(pools, 7, "interval: 2s")
    }

    /// The same with other addresses, and this check.
    fn with(&self, pools: usize, net: usize, check: &str) -> Setup {
        let port = self.backend.address().rsplit(':').next().unwrap();
        let each = FLEET / pools;
        let pool = |pool: usize| {
            let address = |index: usize| {
                let number = pool * each + index;
                format!("\"127.{net}.{}.{}:{port}\"", number / 100, number % 100 + 1)
            };
            let backends: Vec<_> = (0..each).map(address).collect();
            format!(
                "  p{pool}: {{backends: [{}], health_check: {{{check}}}}}\n",
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
    expect_spread(&times);
    drop(proxy);
}

/// No more than three times the mean in any 100 ms.
#[track_caller]
fn expect_spread(times: &[Duration]) {
    let per_window = FLEET as f64 * 0.1 / INTERVAL.as_secs_f64();
    let peak = peak(times, ms(100));
    assert!((peak as f64) <= 3.0 * per_window, "{peak} in 100 ms, {per_window} on average");
}

/// Ten reloads in a row, the last to `then`; the checks of the two intervals after them.
fn spread_after_reloads(pools: usize, (net, check): (usize, &str)) {
    let fleet = Fleet::new();
    let proxy = fleet.in_pools(pools).start();
    eventually(PATIENCE, "all are checked", || fleet.times.lock().unwrap().len() >= FLEET);
    // There and back: each of them is another configuration.
    for round in 0..10 {
        let next =
            if round % 2 == 1 { fleet.with(pools, net, check) } else { fleet.in_pools(pools) };
        let next = next.head(&format!("# {round}\nadmin: {{bind: \"127.0.0.1:0\"}}"));
        std::fs::write(proxy.directory().join("tidegate.yaml"), next.file()).unwrap();
        let told = || proxy.events().iter().filter(|event| event.kind == "reloaded").count();
        let before = told();
        proxy.signal(Signal::HUP);
        eventually(PATIENCE, "it is in force", || told() > before);
    }
    fleet.times.lock().unwrap().clear();
    let start = Instant::now();
    pause(INTERVAL * 2);
    let times = std::mem::take(&mut *fleet.times.lock().unwrap());
    let mut times: Vec<_> = times.iter().map(|at| at.duration_since(start)).collect();
    times.sort_unstable();
    expect_spread(&times);
    // One checker for each: two intervals have two checks, three where one follows sooner by its jitter.
    let each = times.len() as f64 / FLEET as f64;
    assert!((1.6..2.6).contains(&each), "{each} checks of each in two intervals");
}

#[test]
fn ten_reloads_that_change_no_check_leave_two_hundred_spread() {
    spread_after_reloads(1, (7, "interval: 2s"));
}

#[test]
fn ten_reloads_with_other_timing_leave_two_hundred_pools_spread() {
    spread_after_reloads(FLEET, (7, "interval: 2100ms"));
}

#[test]
fn ten_reloads_with_another_check_leave_two_hundred_spread() {
    let check = "interval: 2s, probe: {send_expect: {send: \"?\", expect: fine}}";
    spread_after_reloads(40, (7, check));
}

#[test]
fn ten_reloads_with_other_backends_leave_two_hundred_spread() {
    spread_after_reloads(40, (8, "interval: 2s"));
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
