use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Wake;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::balance::Load;

/// A waker that remembers that it was told.
#[derive(Default)]
struct Told(AtomicBool);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// Someone in line.
struct Someone {
    place: Place,
    told: Arc<Told>,
}

impl Someone {
    fn joins(queue: &Arc<Queue>, ticket: u64) -> Self {
        let place = queue.join(ticket, 100, &Arc::default()).unwrap();
        Self { place, told: Arc::default() }
    }

    /// Joins, looks if it may, and finds nothing.
    fn sleeps(queue: &Arc<Queue>, ticket: u64) -> Self {
        let someone = Self::joins(queue, ticket);
        if someone.may_look() {
            someone.place.looked_in_vain(false);
        }
        assert!(!someone.may_look());
        someone
    }

    fn may_look(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.told));
        self.place.poll_turn(&Context::from_waker(&waker)).is_ready()
    }

    fn is_woken(&self) -> bool {
        self.told.0.swap(false, SeqCst)
    }
}

#[test]
fn no_more_wait_than_may_and_who_leaves_makes_room() {
    let (queue, counters) = (Arc::new(Queue::default()), Arc::default());
    let first = queue.join(7, 1, &counters);
    assert!(first.is_some() && queue.join(8, 1, &counters).is_none());
    assert_eq!((queue.is_empty(), counters.queued()), (false, 1));
    drop(first);
    assert_eq!((queue.is_empty(), counters.queued()), (true, 0));
}

#[test]
fn a_freed_slot_wakes_the_one_who_waited_longest() {
    let queue = Arc::new(Queue::default());
    let [first, second] = [1, 2].map(|ticket| Someone::sleeps(&queue, ticket));
    queue.slot_freed();
    assert!(first.is_woken() && !second.is_woken());
    assert!(first.may_look() && !second.may_look());
    first.place.take_slot();
    assert!(!second.is_woken());
}

#[test]
fn nobody_who_comes_later_looks_before_one_who_was_called() {
    let queue = Arc::new(Queue::default());
    let first = Someone::sleeps(&queue, 1);
    queue.slot_freed();
    let late = Someone::joins(&queue, 2);
    assert!(!late.may_look());
    assert!(first.may_look() && !late.may_look());
    first.place.take_slot();
    assert!(late.is_woken() && late.may_look());
}

#[test]
fn who_comes_back_has_its_place_before_those_that_came_later() {
    let queue = Arc::new(Queue::default());
    let first = Someone::sleeps(&queue, 1);
    let others = [2, 3].map(|ticket| Someone::sleeps(&queue, ticket));
    queue.slot_freed();
    assert!(first.may_look());
    first.place.take_slot();
    // Its backend fails: the slot is free again, and so is the one of another backend.
    queue.slot_freed();
    let first = Someone::joins(&queue, 1);
    queue.slot_freed();
    assert!(!others[0].may_look() && !others[1].may_look());
    assert!(first.may_look());
    first.place.take_slot();
    assert!(others[0].is_woken() && others[0].may_look());
}

#[test]
fn who_cannot_use_a_slot_passes_its_call_on() {
    let queue = Arc::new(Queue::default());
    let others = [1, 2, 3].map(|ticket| Someone::sleeps(&queue, ticket));
    queue.slot_freed();
    assert!(others[0].is_woken() && others[0].may_look());
    others[0].place.looked_in_vain(true);
    assert!(others[1].is_woken() && others[1].may_look());
    others[1].place.looked_in_vain(true);
    assert!(others[2].is_woken() && others[2].may_look());
    // All have looked: nobody is called again.
    others[2].place.looked_in_vain(true);
    assert!(others.iter().all(|one| !one.is_woken() && !one.may_look()));
}

#[test]
fn behind_one_who_cannot_use_every_slot_who_joins_looks() {
    let queue = Arc::new(Queue::default());
    let first = Someone::joins(&queue, 1);
    assert!(first.may_look());
    first.place.looked_in_vain(true);
    assert!(!first.may_look());
    let second = Someone::joins(&queue, 2);
    // The slot may have been the first one's: it looks again before.
    assert!(first.is_woken() && !second.may_look());
    assert!(first.may_look());
    first.place.looked_in_vain(true);
    assert!(second.may_look());
}

#[test]
fn who_is_called_while_it_looks_looks_again_or_passes_the_call_on() {
    let queue = Arc::new(Queue::default());
    let first = Someone::joins(&queue, 1);
    assert!(first.may_look());
    queue.slot_freed();
    first.place.looked_in_vain(false);
    assert!(first.may_look());
    let second = Someone::joins(&queue, 2);
    second.may_look();
    queue.slot_freed();
    first.place.take_slot();
    assert!(second.is_woken() && second.may_look());
}

#[test]
fn who_leaves_when_it_was_called_passes_its_call_on() {
    let queue = Arc::new(Queue::default());
    let [first, second, third] = [1, 2, 3].map(|ticket| Someone::sleeps(&queue, ticket));
    queue.slot_freed();
    drop(first);
    assert!(second.is_woken() && second.may_look());
    drop(second);
    assert!(third.is_woken());
    assert!(third.may_look());
}

#[test]
fn when_everything_has_changed_all_look_in_order() {
    let queue = Arc::new(Queue::default());
    let all = [1, 2, 3].map(|ticket| Someone::sleeps(&queue, ticket));
    queue.all_changed();
    for one in &all {
        assert!(one.is_woken() && one.may_look());
        one.place.looked_in_vain(false);
    }
    assert!(all.iter().all(|one| !one.is_woken()));
}

/// Wakes a thread.
struct Thread(thread::Thread);

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Two backends with few slots, and what was seen of them.
#[derive(Default)]
struct Backends {
    loads: [Load; 2],
    queue: Arc<Queue>,
    tickets: AtomicU64,
    counters: Arc<PoolCounters>,
}

const SLOTS: u32 = 3;

impl Backends {
    /// Takes a slot of any but `tried`.
    fn take(&self, tried: Option<usize>) -> Option<usize> {
        let own = (0..2).filter(|one| Some(*one) != tried);
        own.into_iter().find(|one| self.loads[*one].take(std::num::NonZeroU32::new(SLOTS)))
    }

    fn free(&self, one: usize) {
        assert!(self.loads[one].open() <= SLOTS);
        self.loads[one].give_back();
        self.queue.slot_freed();
    }

    /// As a connection does it: gets a slot, in line where there is none. How long it waited.
    fn get(&self, ticket: u64, tried: Option<usize>) -> usize {
        if self.queue.is_empty()
            && let Some(one) = self.take(tried)
        {
            return one;
        }
        let place = self.queue.join(ticket, usize::MAX, &self.counters).unwrap();
        let waker = Waker::from(Arc::new(Thread(thread::current())));
        let start = Instant::now();
        loop {
            while place.poll_turn(&Context::from_waker(&waker)).is_pending() {
                thread::park_timeout(Duration::from_secs(10));
                assert!(start.elapsed() < Duration::from_secs(10), "left waiting: {self:?}");
            }
            if let Some(one) = self.take(tried) {
                place.take_slot();
                return one;
            }
            place.looked_in_vain(tried.is_some());
        }
    }
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.loads.each_ref().map(Load::open);
        write!(f, "{open:?} of {SLOTS} open, {:?}", self.queue)
    }
}

/// Many threads take slots, find every third backend dead, come back, or leave. A call that is lost
/// leaves somebody waiting although a slot is free: all hold theirs for no time.
#[test]
fn nobody_is_left_waiting_when_a_slot_is_free() {
    let backends = Backends::default();
    let mut draws = fastrand::Rng::with_seed(7);
    thread::scope(|scope| {
        for _ in 0..16 {
            let (backends, mut draw) = (&backends, draws.fork());
            scope.spawn(move || {
                for _ in 0..3_000 {
                    let ticket = backends.tickets.fetch_add(1, Relaxed);
                    if draw.u8(..) < 20 {
                        // Leaves at once, called or not.
                        drop(backends.queue.join(ticket, usize::MAX, &backends.counters));
                        continue;
                    }
                    let mut tried = None;
                    let mut one = backends.get(ticket, tried);
                    if draw.u8(..) < 85 {
                        backends.free(one);
                        tried = Some(one);
                        one = backends.get(ticket, tried);
                    }
                    if draw.u8(..) < 50 {
                        thread::yield_now();
                    }
                    backends.free(one);
                }
            });
        }
    });
    assert!(backends.queue.is_empty());
    assert_eq!(
        (backends.counters.queued(), backends.loads.each_ref().map(Load::open)),
        (0, [0; 2])
    );
}
