//! What the process does at a reload: listening sockets, limits, the log.

#![allow(clippy::disallowed_types, reason = "a lock taken at start, reload, upgrade and stop only")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::doors::Doors;
use super::limits::{Shares, share};
use crate::config::model::{Config, Runtime};
use crate::control::reload::{Host, HostError};
use crate::net::addr::Address;
use crate::state::{Slots, Snapshot};

/// The doors of the process, which the supervisor and the control plane both have to do with.
#[derive(Clone, Debug)]
pub(super) struct SharedDoors(Arc<Mutex<Doors>>);

impl SharedDoors {
    pub(super) fn new(doors: Doors) -> Self {
        #[expect(
            clippy::disallowed_types,
            reason = "taken at start, reload, upgrade and stop only"
        )]
        Self(Arc::new(Mutex::new(doors)))
    }
    pub(super) fn lock(&self) -> MutexGuard<'_, Doors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process around the control plane.
pub(super) struct Around {
    pub(super) doors: SharedDoors,
    pub(super) slots: Arc<Slots>,
    pub(super) descriptors: u64,
    pub(super) threads: usize,
    /// What is in force, or about to be.
    pub(super) runtime: Runtime,
    pub(super) log: crate::config::model::Log,
    pub(super) prepared: Option<(Shares, Config)>,
}

impl Host for Around {
    fn addresses(&self) -> Vec<(String, Address)> {
        self.doors.lock().addresses()
    }

    fn prepare(&mut self, config: &Config, snapshot: &Snapshot) -> Result<(), HostError> {
        let addresses: usize = snapshot.listeners.iter().map(|listener| listener.bind.len()).sum();
        let wanted = config.runtime.max_connections;
        let sockets = addresses * self.threads;
        let shares = share(self.descriptors, sockets, self.threads, wanted).map_err(|possible| {
            HostError(format!(
                "runtime.max_connections: {} connections need more descriptors than the {} this \
                 process may open; at most {possible} are possible",
                wanted.map_or(1, Into::into),
                self.descriptors
            ))
        })?;
        self.doors.lock().prepare(snapshot).map_err(|error| HostError(error.to_string()))?;
        self.prepared = Some((shares, config.clone()));
        Ok(())
    }

    fn commit(&mut self) {
        self.doors.lock().commit();
        let Some((shares, config)) = self.prepared.take() else { return };
        self.slots.set_limit(Some(shares.connections));
        if config.runtime.threads != self.runtime.threads {
            warn!("runtime.threads has changed: another number of threads needs a restart");
        }
        if config.log.format != self.log.format {
            warn!("log.format has changed: another format needs a restart");
        }
        crate::log::set_level(config.log.level);
        (self.runtime, self.log) = (config.runtime, config.log);
    }

    fn abandon(&mut self) {
        self.doors.lock().abandon();
        self.prepared = None;
    }
}
