//! What the process does at a reload: listening sockets, limits, the log.

#![allow(clippy::disallowed_types, reason = "a lock taken at start, reload, upgrade and stop only")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::access::Access;
use super::doors::Doors;
use super::endpoint::Endpoint;
use super::limits::{Needs, Shares, share};
use crate::config::model::Config;
use crate::control::reload::{Host, HostError};
use crate::net::addr::Address;
use crate::state::{Slots, Snapshot};

/// What the supervisor and the control plane both have to do with.
#[derive(Debug)]
pub(super) struct Held<T>(Arc<Mutex<T>>);

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Held<T> {
    pub(super) fn new(held: T) -> Self {
        Self(Arc::new(Mutex::new(held)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process around the control plane.
pub(super) struct Around {
    pub(super) doors: Held<Doors>,
    pub(super) endpoint: Held<Endpoint>,
    pub(super) access: Held<Access>,
    pub(super) slots: Arc<Slots>,
    pub(super) descriptors: u64,
    pub(super) threads: usize,
    /// Descriptors that checks may have open at once.
    pub(super) checks: u32,
    pub(super) prepared: Option<(Shares, Config)>,
}

impl Host for Around {
    fn addresses(&self) -> Vec<(String, Address)> {
        self.doors.lock().addresses()
    }

    fn descriptors_of_checks(&self) -> u32 {
        self.checks
    }

    fn prepare(&mut self, config: &Config, snapshot: &Snapshot) -> Result<(), HostError> {
        let wanted = config.runtime.max_connections;
        let needs = Needs::of(config, self.threads);
        let shares = share(self.descriptors, needs, wanted).map_err(|possible| {
            HostError(format!(
                "runtime.max_connections: {} connections need more descriptors than the {} this \
                 process may open; at most {possible} are possible",
                wanted.map_or(1, Into::into),
                self.descriptors
            ))
        })?;
        let words = |error: &dyn std::error::Error| HostError(error.to_string());
        self.doors.lock().prepare(snapshot).map_err(|error| words(&error))?;
        self.endpoint.lock().prepare(config.admin.as_ref()).map_err(|error| words(&error))?;
        self.access.lock().prepare(&config.log).map_err(|error| words(&error))?;
        self.prepared = Some((shares, config.clone()));
        Ok(())
    }

    fn commit(&mut self) {
        self.doors.lock().commit();
        self.endpoint.lock().commit();
        self.access.lock().commit();
        let Some((shares, config)) = self.prepared.take() else { return };
        self.slots.set_limit(Some(shares.connections));
        shares.warn_of_checks(&Needs::of(&config, self.threads));
        self.checks = shares.checks;
        crate::log::set_level(config.log.level);
    }

    fn abandon(&mut self) {
        self.doors.lock().abandon();
        self.endpoint.lock().abandon();
        self.access.lock().abandon();
        self.prepared = None;
    }
}
