//! `least_connections`: the one with the fewest open connections, by weight.
//!
//! Compares `(open + 1) / weight`, the load a backend would have with this connection, as the
//! shortest-expected-delay scheduler of LVS (Wensong Zhang, `ip_vs_sed.c`, 2003) and HAProxy's
//! `leastconn` (`lb_fwlc.c`) do; as in HAProxy idle ones are all equal, and equals are taken in turn,
//! by weight. Without that a pool with one connection at a time would only ever use its heaviest.

use super::lowest::{Cost, LANES, Loads, Lowest};
use super::{Candidate, Entry, Request, Strategy};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "least_connections",
    summary: "the fewest open connections, by weight",
    options: &[],
    build: |candidates, _| Box::new(LeastConnections(Lowest::of(candidates))),
};

/// Looks at every candidate.
struct LeastConnections(Lowest);

impl Strategy for LeastConnections {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        self.0.pick(candidates, request, Crowd)
    }
}

/// Counts connections.
#[derive(Clone, Copy)]
struct Crowd;

impl Cost for Crowd {
    #[inline(always)]
    fn of(self, loads: &Loads) -> [f32; LANES] {
        let (mut open, mut costs) = ([0; LANES], [0.0; LANES]);
        for (open, load) in open.iter_mut().zip(loads) {
            *open = load.open();
        }
        for (cost, open) in costs.iter_mut().zip(open) {
            *cost = crowd(open);
        }
        costs
    }
}

/// What a backend with so many open connections would have with one more; 0 if it is idle now.
///
/// Exact up to 2^24 connections, then to one part in 2^24.
pub(super) fn crowd(open: u32) -> f32 {
    let open = open.cast_signed();
    (open + i32::from(open > 0)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{asking, open_of, shares_by_weight, weighing, with_open};
    use crate::balance::{Options, Tried};

    fn pick(candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        (ENTRY.build)(candidates, &Options::default()).pick(candidates, request)
    }

    /// Opens `count` connections one after another and keeps them.
    fn fill(candidates: &[Candidate], count: u64) {
        let tried = Tried::default();
        for turn in 0..count {
            let request = Request { turn, ..asking(&tried) };
            let index = pick(candidates, &request).unwrap();
            assert!(candidates[index].load.take(None));
        }
    }

    #[test]
    fn the_least_crowded_by_weight_is_picked() {
        let pick = |weights: &[u32], open: &[u32]| {
            pick(&with_open(weights, open), &asking(&Tried::default()))
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
            had[pick(&candidates, &request).unwrap()] += 1;
        }
        assert_eq!((had[2], had[6]), (0, 0));
        assert!(
            (0..10).filter(|index| ![2, 6].contains(index)).all(|i| (99..=101).contains(&had[i]))
        );
    }

    #[test]
    fn of_many_connections_one_more_still_counts() {
        let candidates = with_open(&[3, 3], &[3_000_001, 3_000_000]);
        assert_eq!(pick(&candidates, &asking(&Tried::default())), Some(1));
    }

    #[test]
    fn an_idle_pool_is_shared_by_weight() {
        shares_by_weight(&ENTRY, 0.01);
    }
}
