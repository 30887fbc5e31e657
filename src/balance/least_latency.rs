//! `least_latency`: the lowest connect time × connections, by weight.
//!
//! The cost is the peak EWMA of the connect time (see [`Load::record_latency`]) times the open
//! connections with this one, divided by the weight: Finagle's `PeakEwma` (Twitter, 2016) over all
//! candidates. The open connections are what keeps everyone from running to the fastest.
//!
//! [`Load::record_latency`]: super::Load::record_latency

use super::lowest::lowest;
use super::{Candidate, Entry, Request, Strategy};

/// Microseconds assumed of a backend that has connections and no measured connect yet: one second,
/// as Finagle and tower assume.
const UNKNOWN: f32 = 1e6;

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "least_latency",
    summary: "the lowest connect time (peak EWMA) times open connections, by weight",
    options: &[],
    build: |_, _| Box::new(LeastLatency),
};

/// Looks at every candidate; needs nothing prepared.
struct LeastLatency;

impl Strategy for LeastLatency {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        lowest(candidates, request, |candidate| cost(candidate, request.now_ms))
    }
}

/// What a connection more would cost: microseconds × connections / weight.
///
/// A backend that was never measured costs nothing while it is idle, so that it is tried, and much
/// once a connection is on the way, so that it gets one and not all of them until that one is
/// measured.
fn cost(candidate: &Candidate, now_ms: u32) -> f32 {
    let open = candidate.load.open();
    let latency = match candidate.load.latency(now_ms) {
        Some(latency) => latency,
        None if open == 0 => 0.0,
        None => UNKNOWN,
    };
    latency * (open as f32 + 1.0) / candidate.weight as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Tried;
    use crate::balance::contract::{asking, open_of, weighing, with_open};

    /// Candidates with these connections and microseconds, measured at time 0.
    fn measured(weights: &[u32], open: &[u32], micros: &[u32]) -> Vec<Candidate> {
        let candidates = with_open(weights, open);
        candidates.iter().zip(micros).for_each(|(one, micros)| one.load.record_latency(*micros, 0));
        candidates
    }

    fn pick(candidates: &[Candidate], turn: u64, now_ms: u32) -> usize {
        let tried = Tried::default();
        let request = Request { turn, now_ms, ..asking(&tried) };
        LeastLatency.pick(candidates, &request).unwrap()
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
        let later = 10 * 7_000;
        candidates[0].load.record_latency(100, later);
        assert_eq!(pick(&candidates, 0, 0), 0);
        assert_eq!(pick(&candidates, 0, later), 1, "50 µs after ten half-lives");
    }
}
