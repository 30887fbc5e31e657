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
pub(super) fn failed(worker: &Worker, pool: &Pool, lease: &Lease, what: (Trouble, Tick)) {
    let Some(detection) = pool.detection else { return };
    let (trouble, began) = what;
    let backend = lease.backend();
    let (count, first) = backend.streak.fail(worker.engine.clock.exact());
    let report = match lease.trial() {
        Some(trial) => Report::Tried { backend: backend.id, trial, trouble: Some(trouble) },
        None if is_due(count, detection.consecutive_failures) => {
            Report::Failing { backend: backend.id, count, last: trouble, first, began }
        }
        None => return,
    };
    pool.live.ask();
    if !worker.shared.reporter.tell(report) {
        pool.live.answer();
    }
}

/// A connection was served: the row of failures has ended, and a trial is passed.
pub(super) fn served(worker: &Worker, pool: &Pool, lease: &Lease) {
    lease.backend().streak.end();
    if let Some(trial) = lease.trial() {
        let report = Report::Tried { backend: lease.backend().id, trial, trouble: None };
        pool.live.ask();
        if !worker.shared.reporter.tell(report) {
            pool.live.answer();
        }
    }
}
