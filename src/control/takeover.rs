//! A takeover while its report is put together.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::failover::{Assembly, Id, Report};
use crate::health::Tick;
use crate::state::{Backend, Live, Rotation};

/// How long a report waits after the first connection, for those that the takeover met.
const SETTLE: Tick = 100;
/// How long it waits for a first connection.
const PATIENCE: Tick = 3_000;
/// A death shows in connections this long before anybody notices.
const BEFORE: Tick = 1_000;

/// A takeover.
#[derive(Debug)]
pub(super) struct Takeover {
    assembly: Assembly,
    /// Who has lost the role.
    pub(super) from: Option<Id>,
    old: Option<Arc<Backend>>,
    /// The rotation that the new active backend serves in.
    rotation: Option<Arc<Rotation>>,
    first_sign: Tick,
    /// Connections that had been retried before it.
    retried: u64,
}

impl Takeover {
    /// A takeover whose report begins with `assembly`.
    pub(super) fn new(
        assembly: Assembly,
        (from, old): (Option<Id>, Option<Arc<Backend>>),
        first_sign: Option<Tick>,
        live: &Live,
    ) -> Self {
        Self {
            first_sign: first_sign.unwrap_or(assembly.decided()),
            retried: live.met.retried.load(Relaxed),
            assembly,
            from,
            old,
            rotation: None,
        }
    }

    /// The first rotation published after it is the one that the new active backend serves in.
    pub(super) fn watch(&mut self, rotation: &Arc<Rotation>) {
        if !rotation.is_empty() {
            self.rotation.get_or_insert_with(|| Arc::clone(rotation));
        }
    }

    /// Whether the report can be told.
    pub(super) fn is_complete(&mut self, at: Tick) -> bool {
        self.see_served();
        self.assembly.is_complete(at, SETTLE, PATIENCE)
    }

    fn see_served(&mut self) {
        if let Some(served) = self.rotation.as_ref().and_then(|rotation| rotation.served()) {
            self.assembly.connected(served);
        }
    }

    /// The report, with what is counted by now; `is_demoted`: the connections that the old one has left
    /// are going to be closed. What is told here no later report tells again.
    pub(super) fn report(mut self, live: &Live, at: Tick, is_demoted: bool) -> Report {
        self.see_served();
        self.assembly.add_retried(live.met.retried.load(Relaxed).saturating_sub(self.retried));
        self.assembly.add_lost(live.met.lost.take_between(self.first_sign, at));
        if let Some(old) = &self.old {
            let from = self.first_sign.saturating_sub(BEFORE);
            self.assembly.add_cut(old.cuts.take_between(from, at));
            let open = old.load.open();
            self.assembly.add_demoting(if is_demoted { open.into() } else { 0 });
        }
        self.assembly.report().clone()
    }
}
