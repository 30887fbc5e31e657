//! The connections of a thread that are in their relay phase.
//!
//! One epoll instance tells, once each time it happens, what is new with any of their sockets; the
//! connection it belongs to then gets a turn. So an idle connection is an entry and nothing else:
//! no task, no waker, no entry in the runtime's reactor, and closing a socket is all it takes to
//! leave. The epoll instance is itself one descriptor in the reactor of the runtime.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::end::NEWS;
use super::meter::{Limits, Meter};
use super::two_way::{Turn, TwoWay};
use super::watch::Watch;
use super::{Engine, Pair, Side, Stop};
use crate::net::clock::{Deadline, Tick};
use crate::net::sys;

/// News that are taken from the kernel at once.
const BATCH: usize = 64;

/// Whose bytes are relayed: what its relay asks and tells.
pub trait Carried: Watch {
    /// Its limits in time.
    fn limits(&self) -> &Limits;

    /// What is counted of it.
    fn meter(&self) -> &Meter;

    /// It has ended, and both of its sockets are closed.
    fn ended(self, stop: Stop);
}

/// The name of a connection among the relays of its thread; never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    serial: u32,
    key: u32,
}

impl Token {
    /// As the kernel keeps it, for one of the two sockets.
    fn with(self, side: Side) -> EventData {
        let side = u64::from(side == Side::Backend);
        EventData::new_u64(u64::from(self.serial) << 32 | u64::from(self.key) << 1 | side)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part has 32 bits or fewer")]
    fn of(data: EventData) -> (Self, Side) {
        let data = data.u64();
        let token = Self { serial: (data >> 32) as u32, key: (data as u32) >> 1 };
        (token, if data & 1 == 0 { Side::Client } else { Side::Backend })
    }
}

/// Connections that get a turn although nothing is new with their sockets.
#[derive(Default)]
pub(super) struct Agenda {
    due: RefCell<VecDeque<Token>>,
    waker: Cell<Option<Waker>>,
}

impl Agenda {
    /// Gives the connection a turn soon.
    pub(super) fn add(&self, token: Token) {
        self.due.borrow_mut().push_back(token);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
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
    epoll: OwnedFd,
    places: RefCell<Slab<Place<C>>>,
    serial: Cell<u32>,
    agenda: Rc<Agenda>,
    /// When to give which connection a turn; some entries are out of date.
    times: RefCell<BinaryHeap<Reverse<(Tick, Token)>>>,
    news: RefCell<Vec<Event>>,
}

impl<C> fmt::Debug for Relays<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relays({})", self.places.borrow().len())
    }
}

impl<C: Carried> Relays<C> {
    /// None yet.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            places: RefCell::default(),
            serial: Cell::new(0),
            agenda: Rc::default(),
            times: RefCell::default(),
            news: RefCell::new(Vec::with_capacity(BATCH)),
        })
    }

    /// Relays between the two sockets of `pair` until both directions have ended, or something else
    /// ends the connection; then `carried` is told.
    pub fn carry(&self, engine: &Engine, pair: Pair, carried: C) {
        let now = engine.clock.now();
        // What connecting took is no time without traffic.
        carried.meter().active.set(now);
        let serial = self.serial.get();
        self.serial.set(serial.wrapping_add(1));
        let mut entry =
            Box::new(Entry { relay: TwoWay::new(pair, now), carried, serial, queued: Tick::MAX });
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
        for side in [Side::Client, Side::Backend] {
            let socket = entry.relay.end(side).stream.unregistered();
            let added = socket.and_then(|fd| Ok(epoll::add(&self.epoll, fd, token.with(side), NEWS)?));
            added.map_err(|_| Stop::Reset(side))?;
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
        for side in [Side::Client, Side::Backend] {
            let end = entry.relay.end(side);
            if end.must_watch_for_writing()
                && let Ok(fd) = end.stream.unregistered()
            {
                // It cannot fail for a descriptor that is registered, but for want of memory.
                let _ = epoll::modify(&self.epoll, fd, token.with(side), NEWS | EventFlags::OUT);
            }
        }
        if entry.relay.due() < entry.queued {
            entry.queued = entry.relay.due();
            self.times.borrow_mut().push(Reverse((entry.queued, token)));
        }
        Some(entry)
    }

    /// Gives turns, for ever. One task for each thread; cancel safe.
    ///
    /// # Errors
    ///
    /// When the reactor cannot watch the epoll instance.
    pub async fn run(&self, engine: &Engine) -> io::Result<std::convert::Infallible> {
        let watched = sys::register(self.epoll.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        let mut alarm = None;
        poll_fn(|cx| self.poll(engine, (&watched, &mut alarm), cx)).await
    }

    fn poll(
        &self,
        engine: &Engine,
        (watched, alarm): (&AsyncFd<OwnedFd>, &mut Option<Deadline>),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<std::convert::Infallible>> {
        while let Poll::Ready(ready) = watched.poll_read_ready(cx) {
            let mut ready = ready?;
            if self.take_news(engine) < BATCH {
                ready.clear_ready();
            } else {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.take_turns(engine);
        let next = self.take_due(engine);
        if let Some(next) = next
            && alarm.as_ref().is_none_or(|alarm| next < alarm.at() || alarm.at() <= engine.clock.now())
        {
            *alarm = Some(engine.deadlines.set(next, cx.waker().clone()));
        }
        if self.agenda.due.borrow().is_empty() {
            self.agenda.waker.set(Some(cx.waker().clone()));
        } else {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes what is new from the kernel, and gives turns; how many.
    fn take_news(&self, engine: &Engine) -> usize {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut news = self.news.take();
        news.clear();
        let taken = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut news), Some(&AT_ONCE));
        let count = taken.unwrap_or(0);
        for event in &news {
            let (token, side) = Token::of(event.data);
            self.turn(engine, token, Some((side, event.flags)));
        }
        self.news.replace(news);
        count
    }

    /// Gives turns to those that have asked for one.
    fn take_turns(&self, engine: &Engine) {
        let count = self.agenda.due.borrow().len();
        for _ in 0..count {
            let Some(token) = self.agenda.due.borrow_mut().pop_front() else { return };
            self.turn(engine, token, None);
        }
    }

    /// Gives turns to those whose time has come; when the next one's will.
    fn take_due(&self, engine: &Engine) -> Option<Tick> {
        let now = engine.clock.now();
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
    pub fn clear(&self) {
        let all = self.places.take();
        drop(all);
    }
}
