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
    /// It is on the agenda: what is new meanwhile waits for that turn.
    has_turn: bool,
}

impl<C: Carried> Entry<C> {
    fn new(relay: TwoWay, carried: C, serial: u32) -> Self {
        Self { relay, carried, serial, queued: Tick::MAX, has_turn: false }
    }

    /// Closes both sockets, and says so.
    fn end(self, stop: Stop) {
        drop(self.relay);
        self.carried.ended(stop);
    }
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
    /// What each connection takes, besides what it has in buffers and in `C` elsewhere.
    pub const BYTES_EACH: usize = size_of::<Entry<C>>();

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
        let mut entry = Box::new(Entry::new(relay, carried, serial));
        let mut places = self.places.borrow_mut();
        let place = places.vacant_entry();
        let Ok(key) = u32::try_from(place.key()) else { return };
        let token = Token { serial, key };
        if let Err(stop) = self.register(&mut entry, token) {
            drop(places);
            return entry.end(stop);
        }
        entry.carried.meter().kept_by(&self.agenda, token);
        place.insert(Some(entry));
        drop(places);
        // What is unread is delivered, and its times are set.
        self.turn(engine, token);
    }

    fn register(&self, entry: &mut Entry<C>, token: Token) -> Result<(), Stop> {
        for (side, about) in sides(token) {
            let watched = entry.relay.end(side).stream.hand_over(&self.reactor, about, NEWS);
            watched.map_err(|_| Stop::Reset(side))?;
        }
        Ok(())
    }

    /// Gives a connection its turn.
    fn turn(&self, engine: &Engine, token: Token) {
        let Some(entry) = self.take(token) else { return };
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
                entry.end(stop);
                return None;
            }
            Turn::Again => {
                entry.has_turn = true;
                self.agenda.add(token);
            }
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
            self.queue(entry.queued, token);
        }
        Some(entry)
    }

    /// Something is new with a socket.
    pub(in crate::net) fn hear(&self, engine: &Engine, about: About, news: EventFlags) {
        match about {
            About::Client(token) => self.hear_of(engine, (token, Side::Client), news),
            About::Backend(token) => self.hear_of(engine, (token, Side::Backend), news),
            About::Source(_) | About::Alarm => {}
        }
    }

    fn hear_of(&self, engine: &Engine, (token, side): (Token, Side), news: EventFlags) {
        let heard = self.with(token, |entry| {
            entry.relay.end(side).hear(news);
            entry.has_turn
        });
        if heard == Some(false) {
            self.turn(engine, token);
        }
    }

    fn with<T>(&self, token: Token, call: impl FnOnce(&mut Entry<C>) -> T) -> Option<T> {
        let mut places = self.places.borrow_mut();
        let entry = places.get_mut(token.key as usize)?.as_deref_mut()?;
        (entry.serial == token.serial).then(|| call(entry))
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
            let _ = self.with(token, |entry| entry.has_turn = false);
            self.turn(engine, token);
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
                self.turn(engine, token);
            }
        }
    }

    /// Whether its time has come; if it was put off, sees to the new one.
    fn is_due(&self, at: Tick, token: Token, now: Tick) -> bool {
        let due = self.with(token, |entry| {
            let due = entry.relay.due();
            (entry.queued == at).then(|| {
                entry.queued = if due > now { due } else { Tick::MAX };
                due
            })
        });
        let Some(due) = due.flatten() else { return false };
        if due > now && due < Tick::MAX {
            self.queue(due, token);
        }
        due <= now
    }

    fn queue(&self, at: Tick, token: Token) {
        let mut times = self.times.borrow_mut();
        let queued = (at, token);
        times.push(Reverse(queued));
        // Those of connections that have ended would stay until their time.
        if times.len() > 1024 && times.len() > 4 * self.places.borrow().len() {
            times.retain(|Reverse((at, token))| {
                // The connection whose turn it is, which is in no place, has just queued.
                let is_this = |place: &Place<C>| {
                    place.as_ref().is_some_and(|e| e.serial == token.serial && e.queued == *at)
                };
                (*at, *token) == queued
                    || self.places.borrow().get(token.key as usize).is_some_and(is_this)
            });
        }
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
