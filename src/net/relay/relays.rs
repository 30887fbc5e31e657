//! The connections of a thread that are in their relay phase.
//!
//! The thread's reactor tells, once each time it happens, what is new with any of their sockets; the
//! connection it belongs to then gets a turn. So an idle connection is an entry and nothing else, no
//! task and no waker, and closing a socket is all it takes to leave.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use rustix::event::epoll::EventFlags;
use slab::Slab;

use super::end::NEWS;
use super::meter::{Limits, Meter};
use super::two_way::{Turn, TwoWay};
use super::watch::Watch;
use super::{Engine, Pair, Side, Stop};
use crate::net::clock::Tick;
use crate::net::reactor::{About, Reactor, Token};

/// Whose bytes are relayed: what its relay asks and tells.
pub trait Carried: Watch {
    /// Its limits in time.
    fn limits(&self) -> &Limits;

    /// What is counted of it.
    fn meter(&self) -> &Meter;

    /// It has ended, and both of its sockets are closed.
    fn ended(self, stop: Stop);
}

/// Connections that get a turn although nothing is new with their sockets.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    due: RefCell<VecDeque<Token>>,
}

impl Agenda {
    /// Gives the connection a turn soon.
    pub(super) fn add(&self, token: Token) {
        self.due.borrow_mut().push_back(token);
    }
}

/// One connection and whose it is.
struct Entry<C> {
    relay: TwoWay,
    carried: C,
    serial: u32,
    /// The earliest time it is in the queue of times for; later ones may be there too.
    queued: Tick,
}

/// An entry, or nothing while that has its turn.
type Place<C> = Option<Box<Entry<C>>>;

/// All connections of a thread in their relay phase.
pub struct Relays<C> {
    reactor: Rc<Reactor>,
    places: RefCell<Slab<Place<C>>>,
    agenda: Rc<Agenda>,
    /// When to give which connection a turn; some entries are out of date.
    times: RefCell<BinaryHeap<Reverse<(Tick, Token)>>>,
}

impl<C> fmt::Debug for Relays<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relays({})", self.places.borrow().len())
    }
}

impl<C: Carried> Relays<C> {
    /// None yet, on the thread that `reactor` belongs to.
    #[must_use]
    pub fn new(reactor: &Rc<Reactor>) -> Self {
        Self {
            reactor: Rc::clone(reactor),
            places: RefCell::default(),
            agenda: Rc::default(),
            times: RefCell::default(),
        }
    }

    /// Relays between the two sockets of `pair` until both directions have ended, or something else
    /// ends the connection; then `carried` is told.
    pub fn carry(&self, engine: &Engine, pair: Pair, carried: C) {
        let now = engine.clock.now();
        // What connecting took is no time without traffic.
        carried.meter().active.set(now);
        let serial = self.reactor.serial();
        let relay = TwoWay::new(pair, carried.limits(), carried.meter(), now);
        let mut entry = Box::new(Entry { relay, carried, serial, queued: Tick::MAX });
        let mut places = self.places.borrow_mut();
        let place = places.vacant_entry();
        let Ok(key) = u32::try_from(place.key()) else { return };
        let token = Token { serial, key };
        if let Err(stop) = self.register(&mut entry, token) {
            drop(places);
            return Self::end(entry, stop);
        }
        entry.carried.meter().kept_by(&self.agenda, token);
        place.insert(Some(entry));
        drop(places);
        // What is unread is delivered, and its times are set.
        self.turn(engine, token, None);
    }

    fn register(&self, entry: &mut Entry<C>, token: Token) -> Result<(), Stop> {
        for (side, about) in sides(token) {
            let watched = entry.relay.end(side).stream.hand_over(&self.reactor, about, NEWS);
            watched.map_err(|_| Stop::Reset(side))?;
        }
        Ok(())
    }

    fn end(entry: Box<Entry<C>>, stop: Stop) {
        let Entry { relay, carried, .. } = *entry;
        drop(relay);
        carried.ended(stop);
    }

    /// Gives a connection its turn, with what is new if anything is.
    fn turn(&self, engine: &Engine, token: Token, news: Option<(Side, EventFlags)>) {
        let Some(mut entry) = self.take(token) else { return };
        if let Some((side, news)) = news {
            entry.relay.end(side).hear(news);
        }
        // A panic, which is a bug, ends this connection and no other: the entry is dropped by it.
        let left = catch_unwind(AssertUnwindSafe(|| self.turn_of(engine, token, entry)));
        let mut places = self.places.borrow_mut();
        match left {
            Ok(Some(entry)) => places[token.key as usize] = Some(entry),
            Ok(None) | Err(_) => drop(places.try_remove(token.key as usize)),
        }
    }

    fn take(&self, token: Token) -> Place<C> {
        let mut places = self.places.borrow_mut();
        let place = places.get_mut(token.key as usize)?;
        place.take_if(|entry| entry.serial == token.serial)
    }

    /// The entry comes back unless it is over.
    fn turn_of(&self, engine: &Engine, token: Token, mut entry: Box<Entry<C>>) -> Place<C> {
        let now = engine.clock.now();
        let Entry { relay, carried, .. } = &mut *entry;
        match relay.turn(engine, carried.limits(), (carried.meter(), carried), now) {
            Turn::Over(stop) => {
                Self::end(entry, stop);
                return None;
            }
            Turn::Again => self.agenda.add(token),
            Turn::Wait => {}
        }
        for (side, about) in sides(token) {
            let end = entry.relay.end(side);
            if end.must_watch_for_writing()
                && let Ok(fd) = end.stream.fd()
            {
                // It does not fail for a socket that it tells of already.
                let _ = self.reactor.modify(fd, about, NEWS | EventFlags::OUT);
            }
        }
        if entry.relay.due() < entry.queued {
            entry.queued = entry.relay.due();
            self.times.borrow_mut().push(Reverse((entry.queued, token)));
        }
        Some(entry)
    }

    /// Something is new with a socket.
    pub(in crate::net) fn hear(&self, engine: &Engine, about: About, news: EventFlags) {
        match about {
            About::Client(token) => self.turn(engine, token, Some((Side::Client, news))),
            About::Backend(token) => self.turn(engine, token, Some((Side::Backend, news))),
            About::Source(_) | About::Alarm => {}
        }
    }

    /// Whether anybody has asked for a turn.
    pub(in crate::net) fn has_turns(&self) -> bool {
        !self.agenda.due.borrow().is_empty()
    }

    /// Gives turns to those that have asked for one.
    pub(in crate::net) fn take_turns(&self, engine: &Engine) {
        let count = self.agenda.due.borrow().len();
        for _ in 0..count {
            let Some(token) = self.agenda.due.borrow_mut().pop_front() else { return };
            self.turn(engine, token, None);
        }
    }

    /// Gives turns to those whose time has come; when the next one's will.
    pub(in crate::net) fn take_due(&self, engine: &Engine, now: Tick) -> Option<Tick> {
        loop {
            let (at, token) = self.times.borrow().peek()?.0;
            if at > now {
                return Some(at);
            }
            self.times.borrow_mut().pop();
            if self.is_due(at, token, now) {
                self.turn(engine, token, None);
            }
        }
    }

    /// Whether its time has come; if it was put off, sees to the new one.
    fn is_due(&self, at: Tick, token: Token, now: Tick) -> bool {
        let mut places = self.places.borrow_mut();
        let place = places.get_mut(token.key as usize).and_then(Option::as_deref_mut);
        let Some(entry) = place.filter(|e| e.serial == token.serial && e.queued == at) else {
            return false;
        };
        let due = entry.relay.due();
        entry.queued = if due > now { due } else { Tick::MAX };
        if due > now && due < Tick::MAX {
            self.times.borrow_mut().push(Reverse((due, token)));
        }
        due <= now
    }

    /// Drops all connections, without last words.
    pub(in crate::net) fn clear(&self) {
        let all = self.places.take();
        drop(all);
    }
}

/// Both sides of a connection, and how news of each are called.
fn sides(token: Token) -> [(Side, About); 2] {
    [(Side::Client, About::Client(token)), (Side::Backend, About::Backend(token))]
}
