//! `hot_standby`: the active backend.
//!
//! Which one is active is decided by failover, not here: the rotation of such a pool holds the active
//! one alone. Given more, the first in order is picked, which is the order of taking over: priority,
//! then the list. The roles are those of VRRP (RFC 9568, section 6): one active router, elected by
//! priority, and backups that stay ready.

use super::{Candidate, Entry, Request, Strategy, first_left};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "hot_standby",
    summary: "one is active, the others take over in order",
    options: &[],
    build: |_, _| Box::new(HotStandby),
};

/// Needs nothing prepared: the active one comes first.
struct HotStandby;

impl Strategy for HotStandby {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        first_left(candidates, request.tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Tried;
    use crate::balance::contract::{asking, with_open};

    #[test]
    fn the_active_one_gets_every_connection_however_busy() {
        let candidates = with_open(&[1, 9], &[70_000, 0]);
        let tried = Tried::default();
        for turn in 0..100 {
            let request = Request { turn, random: turn << 57, ..asking(&tried) };
            assert_eq!(HotStandby.pick(&candidates, &request), Some(0));
        }
    }
}
