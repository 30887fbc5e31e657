//! [HH-3] The checks of a large fleet are spread over the interval, at start and after reloads.

use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{PATIENCE, SLACK, Setup, TestBackend, eventually, ms, pause};

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

/// When checks came, counted from some moment before, in order.
fn times_since(start: Instant, fleet: &Fleet) -> Vec<Duration> {
    let times = std::mem::take(&mut *fleet.times.lock().unwrap());
    let mut times: Vec<_> = times.iter().map(|at| at.duration_since(start)).collect();
    times.sort_unstable();
    times
}

/// No more than three times the mean in any 100 ms.
///
/// On a machine that stands still for a while, what came meanwhile is accepted in one moment: what is seen
/// while a thread that only sleeps was late by 30 ms is seen again.
#[track_caller]
fn expect_spread(measure: impl Fn() -> Vec<Duration>) {
    let per_window = FLEET as f64 * 0.1 / INTERVAL.as_secs_f64();
    for attempt in 1.. {
        let (times, late) = lateness(&measure);
        let peak = peak(&times, ms(100));
        if (peak as f64) <= 3.0 * per_window {
            return;
        }
        let told =
            format!("{peak} in 100 ms, {per_window} on average; this machine was {late:?} late");
        assert!(attempt < 5 && late >= ms(30), "{told}");
    }
}

/// What `work` gives, and by how much a thread that sleeps meanwhile was late at most.
fn lateness<T>(work: impl Fn() -> T) -> (T, Duration) {
    let over = AtomicBool::new(false);
    let watch = || {
        let mut worst = Duration::ZERO;
        while !over.load(SeqCst) {
            let start = Instant::now();
            pause(ms(5));
            worst = worst.max(start.elapsed() - ms(5));
        }
        worst
    };
    std::thread::scope(|scope| {
        let watch = scope.spawn(watch);
        let done = catch_unwind(AssertUnwindSafe(&work));
        over.store(true, SeqCst);
        let worst = watch.join().unwrap();
        (done.unwrap_or_else(|panic| resume_unwind(panic)), worst)
    })
}

fn spread_at_start(pools: usize) {
    expect_spread(|| {
        let fleet = Fleet::new();
        let start = Instant::now();
        let proxy = fleet.in_pools(pools).start();
        let count = || fleet.times.lock().unwrap().len();
        eventually(PATIENCE, "two rounds of checks", || count() >= 2 * FLEET);
        let times = times_since(start, &fleet);
        let took = times[FLEET - 1] - times[0];
        // The first checks are spread over an interval, and a fast one follows none of them: they pass.
        assert!(took < INTERVAL * 12 / 10 + SLACK, "all of them in {took:?}");
        drop(proxy);
        times
    });
}

/// Ten reloads in a row, every other one to this; the checks from the first of them until two intervals
/// after the last.
fn spread_after_reloads(pools: usize, (net, check): (usize, &str)) {
    expect_spread(|| {
        let fleet = Fleet::new();
        let proxy = fleet.in_pools(pools).start();
        let count = || fleet.times.lock().unwrap().len();
        eventually(PATIENCE, "all are checked", || count() >= FLEET * 3 / 2);
        fleet.times.lock().unwrap().clear();
        let start = Instant::now();
        for round in 1..=10 {
            let odd = round % 2 == 1;
            let next = if odd { fleet.in_pools(pools) } else { fleet.with(pools, net, check) };
            let next = next.runtime(&format!("shutdown_grace: {}s", 40 + round));
            std::fs::write(proxy.directory().join("tidegate.yaml"), next.file()).unwrap();
            proxy.signal(Signal::HUP);
            let told = || proxy.events().iter().filter(|event| event.kind == "reloaded").count();
            eventually(PATIENCE, "it is in force", || told() == round);
        }
        pause(INTERVAL * 2);
        let intervals = start.elapsed().as_secs_f64() / INTERVAL.as_secs_f64();
        let times = times_since(start, &fleet);
        // One checker for each: as many checks as intervals. Those of other backends begin anew each time.
        let each = times.len() as f64 / FLEET as f64;
        let most = if net == 7 { intervals * 1.25 + 0.3 } else { intervals + 2.0 };
        assert!(each > intervals * 0.75 && each < most, "{each} of each in {intervals} intervals");
        drop(proxy);
        times
    });
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
