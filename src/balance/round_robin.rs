//! `round_robin`: each in turn, by weight, smoothly.
//!
//! "Smooth" is nginx's word (`ngx_http_upstream_round_robin.c`, 2012) for spreading the turns of a
//! heavy backend instead of giving them in a row, as LVS did before. This file reaches it by a
//! schedule computed once: the k-th turn of a backend of weight w in a cycle of W falls between
//! k·W/w and (k+1)·W/w, whoever must be served first goes first. That such a schedule exists for any
//! weights is shown in Baruah, Cohen, Plaxton, Varvel, Proportionate progress, 1996; after any number
//! of turns a backend is less than one turn from its exact share, both ways.
//!
//! Exact over the whole process, because the turn is one counter of the pool.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::shares::{GOLDEN, Shares, not_in, scale, spread};
use super::{Candidate, Entry, Request, Strategy};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "round_robin",
    summary: "each in turn, by weight, smoothly; the default",
    options: &[],
    build: |candidates, _| Box::new(RoundRobin::new(candidates)),
};

/// Longest cycle that is written down; for a longer one turns are computed. 256 KiB.
const LONGEST_SCHEDULE: u64 = 1 << 16;

/// Turns over the candidates: in each cycle each has as many as it weighs.
struct RoundRobin {
    /// Turns in a cycle: the sum of the weights over their greatest common divisor.
    cycle: u64,
    order: Order,
    /// The weights over that divisor, end to end.
    shares: Shares,
}

/// Who has which turn of a cycle.
enum Order {
    /// Written down.
    Schedule(Vec<u32>),
    /// The `turn · stride`-th unit of the line of weights, modulo its length. The stride is coprime
    /// to the length, so that a cycle meets each unit once, and near the golden section of it, so
    /// that turns in a row fall far apart: a backend stays within 6 turns of its exact share.
    Stride(u64),
}

impl Strategy for RoundRobin {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        let is_left = not_in(request.tried);
        let index = self.owner(request.turn.checked_rem(self.cycle)?)?;
        if candidates.get(index).is_some_and(|candidate| is_left(index, candidate)) {
            return Some(index);
        }
        // The turns of one that cannot serve are spread over all others by weight. If they went to
        // the next in the schedule, a full backend would double the load of its successor.
        self.shares.draw(candidates, spread(request.turn), is_left)
    }
}

impl RoundRobin {
    fn new(candidates: &[Candidate]) -> Self {
        let divisor = candidates.iter().fold(0, |divisor, one| gcd(divisor, one.weight.into()));
        let weights: Vec<u64> =
            candidates.iter().map(|one| u64::from(one.weight) / divisor.max(1)).collect();
        let cycle = weights.iter().sum();
        let order = if cycle <= LONGEST_SCHEDULE {
            Order::Schedule(schedule(&weights, cycle))
        } else {
            Order::Stride(even_stride(cycle))
        };
        Self { cycle, order, shares: Shares::new(weights.into_iter()) }
    }

    /// Who has the `slot`-th turn of a cycle.
    fn owner(&self, slot: u64) -> Option<usize> {
        match &self.order {
            Order::Schedule(schedule) => {
                let index = *schedule.get(usize::try_from(slot).ok()?)?;
                usize::try_from(index).ok()
            }
            Order::Stride(stride) => {
                let unit = u128::from(slot) * u128::from(*stride) % u128::from(self.cycle);
                self.shares.owner(u64::try_from(unit).ok()?)
            }
        }
    }
}

/// Who has which turn when these weights share a cycle: their sum, at most [`LONGEST_SCHEDULE`].
///
/// O(cycle · log candidates). Earliest deadline first: a turn of a backend is open from the slot in
/// which its share begins; among the open ones that goes first whose share ends first, and of equals
/// the first in order, so that equal weights are served in order.
fn schedule(weights: &[u64], cycle: u64) -> Vec<u32> {
    let mut had = vec![0; weights.len()];
    let mut schedule = Vec::new();
    let mut open = BinaryHeap::new();
    let mut coming: BinaryHeap<_> =
        (0..weights.len()).filter(|one| weights[*one] > 0).map(|one| Reverse((0, one))).collect();
    for slot in 0..cycle {
        while let Some(&Reverse((_, one))) = coming.peek().filter(|first| first.0.0 <= slot) {
            coming.pop();
            let deadline = ((had[one] + 1) * cycle).div_ceil(weights[one]);
            open.push(Reverse((deadline, one)));
        }
        let Some(Reverse((_, one))) = open.pop() else { break };
        schedule.push(u32::try_from(one).unwrap_or(u32::MAX));
        had[one] += 1;
        if had[one] < weights[one] {
            coming.push(Reverse((had[one] * cycle / weights[one], one)));
        }
    }
    schedule
}

/// The first number above the golden section of `cycle` whose multiples lie evenly over the cycle:
/// coprime to it, with no quotient above 5 in Euclid's algorithm, which bounds how uneven they are
/// (Niederreiter, Random Number Generation and Quasi-Monte Carlo Methods, 1992, section 5.2; that
/// there is one for any cycle is Zaremba's conjecture, so a coprime will do).
fn even_stride(cycle: u64) -> u64 {
    let section = scale(GOLDEN, cycle).max(1);
    let is_even = |stride: &u64| {
        let (mut a, mut b, mut greatest) = (cycle, *stride, 0);
        while b > 0 {
            greatest = greatest.max(a / b);
            (a, b) = (b, a % b);
        }
        a == 1 && greatest <= 5
    };
    let is_coprime = |stride: &u64| gcd(*stride, cycle) == 1;
    (section..cycle).find(is_even).or_else(|| (section..).find(is_coprime)).unwrap_or(1)
}

/// The greatest common divisor; that of 0 and a number is the number.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, prop_assume, proptest};

    use super::*;
    use crate::balance::Tried;
    use crate::balance::contract::{asking, shares_by_weight, weighing};

    /// Who gets `turns` turns in a row.
    fn turns(weights: &[u32], turns: impl Iterator<Item = u64>) -> Vec<usize> {
        let candidates = weighing(weights);
        let strategy = RoundRobin::new(&candidates);
        let tried = Tried::default();
        turns
            .map(|turn| strategy.pick(&candidates, &Request { turn, ..asking(&tried) }).unwrap())
            .collect()
    }

    /// The most that the turns had by any backend differ, at any time, from its exact share.
    fn unevenness(weights: &[u32], turns: &[usize]) -> f64 {
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let mut had = vec![0.0; weights.len()];
        let mut most: f64 = 0.0;
        for (turn, index) in turns.iter().enumerate() {
            had[*index] += 1.0;
            for (had, weight) in had.iter().zip(weights) {
                most = most.max((had - (turn + 1) as f64 * f64::from(*weight) / total).abs());
            }
        }
        most
    }

    #[test]
    fn equal_weights_are_served_in_order() {
        assert_eq!(turns(&[1, 1, 1], 0..7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(turns(&[100, 100], 0..4), [0, 1, 0, 1]);
    }

    #[test]
    fn a_heavy_backend_is_interleaved_with_light_ones() {
        assert_eq!(turns(&[5, 1, 1], 0..7), [0, 0, 0, 1, 0, 0, 2]);
        assert_eq!(turns(&[2, 1], 0..6), [0, 0, 1, 0, 0, 1]);
        assert_eq!(turns(&[3, 3, 2], 0..8), [0, 1, 2, 0, 1, 0, 1, 2]);
    }

    #[test]
    fn a_weight_of_zero_has_no_turn() {
        assert_eq!(turns(&[0, 1, 0, 1], 0..4), [1, 3, 1, 3]);
    }

    #[test]
    fn a_cycle_too_long_to_write_down_is_exact_too() {
        let weights = [65_535, 65_534, 1];
        let mut had = [0; 3];
        turns(&weights, 7..131_077).into_iter().for_each(|index| had[index] += 1);
        assert_eq!(had, weights);
    }

    #[test]
    fn the_turns_of_one_that_cannot_serve_are_spread_over_the_others() {
        let candidates = weighing(&[1, 1, 1, 1]);
        let strategy = RoundRobin::new(&candidates);
        let tried = [0].into_iter().collect();
        let mut had = [0; 4];
        for cycle in 0..300 {
            let request = Request { turn: 4 * cycle, ..asking(&tried) };
            had[strategy.pick(&candidates, &request).unwrap()] += 1;
        }
        assert!(had[1..].iter().all(|turns| (90..=110).contains(turns)), "{had:?}");
    }

    #[test]
    fn ten_thousand_backends_and_the_greatest_weights_are_built_and_served() {
        let weights: Vec<u32> = (0..10_000).map(|one| 65_535 - one % 7).collect();
        let had = turns(&weights, u64::MAX - 20_000..u64::MAX);
        let mut each = vec![0; 10_000];
        had.into_iter().for_each(|index| each[index] += 1);
        assert!(each.iter().all(|turns| *turns <= 4), "two each, give or take two");
    }

    #[test]
    fn connections_are_shared_by_weight() {
        shares_by_weight(&ENTRY, 0.04);
    }

    proptest! {
        #[test]
        fn a_written_cycle_is_exact_and_never_a_whole_turn_from_even(
            weights in prop::collection::vec(0_u32..50, 1..12),
        ) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let had = turns(&weights, 0..total.into());
            for (index, weight) in (0..).zip(&weights) {
                let turns = had.iter().filter(|one| **one == index).count();
                prop_assert_eq!(turns, *weight as usize);
            }
            prop_assert!(unevenness(&weights, &had) < 1.0);
        }

        #[test]
        fn a_computed_cycle_stays_within_six_turns_of_even(
            weights in prop::collection::vec(20_000_u32..65_536, 5..9),
            first in 0_u64..1_000_000,
        ) {
            let had = turns(&weights, first..first + 3_000);
            prop_assert!(unevenness(&weights, &had) < 6.0);
        }
    }
}
