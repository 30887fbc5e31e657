//! How many attempts are under way at once, and who is next.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::oneshot;

/// Most attempts under way in the process.
pub const AT_ONCE: usize = 8;

/// Most of them that hold no traffic: some places are always left for those that do.
const ORDINARY: usize = 6;

/// Gives out turns, in order of asking, urgent ones first.
#[derive(Debug, Default)]
pub(super) struct Turns(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    urgent: Line,
    ordinary: Line,
}

#[derive(Debug, Default)]
struct Line {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// One place; dropping it gives it to the next.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Rc<Turns>,
    is_urgent: bool,
}

impl Turns {
    /// Waits for a turn. Cancel safe: a turn that nobody takes goes to the next.
    pub(super) async fn take(self: &Rc<Self>, is_urgent: bool) -> Turn {
        let (sender, turn) = oneshot::channel();
        self.0.borrow_mut().line(is_urgent).waiting.push_back(sender);
        self.give();
        match turn.await {
            Ok(turn) => turn,
            // Who waits is forgotten only with all turns, and those are held by who waits.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives out what there is.
    fn give(self: &Rc<Self>) {
        loop {
            // Not within the match: a turn that is not taken comes back at once.
            let next = self.0.borrow_mut().next();
            let Some((sender, is_urgent)) = next else { return };
            let _ = sender.send(Turn { turns: Rc::clone(self), is_urgent });
        }
    }
}

impl State {
    fn line(&mut self, is_urgent: bool) -> &mut Line {
        if is_urgent { &mut self.urgent } else { &mut self.ordinary }
    }

    /// Who has the next turn, which is counted as taken.
    fn next(&mut self) -> Option<(oneshot::Sender<Turn>, bool)> {
        if self.urgent.taken + self.ordinary.taken >= AT_ONCE {
            return None;
        }
        if let Some(sender) = self.urgent.first() {
            self.urgent.taken += 1;
            return Some((sender, true));
        }
        if self.ordinary.taken >= ORDINARY {
            return None;
        }
        let sender = self.ordinary.first()?;
        self.ordinary.taken += 1;
        Some((sender, false))
    }
}

impl Line {
    /// The first who still waits.
    fn first(&mut self) -> Option<oneshot::Sender<Turn>> {
        std::iter::from_fn(|| self.waiting.pop_front()).find(|sender| !sender.is_closed())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.0.borrow_mut().line(self.is_urgent).taken -= 1;
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Taking = Pin<Box<dyn Future<Output = Turn>>>;

    fn taking(turns: &Rc<Turns>, is_urgent: bool) -> Taking {
        let turns = Rc::clone(turns);
        let mut taking: Taking = Box::pin(async move { turns.take(is_urgent).await });
        // Asks for it now, whether it is there or not.
        taking = match poll(&mut taking) {
            Some(turn) => Box::pin(std::future::ready(turn)),
            None => taking,
        };
        taking
    }

    fn poll(taking: &mut Taking) -> Option<Turn> {
        match taking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn take(turns: &Rc<Turns>, is_urgent: bool) -> Option<Turn> {
        poll(&mut taking(turns, is_urgent))
    }

    #[test]
    fn ordinary_ones_leave_places_for_urgent_ones() {
        let turns = Rc::default();
        let ordinary: Vec<_> = (0..8).map_while(|_| take(&turns, false)).collect();
        let urgent: Vec<_> = (0..8).map_while(|_| take(&turns, true)).collect();
        assert_eq!((ordinary.len(), urgent.len()), (6, 2));
    }

    #[test]
    fn urgent_ones_are_next_and_each_kind_in_order_of_asking() {
        let turns = Rc::default();
        let mut held: Vec<_> = (0..8).map(|_| take(&turns, true).unwrap()).collect();
        let mut waiting = [false, true, true].map(|is_urgent| taking(&turns, is_urgent));
        let mut order = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..3 {
            held.pop();
            for (index, taking) in waiting.iter_mut().enumerate() {
                if !order.contains(&index)
                    && let Some(turn) = poll(taking)
                {
                    order.push(index);
                    kept.push(turn);
                }
            }
        }
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn the_turn_of_one_who_no_longer_waits_goes_to_the_next() {
        let turns = Rc::default();
        let mut held: Vec<_> = (0..8).map(|_| take(&turns, true).unwrap()).collect();
        let (gone, given) = (taking(&turns, true), taking(&turns, true));
        let mut last = taking(&turns, true);
        drop(gone);
        // The one that is given goes away with the turn that it was sent.
        held.pop();
        drop(given);
        assert!(poll(&mut last).is_some());
    }
}
