//! `least_latency`: the lowest connect time × connections, by weight.
//!
//! The cost is the peak EWMA of the connect time (see [`Load::record_latency`]) times the open
//! connections with this one, divided by the weight: Finagle's `PeakEwma` (Twitter, 2016) over all
//! candidates. The open connections are what keeps everyone from running to the fastest.
//!
//! [`Load::record_latency`]: super::Load::record_latency

use super::load::Average;
use super::lowest::{Cost, LANES, Loads, Lowest};
use super::{Candidate, Entry, Request, Strategy};

/// Microseconds assumed of a backend that has connections and no measured connect yet: one second,
/// as Finagle and tower assume.
const UNKNOWN: f32 = 1e6;

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "least_latency",
    summary: "the lowest connect time (peak EWMA) times open connections, by weight",
    options: &[],
    build: |candidates, _| Box::new(LeastLatency(Lowest::of(candidates))),
};

/// Looks at every candidate.
struct LeastLatency(Lowest);

impl Strategy for LeastLatency {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        self.0.pick(candidates, request, Wait { now_ms: request.now_ms })
    }
}

/// Weighs latency and connections as of `now_ms`.
#[derive(Clone, Copy)]
struct Wait {
    now_ms: u32,
}

impl Cost for Wait {
    #[inline(always)]
    fn of(self, loads: &Loads) -> [f32; LANES] {
        let (mut open, mut costs) = ([0; LANES], [0.0; LANES]);
        let (mut micros, mut at_ms) = ([0.0; LANES], [0; LANES]);
        for (lane, load) in loads.iter().enumerate() {
            open[lane] = load.open();
            Average { micros: micros[lane], at_ms: at_ms[lane] } = load.average();
        }
        for (lane, cost) in costs.iter_mut().enumerate() {
            let average = Average { micros: micros[lane], at_ms: at_ms[lane] };
            *cost = wait(open[lane], average, self.now_ms);
        }
        costs
    }
}

/// What a connection more would cost: microseconds × connections.
///
/// A backend that was never measured costs nothing while it is idle, so that it is tried, and much
/// once a connection is on the way, so that it gets one and not all of them until that one is
/// measured.
fn wait(open: u32, average: Average, now_ms: u32) -> f32 {
    let micros = average.decayed(now_ms);
    let (micros, this) = if average.is_measured() { (micros, 1.0) } else { (UNKNOWN, 0.0) };
    micros * (open.cast_signed() as f32 + this)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{asking, open_of, weighing, with_open};
    use crate::balance::{Options, Tried};

    /// Candidates with these connections and microseconds, measured at time 0.
    fn measured(weights: &[u32], open: &[u32], micros: &[u32]) -> Vec<Candidate> {
        let candidates = with_open(weights, open);
        candidates.iter().zip(micros).for_each(|(one, micros)| one.load.record_latency(*micros, 0));
        candidates
    }

    fn pick(candidates: &[Candidate], turn: u64, now_ms: u32) -> usize {
        let tried = Tried::default();
        let request = Request { turn, now_ms, ..asking(&tried) };
        (ENTRY.build)(candidates, &Options::default()).pick(candidates, &request).unwrap()
    }

    #[test]
    fn latency_connections_and_weight_all_count() {
        assert_eq!(pick(&measured(&[1, 1], &[1, 1], &[300, 200]), 0, 0), 1);
        assert_eq!(pick(&measured(&[1, 1], &[1, 4], &[300, 200]), 0, 0), 0, "600 against 1,000");
        assert_eq!(pick(&measured(&[1, 2], &[1, 4], &[300, 200]), 0, 0), 1, "600 against 500");
    }

    #[test]
    fn a_new_backend_gets_one_connection_until_that_is_measured() {
        let mut candidates = measured(&[1, 1], &[2, 2], &[100, 100]);
        candidates.extend(weighing(&[1]));
        let first = pick(&candidates, 0, 0);
        assert_eq!(first, 2);
        assert!(candidates[2].load.take(None));
        assert!((0..100).all(|turn| pick(&candidates, turn, 0) != 2));
        candidates[2].load.record_latency(100, 0);
        assert_eq!(pick(&candidates, 0, 0), 2, "200 against 300");
    }

    #[test]
    fn a_pool_that_was_never_measured_is_filled_evenly() {
        let candidates = weighing(&[1; 5]);
        for turn in 0..50 {
            assert!(candidates[pick(&candidates, turn, 0)].load.take(None));
        }
        assert_eq!(open_of(&candidates), [10; 5]);
    }

    #[test]
    fn one_that_was_slow_is_asked_again_when_its_latency_has_decayed() {
        let candidates = measured(&[1, 1], &[0, 0], &[100, 51_200]);
        let later = 10 * 8_192;
        candidates[0].load.record_latency(100, later);
        assert_eq!(pick(&candidates, 0, 0), 0);
        assert_eq!(pick(&candidates, 0, later), 1, "50 µs after ten half-lives");
    }
}
