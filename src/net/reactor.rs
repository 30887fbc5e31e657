//! The epoll instance of a thread of the data path, and who is told what.
//!
//! Three kinds of news come from it: of a socket of a relayed connection, which its thread's relays
//! hear of; of a socket that a task waits for (a [`Source`]); and that another thread has woken a
//! task of this one (the [`Alarm`]).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

/// News that are taken from the kernel at once.
pub(super) const BATCH: usize = 64;

/// The name of a connection among the relays of its thread, or of a source; never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    pub(super) serial: u32,
    /// Under 2^30.
    pub(super) key: u32,
}

/// What a piece of news is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The client's socket of a relayed connection.
    Client(Token),
    /// The backend's.
    Backend(Token),
    /// A socket that a task waits for.
    Source(Token),
    /// A task was woken by another thread.
    Alarm,
}

impl About {
    /// As the kernel keeps it.
    fn data(self) -> EventData {
        let (kind, token) = match self {
            Self::Client(token) => (0, token),
            Self::Backend(token) => (1, token),
            Self::Source(token) => (2, token),
            Self::Alarm => (3, Token { serial: 0, key: 0 }),
        };
        EventData::new_u64(u64::from(token.serial) << 32 | u64::from(token.key) << 2 | kind)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part has 32 bits or fewer")]
    fn of(data: EventData) -> Self {
        let data = data.u64();
        let token = Token { serial: (data >> 32) as u32, key: (data as u32) >> 2 };
        match data & 3 {
            0 => Self::Client(token),
            1 => Self::Backend(token),
            2 => Self::Source(token),
            _ => Self::Alarm,
        }
    }
}

/// The epoll instance of a thread.
pub struct Reactor {
    epoll: OwnedFd,
    alarm: Arc<Alarm>,
    sources: RefCell<Slab<Waiting>>,
    serial: Cell<u32>,
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reactor")
    }
}

/// What is known of a source, and who waits for it.
#[derive(Debug)]
struct Waiting {
    serial: u32,
    ready: EventFlags,
    waker: Option<Waker>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

impl Reactor {
    /// The reactor of a thread.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let alarm = Arc::new(Alarm {
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_set: AtomicBool::new(true),
            is_asleep: AtomicBool::new(false),
        });
        epoll::add(&epoll, &alarm.bell, About::Alarm.data(), EventFlags::IN | EventFlags::ET)?;
        Ok(Rc::new(Self { epoll, alarm, sources: RefCell::default(), serial: Cell::new(0) }))
    }

    /// From now on streams that have to wait on this thread use this reactor, until the guard is
    /// dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Entered {
        Entered(CURRENT.replace(Some(Rc::clone(self))))
    }

    /// The reactor of this thread; `None` on a thread that has another one, which is tokio's.
    pub(super) fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// A name that was not given before.
    pub(super) fn serial(&self) -> u32 {
        let serial = self.serial.get();
        self.serial.set(serial.wrapping_add(1));
        serial
    }

    /// Begins to tell of `socket`. Closing it ends that.
    pub(super) fn add(&self, socket: impl AsFd, about: About, news: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, about.data(), news)?)
    }

    /// Tells something else of `socket`, and what is new with it now.
    pub(super) fn modify(
        &self,
        socket: impl AsFd,
        about: About,
        news: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, about.data(), news)?)
    }

    pub(super) fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// Waits for news, at most `ms` milliseconds (`None`: for ever), and takes them.
    pub(super) fn wait(&self, news: &mut Vec<Event>, ms: Option<u64>) {
        news.clear();
        let is_sleeping = ms != Some(0) && self.alarm.falls_asleep();
        let ms = if is_sleeping { ms } else { Some(0) };
        let timeout = ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: (ms % 1000 * 1_000_000).cast_signed(),
        });
        // Interrupted by a signal: no news.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(news), timeout.as_ref());
        self.alarm.wakes_up();
    }

    pub(super) fn about(event: &Event) -> (About, EventFlags) {
        (About::of(event.data), event.flags)
    }

    /// Wakes the task that waits for a source.
    pub(super) fn hear(&self, token: Token, news: EventFlags) {
        let waker = {
            let mut sources = self.sources.borrow_mut();
            let waiting = sources.get_mut(token.key as usize);
            let Some(waiting) = waiting.filter(|w| w.serial == token.serial) else { return };
            waiting.ready |= news;
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// "This thread has a reactor of its own."
#[derive(Debug)]
pub struct Entered(Option<Rc<Reactor>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A socket that a task waits for. Dropping it tells the kernel nothing: whoever goes on using the
/// socket sees to that.
#[derive(Debug)]
pub(super) struct Source {
    reactor: Rc<Reactor>,
    token: Token,
}

impl Source {
    /// Begins to tell of `socket`.
    pub(super) fn new(
        reactor: &Rc<Reactor>,
        socket: impl AsFd,
        news: EventFlags,
    ) -> io::Result<Self> {
        let mut sources = reactor.sources.borrow_mut();
        let place = sources.vacant_entry();
        let key = u32::try_from(place.key()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let token = Token { serial: reactor.serial(), key };
        reactor.add(socket, About::Source(token), news)?;
        place.insert(Waiting { serial: token.serial, ready: EventFlags::empty(), waker: None });
        drop(sources);
        Ok(Self { reactor: Rc::clone(reactor), token })
    }

    /// Tells something else of `socket`.
    pub(super) fn modify(&self, socket: impl AsFd, news: EventFlags) -> io::Result<()> {
        self.reactor.modify(socket, About::Source(self.token), news)
    }

    /// Waits until one of `wanted` has been told. One task at a time.
    pub(super) fn poll_ready(&self, wanted: EventFlags, cx: &Context<'_>) -> Poll<()> {
        let always = EventFlags::HUP | EventFlags::ERR;
        self.with(|waiting| {
            if waiting.ready.intersects(wanted | always) {
                return Poll::Ready(());
            }
            if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                waiting.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// What was told of it so far is over: the kernel will tell again.
    pub(super) fn clear(&self, told: EventFlags) {
        self.with(|waiting| waiting.ready -= told | EventFlags::HUP | EventFlags::ERR);
    }

    /// Ends telling of `socket`, for one that others may hold open as well.
    pub(super) fn remove(&self, socket: impl AsFd) {
        // It fails only for a socket that is not known.
        let _ = epoll::delete(&self.reactor.epoll, socket);
    }

    fn with<T>(&self, call: impl FnOnce(&mut Waiting) -> T) -> T {
        call(&mut self.reactor.sources.borrow_mut()[self.token.key as usize])
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.reactor.sources.borrow_mut().try_remove(self.token.key as usize);
    }
}

/// Tells a thread that one of its tasks was woken. A system call only while the thread sleeps.
#[derive(Debug)]
pub(super) struct Alarm {
    bell: OwnedFd,
    is_set: AtomicBool,
    is_asleep: AtomicBool,
}

impl Alarm {
    /// Whether it was set since it was last asked.
    pub(super) fn take(&self) -> bool {
        self.is_set.load(SeqCst) && self.is_set.swap(false, SeqCst)
    }

    /// Whether the thread may sleep: whoever sets the alarm from now on rings the bell.
    fn falls_asleep(&self) -> bool {
        self.is_asleep.store(true, SeqCst);
        !self.is_set.load(SeqCst)
    }

    fn wakes_up(&self) {
        if self.is_asleep.load(SeqCst) {
            self.is_asleep.store(false, SeqCst);
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_set.swap(true, SeqCst) && self.is_asleep.load(SeqCst) {
            // It fails only when it has been rung 2^64 times and nobody woke up.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn news_keep_what_they_are_about() {
        let token = Token { serial: u32::MAX, key: (1 << 30) - 1 };
        for about in [About::Client(token), About::Backend(token), About::Source(token)] {
            assert_eq!(About::of(about.data()), about);
        }
        assert_eq!(About::of(About::Alarm.data()), About::Alarm);
    }

    #[test]
    fn an_alarm_from_another_thread_ends_the_sleep_and_one_before_it_prevents_it() {
        let reactor = Reactor::new().unwrap();
        let mut news = Vec::with_capacity(BATCH);
        assert!(reactor.alarm().take() && !reactor.alarm().take());
        let alarm = Arc::clone(reactor.alarm());
        let asleep = Arc::clone(&alarm);
        let ringer = thread::spawn(move || {
            while !asleep.is_asleep.load(SeqCst) {
                thread::yield_now();
            }
            alarm.wake();
        });
        let begun = Instant::now();
        reactor.wait(&mut news, Some(60_000));
        ringer.join().unwrap();
        reactor.wait(&mut news, Some(60_000));
        assert!(begun.elapsed() < Duration::from_secs(30) && reactor.alarm().take());
    }

    #[test]
    fn news_of_a_source_that_is_gone_wake_nobody() {
        let reactor = Reactor::new().unwrap();
        let _ = reactor.alarm().take();
        let (near, mut far) = UnixStream::pair().unwrap();
        let flags = EventFlags::IN | EventFlags::ET;
        let source = Source::new(&reactor, &near, flags).unwrap();
        let waker = Waker::from(Arc::clone(reactor.alarm()));
        assert!(source.poll_ready(EventFlags::IN, &Context::from_waker(&waker)).is_pending());
        far.write_all(b"x").unwrap();
        let mut news = Vec::with_capacity(BATCH);
        reactor.wait(&mut news, Some(10_000));
        drop(source);
        for event in &news {
            if let (About::Source(token), flags) = Reactor::about(event) {
                reactor.hear(token, flags);
            }
        }
        assert_eq!((news.len(), reactor.alarm().take()), (1, false));
    }
}
