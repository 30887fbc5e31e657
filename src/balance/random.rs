//! `random`: drawn by weight.
//!
//! The draw finds its point on the line of weights by bisection (inversion; Devroye, Non-Uniform
//! Random Variate Generation, 1986, section III.2). When it hits a backend that was tried the next
//! one is drawn anew from the same random number, so that the chances among the others stay as their
//! weights.

use super::shares::{Shares, not_in};
use super::{Candidate, Entry, Request, Strategy};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "random",
    summary: "drawn by weight",
    options: &[],
    build: |candidates, _| Box::new(Random(Shares::of(candidates))),
};

/// Draws by these shares.
struct Random(Shares);

impl Strategy for Random {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        self.0.draw(candidates, request.random, not_in(request.tried))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Tried;
    use crate::balance::contract::{asking, shares_by_weight, weighing};

    #[test]
    fn the_draw_falls_where_the_weights_lie() {
        let candidates = weighing(&[1, 3]);
        let strategy = (ENTRY.build)(&candidates, &super::super::Options::default());
        let pick =
            |random| strategy.pick(&candidates, &Request { random, ..asking(&Tried::default()) });
        assert_eq!([pick(0), pick(u64::MAX / 4 - 1)], [Some(0); 2], "the first quarter");
        assert_eq!([pick(u64::MAX / 4 + 2), pick(u64::MAX)], [Some(1); 2], "the other three");
    }

    #[test]
    fn connections_are_shared_by_weight() {
        shares_by_weight(&ENTRY, 0.04);
    }
}
