//! The attempts of a connection that are under way.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::task::Waker;
use std::time::Instant;

use crate::net::clock::Tick;
use crate::net::dial::Dial;
use crate::state::Lease;

/// One attempt under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) dial: Dial,
    pub(super) lease: Lease,
    pub(super) started: Instant,
    pub(super) expires: Tick,
}

/// The attempts of one connection that are under way, where its thread finds them when one of their
/// backends must not be connected to any more.
#[derive(Default)]
pub(in crate::proxy) struct Attempts {
    pub(super) list: RefCell<Vec<Attempt>>,
    /// The backend that was fenced off from it.
    pub(super) fenced: Cell<Option<u32>>,
    pub(super) waker: Cell<Option<Waker>>,
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempts({})", self.list.borrow().len())
    }
}

impl Attempts {
    /// Gives up those to `backend`; its connection goes on with the next.
    pub(in crate::proxy) fn fence(&self, backend: u32) {
        let mut list = self.list.borrow_mut();
        let is_fenced = |attempt: &mut Attempt| attempt.lease.backend().id == backend;
        let given_up: Vec<_> = list.extract_if(.., is_fenced).collect();
        if given_up.is_empty() {
            return;
        }
        given_up.into_iter().for_each(|attempt| attempt.dial.abandon());
        self.fenced.set(Some(backend));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
