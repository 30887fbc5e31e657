//! A backend: who it is, and its live numbers.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::balance::Load;
use crate::net::addr::Address;
use crate::net::relay::Totals;

/// One worker node of a pool.
#[derive(Debug)]
pub struct Backend {
    /// Identity within the process; never given to another backend.
    pub id: u32,
    /// Its name within its pool.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// What a strategy may read.
    pub load: Arc<Load>,
    /// Bytes that its connections carried.
    pub totals: Arc<Totals>,
}

/// "This connection occupies a slot of that backend"; dropping it frees the slot.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
}

impl Lease {
    /// Takes a slot of `backend`; `None` when `limit` are taken. At no moment are more.
    #[must_use]
    pub fn take(backend: &Arc<Backend>, limit: Option<NonZeroU32>) -> Option<Self> {
        backend.load.take(limit).then(|| Self { backend: Arc::clone(backend) })
    }

    /// Whose slot it is.
    #[must_use]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.load.give_back();
    }
}
