//! What happens to connections on a backend that has lost the active role.
//!
//! From the grace on they are closed at a rate, those first on which no byte has moved for the longest:
//! thousands of clients that all come back at the same moment would hurt the new active backend.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::info;

use crate::failover::Id;
use crate::state::{Ending, Notice, Open, Threads, Which};

/// How often some are closed.
const STEP_MS: u64 = 50;
/// The same.
const STEP: Duration = Duration::from_millis(STEP_MS);

/// A demotion under way; dropping it leaves the connections that are left alone.
#[derive(Debug)]
pub(super) struct Demotion(AbortHandle);

impl Drop for Demotion {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to close the connections of `backend`, which gets no new ones, from `grace` on, so many a
/// second. Must be called on a local runtime.
pub(super) fn demote(threads: &Threads, backend: Id, grace: Duration, rate: u32) -> Demotion {
    let threads = threads.clone();
    let task = tokio::task::spawn_local(async move {
        tokio::time::sleep(grace).await;
        close(&threads, backend, rate).await;
    });
    Demotion(task.abort_handle())
}

async fn close(threads: &Threads, backend: Id, rate: u32) {
    let mut open = list(threads, Some(backend)).await;
    open.sort_by_key(|one| one.active);
    if !open.is_empty() {
        info!(backend, connections = open.len(), rate, "closing connections of a demoted backend");
    }
    let count = open.len();
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // In millionths of a connection, so that any rate comes out right.
    let mut credit: u64 = 0;
    let mut left = open.into_iter();
    while left.len() > 0 {
        ticks.tick().await;
        credit += u64::from(rate) * STEP_MS * 1_000;
        let count = usize::try_from(credit / 1_000_000).unwrap_or(usize::MAX);
        credit %= 1_000_000;
        let mut numbers: Vec<u64> = left.by_ref().take(count).map(|one| one.number).collect();
        if !numbers.is_empty() {
            numbers.sort_unstable();
            let which = Which::Numbers(numbers.into());
            threads.tell(&Notice::End { which, reason: Ending::Demoted }).await;
        }
    }
    if count > 0 {
        info!(backend, connections = count, "the demoted backend has no connections left");
    }
}

/// The open connections of all threads, or those of one backend.
pub(super) async fn list(threads: &Threads, of: Option<Id>) -> Vec<Open> {
    let (to, mut lists) = mpsc::unbounded_channel();
    threads.tell(&Notice::List { of, to }).await;
    let mut open = Vec::new();
    while let Some(list) = lists.recv().await {
        open.extend(list);
    }
    open
}
