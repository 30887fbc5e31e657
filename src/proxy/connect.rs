//! From a pool to a connected backend: pick, lease, dial, and again elsewhere.
//!
//! The client sees nothing of a failed attempt while another backend answers. The first attempt is
//! made at once: on this host and over a quick network it has connected by the time the client's
//! first bytes are read, and nothing waits. Otherwise attempts race each other as connections to
//! several addresses do in RFC 8305: after `hedge` without an answer another one is started, the
//! first to connect wins, and the others are reset.
//!
//! In a hot standby the next attempt goes to whoever is active then. A connection whose failures make
//! the control plane decide waits for the decision, and for the next active one.

mod attempts;
mod waiting;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::futures::OwnedNotified;
use tracing::debug;

use self::attempts::Attempt;
pub(super) use self::attempts::Attempts;
use self::waiting::Waiting;
use super::connection::Connection;
use super::judge;
use super::worker::{Racing, Worker};
use crate::balance::{Request, Tried};
use crate::net::clock::{Deadline, Tick};
use crate::net::dial::{ConnectError, Dial, DialOptions};
use crate::net::proxy_protocol::{self, Ends};
use crate::net::stream::Stream;
use crate::state::counters::Queued;
use crate::state::{Ending, Lease, Place, Pool, Rotation, Wait};

/// Most bytes of a client that are read before it has a backend, but for one read.
const READ_AHEAD_BYTES: usize = 16 * 1024;

/// A connected backend.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) lease: Lease,
    /// Read from the client and not yet written to the backend.
    pub(super) unread: Vec<u8>,
}

/// Connects a client to a backend of `pool`; `bytes` of the client were read, and counted, before.
///
/// Dropping the future resets the attempts under way and frees their slots.
pub(super) async fn connect(
    worker: &Worker,
    pool: &Pool,
    connection: &Connection,
    (client, bytes): (&mut Stream, Vec<u8>),
) -> Result<Link, Ending> {
    // Not from accept: what a client's PROXY header or ClientHello took is no time of a backend.
    let now = worker.engine.clock.now();
    pool.live.budget.count_connection(now);
    let mut race = Race::new(worker, pool, connection, now);
    race.preface = preface(pool, connection, client);
    race.unread = bytes;
    let connected = match race.start(client) {
        Ok(Some(link)) => Ok(link),
        Ok(None) => poll_fn(|cx| race.poll(client, cx)).await,
        Err(ending) => Err(ending),
    };
    if let Err(ending) = connected {
        let is_lost =
            matches!(ending, Ending::NoBackend | Ending::ConnectFailed | Ending::QueueTimeout);
        if pool.is_hot_standby && is_lost {
            pool.live.met.lost.add(worker.engine.clock.now());
        }
    }
    connected
}

/// The PROXY header that the backends of `pool` are sent first.
fn preface(pool: &Pool, connection: &Connection, client: &Stream) -> Vec<u8> {
    let mut header = Vec::new();
    if let Some(version) = pool.connect.send_proxy {
        let source = connection.source.get();
        let ends = source.zip(connection.destination(client));
        let ends = ends.map(|(source, destination)| Ends { source, destination });
        proxy_protocol::write(version, ends, &mut header);
    }
    header
}

/// What comes next.
enum Next {
    /// This attempt was started.
    Attempt(Attempt),
    /// Nobody can be tried before the rotation changes.
    Wait(Option<Wait>),
    /// All are full: a slot has to be waited for.
    Queue,
    /// Nobody can be tried any more.
    End(Ending),
}

/// All attempts of one connection.
struct Race<'a> {
    worker: &'a Worker,
    pool: &'a Pool,
    connection: &'a Connection,
    /// Backends that attempts were made on. In a hot standby those that failed are tried again.
    tried: Tried,
    attempts: Option<Racing<'a>>,
    /// Attempts made so far.
    made: u32,
    /// Its turn, once it has picked or queued: what strategies go by, and its ticket in the queue.
    turn: Option<u64>,
    /// What a backend is sent before what the client has sent.
    preface: Vec<u8>,
    /// What the client sent meanwhile.
    unread: Vec<u8>,
    /// The client has sent its FIN. It may still wait for an answer.
    client_has_ended: bool,
    ends_at: Tick,
    hedge_at: Option<Tick>,
    deadline: Option<Deadline>,
    /// In a hot standby: the reign in which attempts were made, on whom the last one failed, and how
    /// many in a row failed on the one who reigns.
    reign: u64,
    failed_on: Option<u32>,
    row: u32,
    /// Until when it waits for actions, counted among those who wait; the deadline is no matter meanwhile.
    held: Option<(Tick, Queued)>,
    /// Its place in the queue, while it is there.
    waiting: Option<Waiting>,
    /// How much longer it may wait, once it has had a place in the queue: it has a right to it.
    may_wait: Option<Tick>,
    /// Woken when the rotation changes.
    changed: Option<Pin<Box<OwnedNotified>>>,
}

impl<'a> Race<'a> {
    fn new(worker: &'a Worker, pool: &'a Pool, connection: &'a Connection, now: Tick) -> Self {
        Self {
            worker,
            pool,
            connection,
            tried: Tried::default(),
            attempts: None,
            made: 0,
            turn: None,
            preface: Vec::new(),
            unread: Vec::new(),
            client_has_ended: false,
            ends_at: now + pool.connect.deadline,
            hedge_at: None,
            deadline: None,
            reign: 0,
            failed_on: None,
            row: 0,
            held: None,
            waiting: None,
            may_wait: None,
            changed: None,
        }
    }

    /// The first attempt, and the client's first bytes on their way if it has connected at once.
    fn start(&mut self, client: &Stream) -> Result<Option<Link>, Ending> {
        let attempt = match self.next_attempt() {
            Next::Attempt(attempt) => attempt,
            Next::Wait(_) | Next::Queue => return Ok(None),
            Next::End(ending) => return Err(ending),
        };
        if !(self.preface.is_empty() && self.unread.is_empty()) {
            return Ok(self.start_with_bytes(attempt));
        }
        let mut first_bytes = None;
        let read = self.worker.engine.with_scratch(|scratch| {
            let room = self.read_ahead(scratch.len());
            let bytes = match client.try_read(&mut scratch[..room]) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ending::ClientReset),
            };
            self.connection.meter.add_in(bytes);
            let address = &attempt.lease.backend().address;
            let written = attempt.dial.try_first_write(&scratch[..bytes], address);
            let taken = written.ok().flatten().unwrap_or(0);
            self.unread = scratch[taken..bytes].to_vec();
            first_bytes = Some(written);
            Ok(())
        });
        if let Err(ending) = read {
            attempt.dial.abandon();
            return Err(ending);
        }
        match first_bytes {
            Some(Ok(Some(_))) => return Ok(Some(self.finish(attempt))),
            Some(Err(error)) => self.note_failure(&attempt.lease, error, attempt.started),
            Some(Ok(None)) | None => self.under_way().list.borrow_mut().push(attempt),
        }
        Ok(None)
    }

    /// The same where there is something to be sent already.
    fn start_with_bytes(&mut self, attempt: Attempt) -> Option<Link> {
        let bytes = self.take_unread();
        let address = &attempt.lease.backend().address;
        match attempt.dial.try_first_write(&bytes, address) {
            Ok(Some(taken)) => {
                let mut link = self.finish(attempt);
                link.unread = bytes[taken..].to_vec();
                return Some(link);
            }
            Ok(None) => {
                self.unread = bytes[self.preface.len()..].to_vec();
                self.under_way().list.borrow_mut().push(attempt);
            }
            Err(error) => {
                self.unread = bytes[self.preface.len()..].to_vec();
                self.note_failure(&attempt.lease, error, attempt.started);
            }
        }
        None
    }

    /// What a backend is to be sent: the preface, then what the client sent.
    fn take_unread(&mut self) -> Vec<u8> {
        let unread = std::mem::take(&mut self.unread);
        if self.preface.is_empty() {
            return unread;
        }
        [&self.preface[..], &unread[..]].concat()
    }

    /// The attempts under way, which the thread knows of from now on.
    fn under_way(&mut self) -> &Attempts {
        self.attempts.get_or_insert_with(|| self.worker.race())
    }

    fn has_attempts(&self) -> bool {
        self.attempts.as_ref().is_some_and(|attempts| !attempts.list.borrow().is_empty())
    }

    /// Picks, leases and dials until an attempt is under way.
    fn next_attempt(&mut self) -> Next {
        let now = self.worker.engine.clock.now();
        let mut last = Ending::ConnectFailed;
        loop {
            // In this order: what is decided after the first look is not missed by the second.
            let may_change = self.pool.is_hot_standby && self.pool.live.is_undecided();
            let rotation = self.pool.live.rotation();
            if let Some(wait) = rotation.wait() {
                return Next::Wait(Some(wait));
            }
            self.enter(&rotation, now);
            if rotation.is_empty() {
                return exhausted(Ending::NoBackend, may_change);
            }
            let is_late = self.waiting.is_none() && now >= self.ends_at;
            if self.made >= self.pool.connect.attempts || is_late {
                return exhausted(last, may_change);
            }
            if self.must_queue() {
                return Next::Queue;
            }
            let lease = match self.next_lease(&rotation, now) {
                Ok(lease) => lease,
                Err(Ending::QueueFull) if self.pool.queue.is_some() => return Next::Queue,
                Err(Ending::ConnectFailed) => return exhausted(last, may_change),
                Err(ending) => return exhausted(ending, may_change),
            };
            let budget = (now, self.pool.connect.retry_percent);
            if self.made > 0 && !self.pool.live.budget.try_retry(budget.0, budget.1) {
                self.tried.remove(lease.backend().id);
                return exhausted(last, may_change);
            }
            if self.made > 0 {
                self.pool.live.counters.retries.add();
            }
            self.made += 1;
            let started = Instant::now();
            match self.dial(&lease) {
                Ok(dial) => {
                    self.hedge_at = self.pool.connect.hedge.map(|hedge| now + hedge);
                    let expires = now + self.pool.connect.timeout;
                    return Next::Attempt(Attempt { dial, lease, started, expires });
                }
                // Without descriptors or memory no other backend can be connected to either.
                Err(error) if error.is_shortage() => return Next::End(Ending::LocalError),
                // What this host lacks for one address, another one may not need.
                Err(ConnectError::Local(_)) => last = Ending::LocalError,
                Err(error) => {
                    self.note_failure(&lease, error, started);
                    last = Ending::ConnectFailed;
                }
            }
        }
    }

    /// The turn of this connection: one for all attempts, so that retries do not take the turns of
    /// others, and a strategy goes on from where it began.
    fn turn(&mut self) -> u64 {
        *self.turn.get_or_insert_with(|| self.pool.live.next_turn())
    }

    /// Takes note of the rotation that is in force: after a takeover attempts count anew, after actions
    /// the deadline begins.
    fn enter(&mut self, rotation: &Rotation, now: Tick) {
        if self.held.take().is_some() {
            self.ends_at = now + self.pool.connect.deadline;
        }
        if self.pool.is_hot_standby && rotation.reign() != self.reign {
            self.reign = rotation.reign();
            self.row = 0;
            self.made = 0;
            self.tried = Tried::default();
        }
    }

    /// A slot of a backend that this connection has not tried.
    fn next_lease(&mut self, rotation: &Rotation, now: Tick) -> Result<Lease, Ending> {
        let (turn, random) = (self.turn(), self.worker.random());
        // Those that were tried or are full. What is full now need not be so at the next attempt.
        let mut tried_or_full: Option<Tried> = None;
        loop {
            let tried = tried_or_full.as_ref().unwrap_or(&self.tried);
            let request = Request {
                source: self.connection.ip(),
                turn,
                random,
                now_ms: u32::try_from(now & u64::from(u32::MAX)).unwrap_or(0),
                tried,
            };
            let is_full = tried_or_full.is_some();
            // Worse priorities are for what fails, not for what is full: that is waited for.
            let reserve = || rotation.reserve(tried).filter(|_| !is_full || !self.tried.is_empty());
            let Some(member) = rotation.pick(&request).or_else(reserve) else {
                return Err(if is_full { Ending::QueueFull } else { Ending::ConnectFailed });
            };
            if let Some(lease) = Lease::take(member, now) {
                self.tried.insert(member.backend.id);
                return Ok(lease);
            }
            let tried_or_full = tried_or_full.get_or_insert_with(|| {
                let mut all = self.tried.clone();
                // All that are full at once, and not one by one with a pick for each.
                rotation.full().for_each(|id| all.insert(id));
                all
            });
            tried_or_full.insert(member.backend.id);
        }
    }

    /// Starts one connect, from each source address in turn until one has a port to spare.
    fn dial(&self, lease: &Lease) -> Result<Dial, ConnectError> {
        let address = &lease.backend().address;
        let options = DialOptions {
            nodelay: self.connection.listener.options.nodelay,
            ports: self.worker.shared.ports,
            transparent: self.pool.connect.is_transparent,
        };
        let mut failed = None;
        let own = self.connection.ip().filter(|_| options.transparent);
        let sources = self.pool.sources(address).map(|source| own.or(source));
        for source in sources {
            match Dial::start(address, source, options) {
                Err(error @ ConnectError::Local(errno)) => {
                    debug!(backend = %lease.backend().name, %errno, "cannot connect from here");
                    failed = Some(error);
                }
                done => return done,
            }
        }
        Err(failed.unwrap_or(ConnectError::Other(rustix::io::Errno::INVAL)))
    }

    /// Advances all attempts, starts another one when it is time, and sees to being asked again.
    fn poll(&mut self, client: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<Link, Ending>> {
        self.hear(cx);
        loop {
            if self.connection.meter.poll_stopped(cx).is_ready() {
                return Poll::Ready(Err(self.connection.told()));
            }
            self.poll_client(client, cx)?;
            let now = self.worker.engine.clock.now();
            if let Some(link) = self.poll_attempts(now, cx) {
                return Poll::Ready(Ok(link));
            }
            if now >= self.waits_until() {
                let is_held = self.held.is_some() || self.waiting.is_some();
                let ending = if is_held { Ending::QueueTimeout } else { Ending::ConnectFailed };
                self.keep_cut_off();
                return Poll::Ready(Err(ending));
            }
            let is_hedge_due = self.hedge_at.is_some_and(|at| at <= now);
            if self.has_attempts() && !is_hedge_due {
                self.set_deadline(cx);
                return Poll::Pending;
            }
            if let Some(waiting) = &self.waiting {
                // With nothing sent, an end says that the client has left.
                if self.client_has_ended && self.unread.is_empty() {
                    return Poll::Ready(Err(Ending::ClientClosed));
                }
                if waiting.place.poll_turn(cx).is_pending() {
                    self.set_deadline(cx);
                    return Poll::Pending;
                }
            }
            match self.next_attempt() {
                Next::Attempt(attempt) => {
                    self.leave_queue(now).into_iter().for_each(Place::take_slot);
                    self.changed = None;
                    self.under_way().list.borrow_mut().push(attempt);
                }
                // Not now; when those under way have failed, it is tried again.
                Next::Wait(_) | Next::Queue | Next::End(_) if self.has_attempts() => {
                    self.hedge_at = None;
                }
                Next::End(ending) => return Poll::Ready(Err(ending)),
                // In the queue it is then asked whose turn it is.
                Next::Queue => self.queue(now)?,
                Next::Wait(wait) => {
                    drop(self.leave_queue(now));
                    if self.changed.is_some() {
                        self.wait(wait, now, cx)?;
                        return Poll::Pending;
                    }
                    // Listening first, then looking again, so that no change falls in between.
                    self.listen(cx);
                }
            }
        }
    }

    /// The log tells of those that the deadline cuts off, too.
    fn keep_cut_off(&self) {
        let Some(attempts) = &self.attempts else { return };
        for Attempt { lease, started, .. } in attempts.list.borrow().iter() {
            let took = started.elapsed();
            self.connection.keep_failure(lease.backend(), ConnectError::Timeout, took);
        }
    }

    /// How much is read of a client at once before it has a backend: what its bandwidth lets pass in a
    /// twentieth of a second, but no more than `most`.
    fn read_ahead(&self, most: usize) -> usize {
        let rate = self.connection.listener.limits.bandwidth.0;
        let share = rate.map(|rate| usize::try_from(rate / 20).unwrap_or(most).max(1));
        share.map_or(most, |share| share.min(most))
    }

    /// Reads ahead what the client sends, within bounds, and so learns if it is gone.
    fn poll_client(&mut self, client: &mut Stream, cx: &mut Context<'_>) -> Result<(), Ending> {
        let most = self.read_ahead(READ_AHEAD_BYTES);
        while self.unread.len() < most && !self.client_has_ended {
            let read = self.worker.engine.with_scratch(|scratch| {
                let read = client.poll_read(cx, &mut scratch[..most]);
                if let Poll::Ready(Ok(bytes)) = read {
                    self.unread.extend_from_slice(&scratch[..bytes]);
                }
                read
            });
            match read {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.client_has_ended = true,
                Poll::Ready(Ok(bytes)) => self.connection.meter.add_in(bytes),
                Poll::Ready(Err(_)) => return Err(Ending::ClientReset),
            }
        }
        Ok(())
    }

    /// The first attempt that has connected; those that failed or expired are taken out.
    fn poll_attempts(&mut self, now: Tick, cx: &mut Context<'_>) -> Option<Link> {
        let attempts = self.attempts.take()?;
        attempts.waker.set(Some(cx.waker().clone()));
        if let Some(backend) = attempts.fenced.take() {
            self.failed_on = Some(backend);
        }
        let mut list = attempts.list.take();
        let mut index = 0;
        let mut winner = None;
        while index < list.len() && winner.is_none() {
            let attempt = &mut list[index];
            let connected = attempt.dial.poll_connected(&attempt.lease.backend().address, cx);
            let error = match connected {
                Poll::Pending if attempt.expires > now => {
                    index += 1;
                    continue;
                }
                Poll::Pending => ConnectError::Timeout,
                Poll::Ready(Err(error)) => error,
                Poll::Ready(Ok(())) => {
                    winner = Some(list.swap_remove(index));
                    list.drain(..).for_each(|loser| loser.dial.abandon());
                    continue;
                }
            };
            let failed = list.swap_remove(index);
            self.note_failure(&failed.lease, error, failed.started);
            failed.dial.abandon();
            // Another one at once, beside those that are still under way.
            self.hedge_at = self.hedge_at.map(|_| now);
        }
        attempts.list.replace(list);
        self.attempts = Some(attempts);
        winner.map(|winner| self.finish(winner))
    }

    /// Turns an attempt that has connected into a link.
    fn finish(&mut self, attempt: Attempt) -> Link {
        let Attempt { dial, lease, started, .. } = attempt;
        let backend = lease.backend();
        let now = self.worker.engine.clock.now();
        let took = started.elapsed();
        self.pool.live.counters.connect.record(took);
        self.connection.keep_connect(took);
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        backend.load.record_latency(micros, u32::try_from(now & 0xffff_ffff).unwrap_or(0));
        self.connection.meter.count_into(&backend.totals);
        if self.pool.is_hot_standby {
            let rotation = self.pool.live.rotation();
            if rotation.served().is_none() {
                rotation.note_served(backend.id, self.worker.engine.clock.exact());
            }
            if self.failed_on.is_some_and(|id| id != backend.id) {
                self.pool.live.met.retried.fetch_add(1, Relaxed);
            }
        }
        Link { stream: dial.into_stream(), lease, unread: self.take_unread() }
    }

    /// Takes note of an attempt that failed.
    fn note_failure(&mut self, lease: &Lease, error: ConnectError, started: Instant) {
        let backend = lease.backend();
        self.connection.keep_failure(backend, error, started.elapsed());
        debug!(
            pool = %self.pool.name,
            backend = %backend.name,
            address = %backend.address,
            reason = error.as_str(),
            "connect failed"
        );
        backend.counters.fail(error);
        if self.pool.is_hot_standby {
            // The next attempt goes to whoever is active then.
            self.tried.remove(backend.id);
            self.failed_on = Some(backend.id);
            self.row += 1;
        }
        if let Some(trouble) = judge::trouble(error) {
            // A refusal tells of this moment, a timeout of the one when the attempt began.
            let now = self.worker.engine.clock.exact();
            let began = now.saturating_sub(match error {
                ConnectError::Timeout => self.pool.connect.timeout,
                _ => 0,
            });
            judge::failed(self.worker, self.pool, lease, (trouble, began, self.row));
        }
    }

    /// Sees to being asked again when the next attempt expires, is due, or all must end.
    fn set_deadline(&mut self, cx: &Context<'_>) {
        let attempts = self.attempts.as_ref();
        let expiry = attempts.and_then(|a| a.list.borrow().iter().map(|a| a.expires).min());
        let end = self.waits_until();
        let at = [expiry, self.hedge_at].into_iter().flatten().fold(end, Tick::min);
        self.deadline = Some(self.worker.engine.deadlines.set(at, cx.waker().clone()));
    }
}

/// Nobody is left to be tried: the end, unless a report that may change that is being decided.
fn exhausted(ending: Ending, may_change: bool) -> Next {
    if may_change { Next::Wait(None) } else { Next::End(ending) }
}

impl Drop for Race<'_> {
    fn drop(&mut self) {
        if let Some(attempts) = &self.attempts {
            attempts.list.take().into_iter().for_each(|attempt| attempt.dial.abandon());
        }
    }
}
