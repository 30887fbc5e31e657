//! What the data path and the control side count, read by the metrics at scrape time.
//!
//! Every number is a relaxed atomic: nothing is published through it, and a connection costs a few
//! adds. What one thread writes in one moment stands together; what different writers write stands
//! on cache lines of its own, so that a check that passes does not slow a connection that ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::ending::Ending;
use super::histogram::Histogram;
use crate::health::{Cause, Turn};
use crate::net::dial::ConnectError;

/// How long connections last, in microseconds: from a refused one to a day.
pub const DURATION_BOUNDS: &[u64] = &[
    1_000,
    10_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
];

/// How long a connect takes, in microseconds: from the same host to the far side of the globe.
pub const CONNECT_BOUNDS: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// How long a check takes, in microseconds.
pub const CHECK_BOUNDS: &[u64] = &[
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// How long a takeover takes, in microseconds.
pub const TAKEOVER_BOUNDS: &[u64] = &[
    1_000, 5_000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Why a backend could not be connected to: label values, each at the place where it is counted.
pub const CONNECT_FAILURES: [&str; 5] = ["refused", "timeout", "unreachable", "reset", "other"];

/// The causes of an eviction or a reinstatement, each at the place where it is counted.
pub const CAUSES: [Cause; 4] = [Cause::Probe, Cause::Outlier, Cause::Operator, Cause::Resolve];

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The backend answered as it should.
    Pass,
    /// It did not.
    Fail,
    /// This process was short of something, so it says nothing about the backend.
    Unjudged,
}

impl CheckResult {
    /// All of them, each at the place where it is counted.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Fail, Self::Unjudged];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unjudged => "unjudged",
        }
    }
}

/// After what a recovery action runs: label values, each at the place where it is counted.
pub const ACTION_EVENTS: [&str; 5] = ["evict", "reinstate", "takeover", "pool_down", "pool_up"];

/// What became of a recovery action: label values, each at the place where it is counted.
pub const ACTION_RESULTS: [&str; 4] = ["success", "failure", "timeout", "suppressed"];

/// Shown every number that only grows, each with a word that means the same in every version: by it
/// another process knows what to add to what.
pub type Visit<'a> = dyn FnMut(fmt::Arguments<'_>, &AtomicU64) + 'a;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a listener counts. Owned by the listener, kept over reloads under its name.
#[derive(Debug)]
pub struct ListenerCounters {
    accepted: Accepted,
    ended: [Counter; Ending::ALL.len()],
    duration: Histogram,
    elsewhere: Elsewhere,
}

/// How much of that another process has counted: its open connections are not open here.
#[derive(Debug, Default)]
struct Elsewhere {
    accepted: AtomicU64,
    ended: AtomicU64,
}

/// On a line of its own: written by whoever accepts, while others end connections.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Accepted(Counter);

impl Default for ListenerCounters {
    fn default() -> Self {
        Self {
            accepted: Accepted::default(),
            ended: Default::default(),
            duration: Histogram::new(DURATION_BOUNDS),
            elsewhere: Elsewhere::default(),
        }
    }
}

impl ListenerCounters {
    /// Counts an accepted connection, refused ones too.
    pub fn accept(&self) {
        self.accepted.0.add();
    }

    /// Counts the end of a connection that lasted so long since it was accepted.
    pub fn end(&self, ending: Ending, lasted: Duration) {
        self.ended[ending as usize].add();
        self.duration.record(lasted);
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.0.get()
    }

    /// Connections that ended like this.
    #[must_use]
    pub fn ended(&self, ending: Ending) -> u64 {
        self.ended[ending as usize].get()
    }

    /// Connections that are open in this process: accepted here and not ended. Never negative: the two
    /// are read at slightly different moments, the smaller one first.
    #[must_use]
    pub fn active(&self) -> u64 {
        let ended: u64 = self.ended.iter().map(Counter::get).sum();
        let (accepted, elsewhere) = (self.accepted(), &self.elsewhere);
        let theirs = elsewhere.accepted.load(Relaxed);
        (accepted + elsewhere.ended.load(Relaxed)).saturating_sub(ended + theirs)
    }

    /// Notes that so many of those accepted and of those ended were added from another process.
    pub fn count_elsewhere(&self, accepted: u64, ended: u64) {
        self.elsewhere.accepted.fetch_add(accepted, Relaxed);
        self.elsewhere.ended.fetch_add(ended, Relaxed);
    }

    /// Shows everything that only grows.
    pub fn each(&self, visit: &mut Visit<'_>) {
        visit(format_args!("accepted"), &self.accepted.0.0);
        for (ending, counter) in Ending::ALL.into_iter().zip(&self.ended) {
            visit(format_args!("ended.{}", ending.as_str()), &counter.0);
        }
        self.duration.each("duration", visit);
    }

    /// How long those that ended have lasted.
    #[must_use]
    pub fn duration(&self) -> &Histogram {
        &self.duration
    }
}

/// What is counted of a backend. Owned by the backend, and gone with it.
#[derive(Debug, Default)]
pub struct BackendCounters {
    data: BackendData,
    control: BackendControl,
}

/// Written by the data path.
#[derive(Debug, Default)]
#[repr(align(64))]
struct BackendData {
    failures: [Counter; CONNECT_FAILURES.len()],
}

/// Written by the controller.
#[derive(Debug, Default)]
#[repr(align(64))]
struct BackendControl {
    evictions: [Counter; CAUSES.len()],
    reinstatements: [Counter; CAUSES.len()],
    checks: [Counter; CheckResult::ALL.len()],
}

impl BackendCounters {
    /// Counts an attempt that failed. One that failed for want of something on this host is not the
    /// backend's, and is not counted.
    pub fn fail(&self, error: ConnectError) {
        let place = match error {
            ConnectError::Refused => 0,
            ConnectError::Timeout => 1,
            ConnectError::Unreachable => 2,
            ConnectError::Reset => 3,
            ConnectError::Other(_) => 4,
            ConnectError::Local(_) => return,
        };
        self.data.failures[place].add();
    }

    /// Counts a way out of usability or back into it.
    pub fn turn(&self, turn: Turn, cause: Cause) {
        let counters = match turn {
            Turn::Evicted => &self.control.evictions,
            Turn::Reinstated => &self.control.reinstatements,
        };
        counters[place_of(cause)].add();
    }

    /// Counts a check.
    pub fn check(&self, result: CheckResult) {
        self.control.checks[result as usize].add();
    }

    /// Failed attempts by reason, in the order of [`CONNECT_FAILURES`].
    pub fn failures(&self) -> impl Iterator<Item = u64> {
        self.data.failures.iter().map(Counter::get)
    }

    /// Turns by cause, in the order of [`CAUSES`].
    pub fn turns(&self, turn: Turn) -> impl Iterator<Item = u64> {
        let counters = match turn {
            Turn::Evicted => &self.control.evictions,
            Turn::Reinstated => &self.control.reinstatements,
        };
        counters.iter().map(Counter::get)
    }

    /// Checks by result, in the order of [`CheckResult::ALL`].
    pub fn checks(&self) -> impl Iterator<Item = u64> {
        self.control.checks.iter().map(Counter::get)
    }

    /// Shows everything that only grows.
    pub fn each(&self, visit: &mut Visit<'_>) {
        for (reason, counter) in CONNECT_FAILURES.into_iter().zip(&self.data.failures) {
            visit(format_args!("failed.{reason}"), &counter.0);
        }
        let BackendControl { evictions, reinstatements, checks } = &self.control;
        for (place, cause) in CAUSES.into_iter().enumerate() {
            visit(format_args!("evicted.{}", cause.as_str()), &evictions[place].0);
            visit(format_args!("reinstated.{}", cause.as_str()), &reinstatements[place].0);
        }
        for (result, counter) in CheckResult::ALL.into_iter().zip(checks) {
            visit(format_args!("checked.{}", result.as_str()), &counter.0);
        }
    }
}

fn place_of(cause: Cause) -> usize {
    match cause {
        Cause::Probe => 0,
        Cause::Outlier => 1,
        Cause::Operator => 2,
        Cause::Resolve => 3,
    }
}

/// What is counted of a pool. Owned by the pool, kept over reloads under its name.
#[derive(Debug)]
pub struct PoolCounters {
    /// How long connects took that succeeded. Written by the data path.
    pub connect: Histogram,
    /// Attempts beyond the first of a connection, hedges included. Written by the data path.
    pub retries: Retries,
    queued: Queue,
    /// How long checks took. Written by the controller.
    pub checks: Histogram,
    /// Takeovers of a hot standby. Written by the controller.
    pub takeovers: Counter,
    /// How long those took, from the first sign to the first connection on the new active one.
    pub takeover: Histogram,
    actions: [[Counter; ACTION_RESULTS.len()]; ACTION_EVENTS.len()],
}

/// A counter on a line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Retries(Counter);

impl std::ops::Deref for Retries {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.0
    }
}

/// On a line of its own: written at every wait.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Queue(AtomicU64);

impl Default for PoolCounters {
    fn default() -> Self {
        Self {
            connect: Histogram::new(CONNECT_BOUNDS),
            retries: Retries::default(),
            queued: Queue::default(),
            checks: Histogram::new(CHECK_BOUNDS),
            takeovers: Counter::default(),
            takeover: Histogram::new(TAKEOVER_BOUNDS),
            actions: Default::default(),
        }
    }
}

impl PoolCounters {
    /// Counts a connection as waiting until the guard is dropped.
    #[must_use]
    pub fn queue(self: &Arc<Self>) -> Queued {
        self.queued.0.fetch_add(1, Relaxed);
        Queued(Arc::clone(self))
    }

    /// The same, unless so many wait already.
    #[must_use]
    pub fn queue_within(self: &Arc<Self>, max: u32) -> Option<Queued> {
        let one_more = |waiting| (waiting < u64::from(max)).then_some(waiting + 1);
        self.queued.0.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Queued(Arc::clone(self)))
    }

    /// Connections that wait for a slot, or for actions before traffic.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued.0.load(Relaxed)
    }

    /// Counts a run of a recovery action, both words as in [`ACTION_EVENTS`] and [`ACTION_RESULTS`].
    /// Other words, such as `cancelled`, are not counted.
    pub fn act(&self, event: &str, result: &str) {
        let event = ACTION_EVENTS.iter().position(|known| *known == event);
        let result = ACTION_RESULTS.iter().position(|known| *known == result);
        if let (Some(event), Some(result)) = (event, result) {
            self.actions[event][result].add();
        }
    }

    /// Runs of actions as (event, result, number).
    pub fn actions(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        ACTION_EVENTS.into_iter().zip(&self.actions).flat_map(|(event, results)| {
            let results = ACTION_RESULTS.into_iter().zip(results);
            results.map(move |(result, counter)| (event, result, counter.get()))
        })
    }

    /// Shows everything that only grows.
    pub fn each(&self, visit: &mut Visit<'_>) {
        self.connect.each("connect", visit);
        self.checks.each("check", visit);
        self.takeover.each("takeover", visit);
        visit(format_args!("retries"), &self.retries.0.0);
        visit(format_args!("takeovers"), &self.takeovers.0);
        for (event, results) in ACTION_EVENTS.into_iter().zip(&self.actions) {
            for (result, counter) in ACTION_RESULTS.into_iter().zip(results) {
                visit(format_args!("action.{event}.{result}"), &counter.0);
            }
        }
    }
}

/// "This connection waits"; dropping it ends that.
#[derive(Debug)]
pub struct Queued(Arc<PoolCounters>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.0.fetch_sub(1, Relaxed);
    }
}

/// What is counted of the process.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Configurations that were put in force by a reload.
    pub reloads: Counter,
    /// Reloads that were refused.
    pub failed_reloads: Counter,
    last_reload: AtomicU64,
    /// Lines of the access log that were dropped because it was not written fast enough.
    pub access_lines_dropped: Counter,
}

impl ProcessCounters {
    /// Notes when a configuration was put in force, the first one included: seconds since 1970.
    pub fn configured(&self, at: u64) {
        self.last_reload.store(at, Relaxed);
    }

    /// When the configuration in force was put in force: seconds since 1970, 0 before the first.
    #[must_use]
    pub fn last_configured(&self) -> u64 {
        self.last_reload.load(Relaxed)
    }

    /// Shows everything that only grows.
    pub fn each(&self, visit: &mut Visit<'_>) {
        visit(format_args!("reloads"), &self.reloads.0);
        visit(format_args!("failed_reloads"), &self.failed_reloads.0);
        visit(format_args!("access_lines_dropped"), &self.access_lines_dropped.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_where_they_are_counted() {
        let errno = rustix::io::Errno::IO;
        let all = [
            ConnectError::Refused,
            ConnectError::Timeout,
            ConnectError::Unreachable,
            ConnectError::Reset,
            ConnectError::Other(errno),
        ];
        for (place, error) in all.into_iter().enumerate() {
            let counters = BackendCounters::default();
            counters.fail(error);
            assert_eq!(error.as_str(), CONNECT_FAILURES[place]);
            assert_eq!(counters.failures().nth(place), Some(1));
        }
        for (place, cause) in CAUSES.into_iter().enumerate() {
            let counters = BackendCounters::default();
            counters.turn(Turn::Evicted, cause);
            assert_eq!(counters.turns(Turn::Evicted).nth(place), Some(1));
            assert_eq!(counters.turns(Turn::Reinstated).sum::<u64>(), 0);
        }
        for (place, result) in CheckResult::ALL.into_iter().enumerate() {
            let counters = BackendCounters::default();
            counters.check(result);
            assert_eq!(counters.checks().nth(place), Some(1));
        }
    }

    #[test]
    fn what_this_host_lacks_is_no_failure_of_a_backend() {
        let counters = BackendCounters::default();
        counters.fail(ConnectError::Local(rustix::io::Errno::MFILE));
        assert_eq!(counters.failures().sum::<u64>(), 0);
    }

    #[test]
    fn open_connections_are_those_accepted_and_not_ended() {
        let counters = ListenerCounters::default();
        (0..3).for_each(|_| counters.accept());
        counters.end(Ending::NoBackend, Duration::from_millis(2));
        counters.end(Ending::ClientClosed, Duration::from_secs(2));
        assert_eq!((counters.accepted(), counters.active()), (3, 1));
        assert_eq!(counters.ended(Ending::NoBackend), 1);
        assert_eq!(counters.duration().count(), 2);
    }

    #[test]
    fn what_is_open_elsewhere_is_not_open_here() {
        let counters = ListenerCounters::default();
        counters.accept();
        counters.each(&mut |word, cell| {
            let given = match word.to_string().as_str() {
                "accepted" => 10,
                "ended.client_closed" => 7,
                _ => 0,
            };
            cell.fetch_add(given, Relaxed);
        });
        counters.count_elsewhere(10, 7);
        assert_eq!((counters.accepted(), counters.active()), (11, 1));
    }

    #[test]
    fn who_waits_is_counted_until_the_guard_is_dropped() {
        let counters = Arc::new(PoolCounters::default());
        let first = counters.queue();
        let second = counters.queue_within(2);
        assert_eq!((counters.queued(), second.is_some()), (2, true));
        assert!(counters.queue_within(2).is_none());
        drop((first, second));
        assert_eq!(counters.queued(), 0);
    }

    #[test]
    fn writers_do_not_share_cache_lines() {
        assert_eq!(align_of::<BackendCounters>(), 64);
        assert_eq!(size_of::<BackendData>(), 64);
        assert_eq!(align_of::<Histogram>(), 64);
        assert_eq!(align_of::<PoolCounters>(), 64);
    }

    #[test]
    fn counts_of_many_threads_are_exact() {
        let counters = ListenerCounters::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counters.accept();
                        counters.end(Ending::ClientClosed, Duration::from_micros(7));
                    }
                });
            }
        });
        assert_eq!((counters.accepted(), counters.active()), (40_000, 0));
        assert_eq!(counters.duration().count(), 40_000);
        assert_eq!(counters.duration().sum_micros(), 280_000);
    }
}
