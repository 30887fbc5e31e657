//! What the tests stand on: the program under test, scripted peers, and deadlines.
//!
//! Peers are plain blocking sockets with a time limit on every call, so that a test is a straight
//! line to read and cannot hang. [`Setup`] starts the program and [`Proxy`] is the running one;
//! [`Peer`] is one end of a connection, on either side; [`TestBackend`] is a worker node.

pub(crate) mod admin;
pub(crate) mod backend;
pub(crate) mod cli;
pub(crate) mod exchange;
pub(crate) mod hole;
pub(crate) mod log;
pub(crate) mod netns;
pub(crate) mod node;
pub(crate) mod pattern;
pub(crate) mod peer;
pub(crate) mod procfs;
pub(crate) mod proxy;
pub(crate) mod setup;

use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) use backend::TestBackend;
pub(crate) use exchange::Exchange;
pub(crate) use hole::{BlackHole, Refusing};
pub(crate) use node::{Answers, Mode, Node};
pub(crate) use pattern::Pattern;
pub(crate) use peer::{End, Peer};
pub(crate) use proxy::Proxy;
pub(crate) use setup::Setup;

/// How long anything may take that has no time of its own in the contract.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a busy machine may add to a time that the contract promises.
pub(crate) const SLACK: Duration = Duration::from_millis(400);

/// Milliseconds, short.
pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Lets `time` pass: for silences that belong to a scenario, never to wait for something.
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until `holds`; panics with `what` when it does not within `deadline`.
#[track_caller]
pub(crate) fn eventually(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        pause(ms(3));
    }
}

/// Checks for all of `time` that `holds`; panics with `what` when it once does not.
#[track_caller]
pub(crate) fn throughout(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(holds(), "not any more after {:?}: {what}", start.elapsed());
        pause(ms(3));
    }
}

/// The middle one of some times.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Says why a test does nothing here.
pub(crate) fn skipped(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by a macro: what those print is shown for tests that fail only.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

/// Runs `work(0)`, …, `work(count - 1)` at the same time and gives what they returned, in order.
pub(crate) fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|i| scope.spawn(move || work(i))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
