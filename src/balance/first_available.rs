//! `first_available`: the first in order that has a free slot.
//!
//! HAProxy's `first` (`lb_fas.c`): fills one backend up to its `max_connections` before the next is
//! used, so that the last ones can be switched off. A strategy knows no limits: whoever asks marks a
//! full backend as tried and asks again.

use super::{Candidate, Entry, Request, Strategy, first_left};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "first_available",
    summary: "the first in order, up to its `max_connections`, then the next",
    options: &[],
    build: |_, _| Box::new(FirstAvailable),
};

/// Needs nothing prepared: the candidates come in order.
struct FirstAvailable;

impl Strategy for FirstAvailable {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        first_left(candidates, request.tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{asking, with_open};

    #[test]
    fn the_first_that_is_not_tried_is_picked_whatever_its_load() {
        let candidates = with_open(&[1, 9, 9], &[70, 0, 0]);
        let pick = |tried: &[u32]| {
            FirstAvailable.pick(&candidates, &asking(&tried.iter().copied().collect()))
        };
        assert_eq!([pick(&[]), pick(&[0]), pick(&[0, 1])], [Some(0), Some(1), Some(2)]);
        assert_eq!(pick(&[0, 1, 2]), None);
    }
}
