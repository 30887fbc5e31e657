//! The cheapest candidate, for strategies that look at all of them.

use std::array;
use std::sync::Arc;

use super::shares::{owner_among, scale, spread};
use super::{Candidate, Load, Request, Tried};

/// Candidates whose costs are computed side by side. Measured: 8 and 32 are slower.
pub(super) const LANES: usize = 16;

/// The loads of a block of candidates.
pub(super) type Loads = [Arc<Load>; LANES];

/// Looks at every candidate for the lowest cost by weight.
///
/// Blocks let the processor fetch the loads of many backends at a time and compute their costs in
/// one go: half the time of one after another. Change this file only with the bench at hand.
#[derive(Debug)]
pub(super) struct Lowest(Vec<Block>);

/// What is looked at of [`LANES`] candidates, the last block filled up with some of weight 0.
#[derive(Debug)]
struct Block {
    loads: Loads,
    /// 1 / weight; not a number for weight 0, so that no comparison is true of such a cost.
    inverses: [f32; LANES],
    weights: [u32; LANES],
}

/// What a strategy minimises.
pub(super) trait Cost: Copy {
    /// The cost of each of these backends, not yet divided by its weight: finite, not negative.
    fn of(self, loads: &Loads) -> [f32; LANES];
}

impl Lowest {
    /// For these candidates.
    pub(super) fn of(candidates: &[Candidate]) -> Self {
        let nobody = Arc::new(Load::default());
        let block = |candidates: &[Candidate]| {
            let weights = array::from_fn(|lane| candidates.get(lane).map_or(0, |one| one.weight));
            let load = |lane: usize| candidates.get(lane).map_or(&nobody, |one| &one.load).clone();
            let inverse = |weight| if weight == 0 { f32::NAN } else { 1.0 / weight as f32 };
            Block { loads: array::from_fn(load), inverses: weights.map(inverse), weights }
        };
        Self(candidates.chunks(LANES).map(block).collect())
    }

    /// The candidate of the lowest cost / weight among those left; equals are taken in turn, by
    /// weight.
    ///
    /// Without turns the first of equals would get every connection of an idle pool. One look at
    /// each candidate, and when several are equal a second one up to the one whose turn it is.
    pub(super) fn pick(
        &self,
        candidates: &[Candidate],
        request: &Request<'_>,
        cost: impl Cost,
    ) -> Option<usize> {
        let mut best = Best { lowest: f32::INFINITY, first: 0, equals: 0 };
        for (begin, block) in self.blocks(0) {
            let mut costs = block.by_weight(cost);
            if costs.iter().any(|cost| *cost <= best.lowest) {
                strike(&mut costs, candidates.get(begin..)?, request.tried);
                best.update(block, begin, &costs);
            }
        }
        let alone = self.0.get(best.first / LANES)?.weights[best.first % LANES];
        if best.equals > alone.into() {
            self.take_turns(&best, candidates, request, cost).or(Some(best.first))
        } else {
            (best.equals > 0).then_some(best.first)
        }
    }

    /// The one of those equal to the best whose turn it is; `None` if loads have changed meanwhile,
    /// when the best is as good an answer.
    #[inline(never)]
    fn take_turns(
        &self,
        best: &Best,
        candidates: &[Candidate],
        request: &Request<'_>,
        cost: impl Cost,
    ) -> Option<usize> {
        let mut point = scale(spread(request.turn), best.equals);
        for (begin, block) in self.blocks(best.first / LANES) {
            let mut costs = block.by_weight(cost);
            strike(&mut costs, candidates.get(begin..)?, request.tried);
            match point.checked_sub(block.weight_of(&costs, best.lowest)) {
                Some(rest) => point = rest,
                None => {
                    let lanes = block.weights.into_iter().enumerate();
                    let equals = lanes.filter(|(lane, _)| costs[*lane] == best.lowest);
                    return owner_among(equals, point).map(|lane| begin + lane);
                }
            }
        }
        None
    }

    /// The blocks from this one on, each with the index of its first candidate.
    fn blocks(&self, from: usize) -> impl Iterator<Item = (usize, &Block)> {
        (from * LANES..).step_by(LANES).zip(self.0.iter().skip(from))
    }
}

impl Block {
    /// The cost of each candidate divided by its weight.
    #[inline(always)]
    fn by_weight(&self, cost: impl Cost) -> [f32; LANES] {
        let mut costs = cost.of(&self.loads);
        for (cost, inverse) in costs.iter_mut().zip(&self.inverses) {
            *cost *= inverse;
        }
        costs
    }

    /// The weight of all candidates of this cost.
    fn weight_of(&self, costs: &[f32; LANES], cost: f32) -> u64 {
        let equals = costs.iter().zip(&self.weights);
        equals.map(|(this, weight)| if *this == cost { u64::from(*weight) } else { 0 }).sum()
    }
}

/// Makes the cost of every candidate that was tried no number; `candidates` begin with this block.
fn strike(costs: &mut [f32; LANES], candidates: &[Candidate], tried: &Tried) {
    if tried.is_empty() && candidates.len() >= LANES {
        return;
    }
    for (lane, cost) in costs.iter_mut().enumerate() {
        if candidates.get(lane).is_none_or(|candidate| tried.contains(candidate.id)) {
            *cost = f32::NAN;
        }
    }
}

/// The lowest cost so far.
#[derive(Clone, Copy, Debug)]
struct Best {
    lowest: f32,
    /// Index of the first candidate that has it.
    first: usize,
    /// The weights of all that have it.
    equals: u64,
}

impl Best {
    /// Takes note of the candidates of a block, the first of which has the index `begin`.
    #[inline(never)]
    fn update(&mut self, block: &Block, begin: usize, costs: &[f32; LANES]) {
        if costs.iter().any(|cost| *cost < self.lowest) {
            for (lane, cost) in costs.iter().enumerate() {
                if *cost < self.lowest {
                    *self = Self { lowest: *cost, first: begin + lane, equals: 0 };
                }
            }
        }
        self.equals += block.weight_of(costs, self.lowest);
    }
}
