//! Whether a pool has anybody usable: the edges that `on_pool_down` and `on_pool_up` follow.

/// Whether a pool was last seen up. A value: copied, compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// `None`: not known yet, the process has just started.
    is_up: Option<bool>,
    /// Whether the last way down ran, or would have run, an action.
    was_found_out: bool,
}

/// A pool went down or came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Up now, or down.
    pub is_up: bool,
    /// Whether an action follows: not when the process has just started, not on an operator's word.
    pub runs_action: bool,
}

impl Presence {
    /// Whether the pool was up when last seen; one that was not seen yet is not.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up == Some(true)
    }

    /// Sees the pool: whether it has a usable backend, and whether what changed that was found out
    /// by checks or connections (and not said by an operator).
    ///
    /// The way up is as actionable as the way down was, so that every `on_pool_up` has its
    /// `on_pool_down`.
    #[must_use]
    pub fn see(&self, is_up: bool, is_found_out: bool) -> (Self, Option<Edge>) {
        let was_found_out = if is_up { self.was_found_out } else { is_found_out };
        match self.is_up {
            Some(was_up) if was_up == is_up => (*self, None),
            None => (Self { is_up: Some(is_up), was_found_out: false }, None),
            Some(_) => {
                let next = Self { is_up: Some(is_up), was_found_out: was_found_out && !is_up };
                (next, Some(Edge { is_up, runs_action: was_found_out }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_edges_are_told_and_every_way_up_has_its_way_down() {
        // up, found out, then the edge and whether it runs an action
        let steps = [
            (false, true, None),
            (true, true, Some((true, false))),
            (true, true, None),
            (false, true, Some((false, true))),
            (false, false, None),
            (true, false, Some((true, true))),
            (false, false, Some((false, false))),
            (true, true, Some((true, false))),
        ];
        let mut presence = Presence::default();
        for (index, (is_up, is_found_out, expected)) in steps.into_iter().enumerate() {
            let (next, edge) = presence.see(is_up, is_found_out);
            assert_eq!(edge.map(|edge| (edge.is_up, edge.runs_action)), expected, "step {index}");
            presence = next;
        }
    }
}
