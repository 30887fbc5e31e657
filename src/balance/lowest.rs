//! The cheapest candidate, for strategies that look at all of them.

use super::shares::{owner_among, scale, spread};
use super::{Candidate, Request};

/// The candidate of the lowest cost among those left; equals are taken in turn, by weight.
///
/// Without turns the first of equals would get every connection of an idle pool. One look at each
/// candidate, and when several are equal a second one up to the one whose turn it is. Loads may
/// change between the two; then the first of the equals is as good an answer.
pub(super) fn lowest<C: PartialOrd>(
    candidates: &[Candidate],
    request: &Request<'_>,
    cost: impl Fn(&Candidate) -> C,
) -> Option<usize> {
    let left = || candidates.iter().enumerate().filter(|(_, one)| one.is_left(request.tried));
    let mut all = left();
    let (mut first, one) = all.next()?;
    let (mut lowest, mut weight_of_equals) = (cost(one), u64::from(one.weight));
    let mut equals = 1;
    for (index, candidate) in all {
        let this = cost(candidate);
        if this < lowest {
            (first, lowest, equals) = (index, this, 1);
            weight_of_equals = u64::from(candidate.weight);
        } else if this == lowest {
            equals += 1;
            weight_of_equals += u64::from(candidate.weight);
        }
    }
    if equals == 1 {
        return Some(first);
    }
    let point = scale(spread(request.turn), weight_of_equals);
    owner_among(left().filter(|(_, one)| cost(one) == lowest), point).or(Some(first))
}
