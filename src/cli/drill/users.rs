//! The users: a request at each tick, and a count of what became of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Requests a second.
pub(super) const RATE: u32 = 50;
/// How long a user waits before giving up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What takes longer is counted apart.
const LATE: Duration = Duration::from_secs(1);
/// The most that is read of an answer.
const MOST: u64 = 4096;

/// The users of a drill.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Whom they ask; nobody before the play begins.
    target: Cell<Option<SocketAddr>>,
    score: RefCell<Score>,
    /// Held to read during each request: whoever holds it to write knows that none is under way.
    gate: RwLock<()>,
}

/// What users saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Score {
    /// Requests answered.
    pub(super) served: u32,
    /// Requests that were not.
    pub(super) failed: u32,
    /// Answered after more than a second: how many, by who gave the answers.
    late: BTreeMap<String, u32>,
    /// The longest that an answer took.
    slowest: Duration,
    /// Answers, by who gave them.
    by: BTreeMap<String, u32>,
    /// How the first of those that failed did.
    pub(super) failure: Option<String>,
}

impl Users {
    /// Sends requests for ever, each on a connection of its own, whatever becomes of the others.
    pub(super) async fn come(self: Rc<Self>) {
        let mut ticks = interval(Duration::from_secs(1) / RATE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.target.get().is_some() {
                drop(spawn_local(Rc::clone(&self).one()));
            }
        }
    }

    /// One user.
    async fn one(self: Rc<Self>) {
        let _under_way = self.gate.read().await;
        let Some(target) = self.target.get() else { return };
        let start = Instant::now();
        let answer = timeout(PATIENCE, request(target)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.score.borrow_mut().count(start.elapsed(), answer);
    }

    /// Waits until no request is under way; none begins until the guard is dropped.
    pub(super) async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// From now on they ask this one.
    pub(super) fn ask(&self, target: SocketAddr) {
        self.target.set(Some(target));
    }

    /// What they saw since the last [`take`](Self::take).
    pub(super) fn score(&self) -> Score {
        self.score.borrow().clone()
    }

    /// The same, and the count begins anew.
    pub(super) fn take(&self) -> Score {
        self.score.take()
    }
}

impl Score {
    fn count(&mut self, took: Duration, answer: io::Result<String>) {
        match answer {
            Ok(name) => {
                self.served += 1;
                if took > LATE {
                    *self.late.entry(name.clone()).or_default() += 1;
                }
                self.slowest = self.slowest.max(took);
                *self.by.entry(name).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                self.failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// Adds what was seen at another time.
    pub(super) fn add(&mut self, other: Self) {
        self.served += other.served;
        self.failed += other.failed;
        self.slowest = self.slowest.max(other.slowest);
        for (own, others) in [(&mut self.by, other.by), (&mut self.late, other.late)] {
            for (name, count) in others {
                *own.entry(name).or_default() += count;
            }
        }
        self.failure = self.failure.take().or(other.failure);
    }

    /// How many were late, and where, after `frozen` has been so: the end of a sentence.
    pub(super) fn late_in_words(&self, frozen: &str) -> String {
        let late: u32 = self.late.values().sum();
        match (late, self.late.keys().all(|name| name == frozen)) {
            (0, _) => ".".to_owned(),
            (_, true) => {
                format!(", {late} of them late: they went to {frozen} before it was evicted.")
            }
            (_, false) => format!(", {late} of them after more than a second."),
        }
    }

    /// In a line.
    pub(super) fn line(&self) -> String {
        let Self { served, failed, late, by, .. } = self;
        let mut line = format!("{served} served, {failed} failed, ");
        let slowest = brief(self.slowest);
        let _ = match late.values().sum::<u32>() {
            0 => write!(line, "slowest {slowest}"),
            late => write!(line, "{late} late (up to {slowest})"),
        };
        for (place, (name, count)) in by.iter().enumerate() {
            let _ = write!(line, "{} {name} {count}", if place == 0 { ":" } else { "," });
        }
        line
    }
}

/// A duration as people say it.
fn brief(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ ..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", duration.as_secs_f32()),
    }
}

/// Asks over a connection of its own; the name of who answered.
async fn request(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: drill\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer).await?;
    let body = answer.strip_prefix("HTTP/1.1 200 ").and_then(|rest| rest.split_once("\r\n\r\n"));
    let name = body.and_then(|(_, body)| body.split_whitespace().next());
    let name = name.ok_or_else(|| io::Error::other("closed without an answer"))?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_saw_fits_a_line() {
        let mut score = Score::default();
        score.count(Duration::from_millis(3), Ok("web-1".into()));
        score.count(Duration::from_millis(4100), Ok("web-3".into()));
        assert_eq!(score.line(), "2 served, 0 failed, 1 late (up to 4.1 s): web-1 1, web-3 1");
    }

    #[test]
    fn who_was_late_is_said_to_have_been_where_it_was() {
        let mut score = Score::default();
        score.count(Duration::from_millis(3), Ok("web-1".into()));
        assert_eq!(score.late_in_words("web-3"), ".");
        score.count(Duration::from_secs(4), Ok("web-3".into()));
        assert!(score.late_in_words("web-3").contains("1 of them late: they went to web-3"));
        score.count(Duration::from_secs(2), Ok("web-1".into()));
        assert!(score.late_in_words("web-3").contains("2 of them after more than a second"));
    }

    #[test]
    fn the_first_failure_is_remembered() {
        let mut score = Score::default();
        score.count(Duration::ZERO, Err(io::Error::other("first")));
        let mut total = Score::default();
        total.add(score);
        total.count(Duration::ZERO, Err(io::Error::other("second")));
        assert_eq!((total.failed, total.failure.as_deref()), (2, Some("first")));
        assert_eq!(total.line(), "0 served, 2 failed, slowest 0 ms");
    }
}
