//! `power_of_two`: the less loaded, by weight, of two random ones.
//!
//! Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001: with n connections on n
//! backends the fullest has about ln n / ln ln n of them when one is drawn, about ln ln n when the
//! better of two is. Both are drawn by weight and never the same one, then compared as
//! `least_connections` does.

use super::least_connections::crowd;
use super::shares::{Shares, mix, not_in};
use super::{Candidate, Entry, Request, Strategy};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "power_of_two",
    summary: "the less loaded, by weight, of two random ones",
    options: &[],
    build: |candidates, _| Box::new(PowerOfTwo(Shares::of(candidates))),
};

/// Draws two by these shares.
struct PowerOfTwo(Shares);

impl Strategy for PowerOfTwo {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        let is_left = not_in(request.tried);
        let one = self.0.draw(candidates, request.random, &is_left)?;
        let is_other = |index, candidate: &Candidate| index != one && is_left(index, candidate);
        let Some(other) = self.0.draw(candidates, mix(!request.random), is_other) else {
            return Some(one);
        };
        let by_weight =
            |index: usize| crowd(candidates[index].load.open()) / candidates[index].weight as f32;
        let is_better = by_weight(other) < by_weight(one);
        Some(if is_better { other } else { one })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{asking, shares_by_weight, with_open};
    use crate::balance::{Options, Tried};

    /// How many of 10,000 draws each candidate gets.
    fn hits(candidates: &[Candidate], tried: &Tried) -> Vec<u32> {
        let strategy = (ENTRY.build)(candidates, &Options::default());
        let mut hits = vec![0; candidates.len()];
        for draw in 0..10_000 {
            let request = Request { random: mix(draw), ..asking(tried) };
            hits[strategy.pick(candidates, &request).unwrap()] += 1;
        }
        hits
    }

    #[test]
    fn of_two_backends_the_busier_one_is_never_picked() {
        assert_eq!(hits(&with_open(&[1, 1], &[5, 6]), &Tried::default()), [10_000, 0]);
        assert_eq!(hits(&with_open(&[65_535, 1], &[70_000, 9]), &Tried::default())[1], 0);
    }

    #[test]
    fn the_busiest_is_never_picked_and_the_least_busy_wins_every_pair_it_is_in() {
        // Of the 10 pairs of 5 the least busy is in 4, the next in 3 more, and so on.
        let shares = hits(&with_open(&[1; 5], &[30, 10, 50, 20, 40]), &Tried::default());
        for (share, expected) in shares.iter().zip([2_000, 4_000, 0, 3_000, 1_000]) {
            assert!(share.abs_diff(expected) < 150, "{shares:?}");
        }
    }

    #[test]
    fn a_tried_one_is_not_in_the_pair() {
        let candidates = with_open(&[1, 1, 1], &[1, 2, 3]);
        assert_eq!(hits(&candidates, &[0].into_iter().collect()), [0, 10_000, 0]);
    }

    #[test]
    fn an_idle_pool_is_shared_by_weight() {
        shares_by_weight(&ENTRY, 0.04);
    }
}
