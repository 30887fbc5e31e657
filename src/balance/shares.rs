//! Draws by weight, for strategies that need one.

use super::{Candidate, Tried};

/// Draws at random before looking at every candidate.
const DRAWS: u32 = 8;

/// 2^64 divided by the golden ratio: its multiples fill the circle most evenly (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4, theorem S).
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The weights of the candidates laid end to end on a line: who owns a point of it is found in
/// O(log n).
#[derive(Debug)]
pub(super) struct Shares {
    /// Where the stretch of each candidate ends, that is, the sum of the weights up to it.
    ends: Vec<u64>,
}

impl Shares {
    /// The shares of these candidates.
    pub(super) fn of(candidates: &[Candidate]) -> Self {
        Self::new(candidates.iter().map(|candidate| u64::from(candidate.weight)))
    }

    /// The shares of whoever has these weights.
    pub(super) fn new(weights: impl Iterator<Item = u64>) -> Self {
        let mut end = 0;
        let add = |weight| {
            end += weight;
            end
        };
        Self { ends: weights.map(add).collect() }
    }

    /// Length of the line: the sum of the weights.
    pub(super) fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The owner of the `point`-th unit of the line; `None` past its end.
    pub(super) fn owner(&self, point: u64) -> Option<usize> {
        let index = self.ends.partition_point(|&end| end <= point);
        (index < self.ends.len()).then_some(index)
    }

    /// Draws one of the candidates that are left, by weight. `uniform` is any number, all equally
    /// likely. `None` when none is left.
    ///
    /// Tries a few draws and, when each hit one that is not left, looks at all candidates: both
    /// ways the chances are exactly as the weights.
    pub(super) fn draw(
        &self,
        candidates: &[Candidate],
        mut uniform: u64,
        is_left: impl Fn(usize, &Candidate) -> bool,
    ) -> Option<usize> {
        for _ in 0..DRAWS {
            let index = self.owner(scale(uniform, self.total()))?;
            if candidates.get(index).is_some_and(|candidate| is_left(index, candidate)) {
                return Some(index);
            }
            uniform = mix(uniform);
        }
        draw_among(candidates, uniform, is_left)
    }
}

/// Draws one of the candidates that are left, by weight, looking at all of them.
pub(super) fn draw_among(
    candidates: &[Candidate],
    uniform: u64,
    is_left: impl Fn(usize, &Candidate) -> bool,
) -> Option<usize> {
    let left = candidates.iter().enumerate().filter(|(index, one)| is_left(*index, one));
    let weights = left.map(|(index, candidate)| (index, candidate.weight));
    let total = weights.clone().map(|(_, weight)| u64::from(weight)).sum();
    owner_among(weights, scale(uniform, total))
}

/// The owner of the `point`-th unit when the weights of some candidates are laid end to end.
pub(super) fn owner_among(
    weights: impl Iterator<Item = (usize, u32)>,
    mut point: u64,
) -> Option<usize> {
    for (index, weight) in weights {
        match point.checked_sub(u64::from(weight)) {
            Some(rest) => point = rest,
            None => return Some(index),
        }
    }
    None
}

/// Whether a candidate is left, in the form that the draws take.
pub(super) fn not_in(tried: &Tried) -> impl Fn(usize, &Candidate) -> bool {
    move |_, candidate| candidate.is_left(tried)
}

/// Brings a number uniform over `u64` to `0..total`. Source: Lemire, Fast random integer generation
/// in an interval, 2019.
pub(super) fn scale(uniform: u64, total: u64) -> u64 {
    ((u128::from(uniform) * u128::from(total)) >> 64) as u64
}

/// A number for each turn such that those of any turns in a row lie evenly over `u64`.
pub(super) fn spread(turn: u64) -> u64 {
    turn.wrapping_mul(GOLDEN)
}

/// The next of a chain of numbers that look drawn anew. Source: Steele, Lea, Flood, Fast splittable
/// pseudorandom number generators, 2014 (SplitMix64).
pub(super) fn mix(uniform: u64) -> u64 {
    let mut mixed = uniform.wrapping_add(GOLDEN);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::weighing;

    #[test]
    fn each_candidate_owns_as_many_points_as_it_weighs() {
        let shares = Shares::of(&weighing(&[2, 0, 1]));
        let owners: Vec<_> = (0..4).map(|point| shares.owner(point)).collect();
        assert_eq!(owners, [Some(0), Some(0), Some(2), None]);
        assert_eq!(Shares::of(&[]).owner(0), None);
    }

    #[test]
    fn a_draw_finds_the_only_one_left_however_light_it_is() {
        let candidates = weighing(&[65_535, 1, 65_535]);
        let tried = [0, 2].into_iter().collect();
        for random in 0..100 {
            let found = Shares::of(&candidates).draw(&candidates, mix(random), not_in(&tried));
            assert_eq!(found, Some(1));
        }
    }

    #[test]
    fn turns_in_a_row_fall_evenly_on_ten_places() {
        let mut hits = [0_u32; 10];
        for turn in 0..1_000 {
            hits[usize::try_from(scale(spread(turn), 10)).unwrap()] += 1;
        }
        assert!(hits.iter().all(|hit| (99..=101).contains(hit)), "{hits:?}");
    }

    #[test]
    fn the_chain_of_numbers_is_that_of_the_published_generator() {
        assert_eq!([mix(0), mix(GOLDEN)], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }
}
