//! A takeover while its report is put together.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::failover::{Assembly, Id, Report};
use crate::health::Tick;
use crate::state::{Backend, Live, Rotation};

/// How long a report waits after the first connection, for those that the takeover met.
const SETTLE: Tick = 100;
/// How long it waits for a first connection, and for a demotion that takes longer than planned.
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
    /// The longest that the demotion is planned to take.
    demotion: Tick,
}

impl Takeover {
    /// A takeover whose report begins with `assembly`; `demotion` is the longest that closing the
    /// old one's connections is planned to take.
    pub(super) fn new(
        assembly: Assembly,
        (from, old): (Option<Id>, Option<Arc<Backend>>),
        (first_sign, demotion): (Option<Tick>, Tick),
        live: &Live,
    ) -> Self {
        Self {
            first_sign: first_sign.unwrap_or(assembly.decided()),
            retried: live.met.retried.load(Relaxed),
            assembly,
            from,
            old,
            rotation: None,
            demotion,
        }
    }

    /// The first rotation published after it is the one that the new active backend serves in.
    pub(super) fn watch(&mut self, rotation: &Arc<Rotation>) {
        if !rotation.is_empty() {
            self.rotation.get_or_insert_with(|| Arc::clone(rotation));
        }
    }

    /// Whether the report can be told; `is_demoted`: the old one's connections are being closed, or
    /// were. One that was told to end takes a moment for it.
    pub(super) fn is_complete(&mut self, at: Tick, is_demoted: bool) -> bool {
        if let Some(served) = self.rotation.as_ref().and_then(|rotation| rotation.served()) {
            self.assembly.connected(served);
        }
        let is_settled = !is_demoted || self.old.as_ref().is_none_or(|old| old.load.open() == 0);
        let settle = if is_settled { SETTLE } else { Tick::MAX };
        let patience = if is_settled { PATIENCE } else { PATIENCE + self.demotion };
        self.assembly.is_complete(at, settle, patience)
    }

    /// The report, with what is counted by now.
    pub(super) fn report(mut self, live: &Live, at: Tick) -> Report {
        if let Some(served) = self.rotation.as_ref().and_then(|rotation| rotation.served()) {
            self.assembly.connected(served);
        }
        self.assembly.add_retried(live.met.retried.load(Relaxed).saturating_sub(self.retried));
        self.assembly.add_lost(live.met.lost.between(self.first_sign, at));
        if let Some(old) = &self.old {
            self.assembly.add_cut(old.cuts.between(self.first_sign.saturating_sub(BEFORE), at));
        }
        self.assembly.report().clone()
    }
}
