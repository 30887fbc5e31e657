//! What connections say about their backend: failures in a row, and the outcome of trials.
//!
//! Counted is what the backend or the way to it did: refused, timed out, unreachable, reset before its
//! first byte, silent for too long. A byte from it, or an end in order, ends the row. What this host
//! lacks, idle expiry and what clients do say nothing.

use super::worker::Worker;
use crate::health::{Trouble, is_due};
use crate::net::clock::Tick;
use crate::net::dial::ConnectError;
use crate::state::{Lease, Pool, Report};

/// What a failed connect says about the backend; `None`: nothing, it was this host's doing.
pub(super) fn trouble(error: ConnectError) -> Option<Trouble> {
    Some(match error {
        ConnectError::Refused => Trouble::Refused,
        ConnectError::Timeout => Trouble::TimedOut,
        ConnectError::Unreachable => Trouble::Unreachable,
        ConnectError::Reset => Trouble::Reset,
        ConnectError::Other(errno) => Trouble::Other(errno.to_string().into()),
        ConnectError::Local(_) => return None,
    })
}

/// A connection that began at `began` has failed: counts it, and reports what the control plane has to
/// decide on.
///
/// `own` is how many attempts of this one client failed there in a row, if it made several. They are a
/// row even when others were served meanwhile: by a backend that dies, the last one's first byte is
/// seen between the first refusals of the next.
pub(super) fn failed(worker: &Worker, pool: &Pool, lease: &Lease, what: (Trouble, Tick, u32)) {
    let Some(detection) = pool.detection else { return };
    let (trouble, began, own) = what;
    let backend = lease.backend();
    // Before it is counted: nobody may see that the count is full and not that it will be told.
    let asked = pool.live.ask();
    let (count, first) = backend.streak.fail(worker.engine.clock.exact());
    let threshold = detection.consecutive_failures;
    let report = match lease.trial() {
        Some(trial) => Report::Tried { backend: backend.id, trial, trouble: Some(trouble) },
        None if is_due(count, threshold) || is_due(own, threshold) => {
            let count = count.max(own);
            Report::Failing { backend: backend.id, count, last: trouble, first, began }
        }
        None => return,
    };
    worker.shared.reporter.tell(report, asked);
}

/// A connection was served: the row of failures has ended, and a trial is passed.
pub(super) fn served(worker: &Worker, pool: &Pool, lease: &Lease) {
    lease.backend().streak.end();
    if let Some(trial) = lease.trial() {
        let report = Report::Tried { backend: lease.backend().id, trial, trouble: None };
        worker.shared.reporter.tell(report, pool.live.ask());
    }
}
