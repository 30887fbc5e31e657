//! `least_connections`: the one with the fewest open connections, by weight.
//!
//! Compares `(open + 1) / weight`, the load a backend would have with this connection, as the
//! shortest-expected-delay scheduler of LVS (Wensong Zhang, `ip_vs_sed.c`, 2003) and HAProxy's
//! `leastconn` (`lb_fwlc.c`) do; as in HAProxy idle ones are all equal, and equals are taken in turn,
//! by weight. Without that a pool with one connection at a time would only ever use its heaviest.

use super::lowest::lowest;
use super::{Candidate, Entry, Request, Strategy};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "least_connections",
    summary: "the fewest open connections, by weight",
    options: &[],
    build: |_, _| Box::new(LeastConnections),
};

/// Looks at every candidate; needs nothing prepared.
struct LeastConnections;

impl Strategy for LeastConnections {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        lowest(candidates, request, Crowd::of)
    }
}

/// How crowded a backend would be with one connection more: `(open + 1) / weight`, 0 if idle now.
///
/// Compared by cross multiplication: exact, and no division.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    /// Connections with the new one; 0 for an idle backend.
    open: u64,
    weight: u64,
}

impl Crowd {
    /// How crowded `candidate` would be.
    pub(super) fn of(candidate: &Candidate) -> Self {
        let open = match candidate.load.open() {
            0 => 0,
            open => u64::from(open) + 1,
        };
        Self { open, weight: candidate.weight.into() }
    }
}

impl PartialEq for Crowd {
    fn eq(&self, other: &Self) -> bool {
        self.open * other.weight == other.open * self.weight
    }
}

impl PartialOrd for Crowd {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (self.open * other.weight).partial_cmp(&(other.open * self.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Tried;
    use crate::balance::contract::{asking, open_of, shares_by_weight, weighing, with_open};

    /// Opens `count` connections one after another and keeps them.
    fn fill(candidates: &[Candidate], count: u64) {
        let tried = Tried::default();
        for turn in 0..count {
            let request = Request { turn, ..asking(&tried) };
            let index = LeastConnections.pick(candidates, &request).unwrap();
            assert!(candidates[index].load.take(None));
        }
    }

    #[test]
    fn the_least_crowded_by_weight_is_picked() {
        let pick = |weights: &[u32], open: &[u32]| {
            LeastConnections.pick(&with_open(weights, open), &asking(&Tried::default()))
        };
        assert_eq!(pick(&[1, 1, 1], &[2, 1, 3]), Some(1));
        assert_eq!(pick(&[3, 1], &[4, 1]), Some(0), "5/3 is less than 2/1");
        assert_eq!(pick(&[3, 1], &[6, 1]), Some(1), "2/1 is less than 7/3");
        assert_eq!(pick(&[9, 1], &[1, 0]), Some(1), "an idle one comes first");
    }

    #[test]
    fn kept_connections_are_shared_by_weight() {
        let candidates = weighing(&[3, 1]);
        fill(&candidates, 400);
        assert_eq!(open_of(&candidates), [300, 100]);
    }

    #[test]
    fn kept_connections_are_never_more_than_one_apart() {
        let candidates = weighing(&[1; 7]);
        fill(&candidates, 100);
        assert!(open_of(&candidates).iter().all(|open| [14, 15].contains(open)));
    }

    #[test]
    fn an_idle_pool_is_used_evenly_and_not_its_first_backend_alone() {
        let candidates = with_open(&[1; 10], &[0, 0, 5, 0, 0, 0, 5, 0, 0, 0]);
        let mut had = [0; 10];
        for turn in 0..800 {
            let tried = Tried::default();
            let request = Request { turn, ..asking(&tried) };
            had[LeastConnections.pick(&candidates, &request).unwrap()] += 1;
        }
        assert_eq!((had[2], had[6]), (0, 0));
        assert!(
            (0..10).filter(|index| ![2, 6].contains(index)).all(|i| (99..=101).contains(&had[i]))
        );
    }

    #[test]
    fn the_largest_numbers_are_compared_exactly() {
        let candidates = with_open(&[u32::MAX, u32::MAX - 1], &[u32::MAX, u32::MAX]);
        assert_eq!(LeastConnections.pick(&candidates, &asking(&Tried::default())), Some(0));
    }

    #[test]
    fn an_idle_pool_is_shared_by_weight() {
        shares_by_weight(&ENTRY, 0.01);
    }
}
