//! How many of a pool's connections may be retries.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Seconds that the budget looks back over.
const WINDOW_S: u64 = 10;
/// Cells: the window, the second under way, and slack so that no cell is read while it is reused.
const CELLS: usize = 16;
/// Retries in a second that are always allowed: a quiet pool may retry too.
const FLOOR: u64 = 10;

/// Counts of the last seconds; a retry is allowed while retries stay under a share of connections.
///
/// Each cell packs the second it counts for (upper 32 bits) and the count: a cell of another second
/// counts nothing. Two threads that meet in the first moment of a second may lose a count to each
/// other; a budget can bear that, and needs no lock.
#[derive(Debug, Default)]
pub struct RetryBudget {
    connections: [AtomicU64; CELLS],
    retries: [AtomicU64; CELLS],
}

impl RetryBudget {
    /// Counts a connection that starts at `now_ms`.
    pub fn count_connection(&self, now_ms: u64) {
        add(&self.connections, now_ms / 1000);
    }

    /// Whether one more retry is within a budget of `percent` of the connections, and never under 10
    /// retries a second; if so it is counted.
    pub fn try_retry(&self, now_ms: u64, percent: u32) -> bool {
        let second = now_ms / 1000;
        let allowed = sum(&self.connections, second) * u64::from(percent) / 100;
        let is_allowed =
            count(&self.retries, second) < FLOOR || sum(&self.retries, second) < allowed;
        if is_allowed {
            add(&self.retries, second);
        }
        is_allowed
    }
}

fn cell(cells: &[AtomicU64; CELLS], second: u64) -> &AtomicU64 {
    &cells[usize::try_from(second).unwrap_or(0) % CELLS]
}

fn add(cells: &[AtomicU64; CELLS], second: u64) {
    let cell = cell(cells, second);
    if cell.load(Relaxed) >> 32 == second & 0xffff_ffff {
        cell.fetch_add(1, Relaxed);
    } else {
        cell.store((second << 32) | 1, Relaxed);
    }
}

fn count(cells: &[AtomicU64; CELLS], second: u64) -> u64 {
    let word = cell(cells, second).load(Relaxed);
    if word >> 32 == second & 0xffff_ffff { word & 0xffff_ffff } else { 0 }
}

fn sum(cells: &[AtomicU64; CELLS], second: u64) -> u64 {
    (0..=WINDOW_S).map_while(|back| second.checked_sub(back)).map(|s| count(cells, s)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries_granted((budget, percent): &(RetryBudget, u32), now_ms: u64, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(budget.try_retry(now_ms, *percent))).sum()
    }

    #[test]
    fn without_connections_ten_retries_a_second_are_allowed() {
        let budget = (RetryBudget::default(), 20);
        assert_eq!(retries_granted(&budget, 0, 100), 10);
        assert_eq!(retries_granted(&budget, 999, 100), 0);
        assert_eq!(retries_granted(&budget, 1000, 100), 10);
    }

    #[test]
    fn a_share_of_the_connections_of_the_last_ten_seconds_may_be_retries() {
        let budget = (RetryBudget::default(), 20);
        (0..1000).for_each(|_| budget.0.count_connection(5_000));
        assert_eq!(retries_granted(&budget, 9_000, 1000), 200);
    }

    #[test]
    fn connections_of_longer_ago_allow_nothing() {
        let budget = (RetryBudget::default(), 100);
        (0..1000).for_each(|_| budget.0.count_connection(5_000));
        assert_eq!(retries_granted(&budget, 16_000, 1000), 10);
    }

    #[test]
    fn a_budget_of_zero_leaves_the_floor() {
        let budget = (RetryBudget::default(), 0);
        (0..1000).for_each(|_| budget.0.count_connection(0));
        assert_eq!(retries_granted(&budget, 0, 1000), 10);
    }
}
