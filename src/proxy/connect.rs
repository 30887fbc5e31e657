//! From a pool to a connected backend: pick, lease, dial, and again elsewhere.
//!
//! The client sees nothing of a failed attempt while another backend answers. The first attempt is
//! made at once: on this host and over a quick network it has connected by the time the client's
//! first bytes are read, and nothing waits. Otherwise attempts race each other as connections to
//! several addresses do in RFC 8305: after `hedge` without an answer another one is started, the
//! first to connect wins, and the others are reset.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tracing::debug;

use super::connection::Connection;
use super::ending::Ending;
use super::worker::Worker;
use crate::balance::{Request, Tried};
use crate::net::clock::{Deadline, Tick};
use crate::net::dial::{ConnectError, Dial};
use crate::net::stream::Stream;
use crate::state::{Backend, Lease, Pool};

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

/// A client and the backend it was connected to; or the client, and why there is none.
pub(super) type Connected = Result<(Stream, Link), (Stream, Ending)>;

/// Connects `client` to a backend of `pool`, and hands it back in either case.
///
/// Dropping the future resets the attempts under way and frees their slots.
pub(super) async fn connect(
    worker: &Worker,
    pool: &Pool,
    connection: &Connection,
    mut client: Stream,
) -> Connected {
    let mut race = Race::new(worker, pool, connection);
    let connected = match race.start(&client) {
        Ok(Some(link)) => Ok(link),
        Ok(None) => poll_fn(|cx| race.poll(&mut client, cx)).await,
        Err(ending) => Err(ending),
    };
    match connected {
        Ok(link) => Ok((client, link)),
        Err(ending) => Err((client, ending)),
    }
}

/// One attempt under way.
struct Attempt {
    dial: Dial,
    lease: Lease,
    started: Instant,
    expires: Tick,
}

/// All attempts of one connection.
struct Race<'a> {
    worker: &'a Worker,
    pool: &'a Pool,
    connection: &'a Connection,
    tried: Tried,
    attempts: Vec<Attempt>,
    /// Attempts made so far.
    made: u32,
    /// Why no further attempt can be made, once that is so.
    exhausted: Option<Ending>,
    /// What the client sent meanwhile.
    unread: Vec<u8>,
    /// The client has sent its FIN. It may still wait for an answer.
    client_has_ended: bool,
    ends_at: Tick,
    hedge_at: Option<Tick>,
    deadline: Option<Deadline>,
}

impl<'a> Race<'a> {
    fn new(worker: &'a Worker, pool: &'a Pool, connection: &'a Connection) -> Self {
        Self {
            worker,
            pool,
            connection,
            tried: Tried::default(),
            attempts: Vec::new(),
            made: 0,
            exhausted: None,
            unread: Vec::new(),
            client_has_ended: false,
            ends_at: connection.start + pool.connect.deadline,
            hedge_at: None,
            deadline: None,
        }
    }

    /// The first attempt, and the client's first bytes on their way if it has connected at once.
    fn start(&mut self, client: &Stream) -> Result<Option<Link>, Ending> {
        self.pool.budget.count_connection(self.connection.start);
        let attempt = self.next_attempt()?;
        let mut first_bytes = None;
        self.worker.engine.with_scratch(|scratch| {
            let bytes = match client.try_read(scratch) {
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
        })?;
        match first_bytes {
            Some(Ok(Some(_))) => match self.finish(attempt) {
                Ok(link) => Ok(Some(link)),
                Err((backend, error)) => {
                    self.note_failure(&backend, error);
                    Ok(None)
                }
            },
            Some(Err(error)) => {
                self.note_failure(attempt.lease.backend(), error);
                Ok(None)
            }
            Some(Ok(None)) | None => {
                self.attempts.push(attempt);
                Ok(None)
            }
        }
    }

    /// Picks, leases and dials until an attempt is under way.
    fn next_attempt(&mut self) -> Result<Attempt, Ending> {
        let now = self.worker.engine.clock.now();
        let mut last = None;
        loop {
            if self.made > 0 && !self.may_retry(now) {
                return Err(last.unwrap_or(Ending::ConnectFailed));
            }
            let lease = self.next_lease(now)?;
            self.made += 1;
            match self.dial(&lease) {
                Ok(dial) => {
                    self.hedge_at = self.pool.connect.hedge.map(|hedge| now + hedge);
                    let expires = now + self.pool.connect.timeout;
                    return Ok(Attempt { dial, lease, started: Instant::now(), expires });
                }
                Err(ConnectError::Local(_)) => return Err(Ending::LocalError),
                Err(error) => self.note_failure(lease.backend(), error),
            }
            last = Some(Ending::ConnectFailed);
        }
    }

    fn may_retry(&self, now: Tick) -> bool {
        self.made < self.pool.connect.attempts
            && now < self.ends_at
            && self.pool.budget.try_retry(now)
    }

    /// A slot of a backend that this connection has not tried.
    fn next_lease(&mut self, now: Tick) -> Result<Lease, Ending> {
        let rotation = self.pool.rotation();
        if rotation.is_empty() {
            return Err(Ending::NoBackend);
        }
        let turn = self.pool.next_turn();
        let random = self.worker.random();
        loop {
            let request = Request {
                source: self.connection.source.map(|source| source.ip()),
                turn,
                random,
                now_ms: u32::try_from(now & u64::from(u32::MAX)).unwrap_or(0),
                tried: &self.tried,
            };
            let Some(member) = rotation.pick(&request) else {
                return Err(if self.made > 0 { Ending::ConnectFailed } else { Ending::QueueFull });
            };
            self.tried.insert(member.backend.id);
            if let Some(lease) = Lease::take(&member.backend, member.max_connections) {
                return Ok(lease);
            }
        }
    }

    /// Starts one connect, from each source address in turn until one has a port to spare.
    fn dial(&self, lease: &Lease) -> Result<Dial, ConnectError> {
        let address = &lease.backend().address;
        let nodelay = self.connection.listener.options.nodelay;
        let mut failed = None;
        for source in self.pool.sources(address) {
            match Dial::start(address, source, nodelay) {
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
        loop {
            if self.connection.meter.poll_stopped(cx).is_ready() {
                return Poll::Ready(Err(self.connection.told()));
            }
            self.poll_client(client, cx)?;
            let now = self.worker.engine.clock.now();
            if let Some(link) = self.poll_attempts(now, cx) {
                return Poll::Ready(Ok(link));
            }
            if now >= self.ends_at {
                return Poll::Ready(Err(Ending::ConnectFailed));
            }
            let is_hedge_due = self.hedge_at.is_some_and(|at| at <= now);
            if self.exhausted.is_none() && (self.attempts.is_empty() || is_hedge_due) {
                match self.next_attempt() {
                    Ok(attempt) => self.attempts.push(attempt),
                    Err(ending) => self.exhausted = Some(ending),
                }
                continue;
            }
            if let (Some(ending), true) = (self.exhausted, self.attempts.is_empty()) {
                return Poll::Ready(Err(ending));
            }
            self.set_deadline(cx);
            return Poll::Pending;
        }
    }

    /// Reads ahead what the client sends, within bounds, and so learns if it is gone.
    fn poll_client(&mut self, client: &mut Stream, cx: &mut Context<'_>) -> Result<(), Ending> {
        while self.unread.len() < READ_AHEAD_BYTES && !self.client_has_ended {
            let read = self.worker.engine.with_scratch(|scratch| {
                let read = client.poll_read(cx, &mut scratch[..READ_AHEAD_BYTES]);
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
        let mut index = 0;
        while index < self.attempts.len() {
            let attempt = &mut self.attempts[index];
            let connected = attempt.dial.poll_connected(&attempt.lease.backend().address, cx);
            let failed = match connected {
                Poll::Pending if attempt.expires > now => {
                    index += 1;
                    continue;
                }
                Poll::Pending => (Arc::clone(attempt.lease.backend()), ConnectError::Timeout),
                Poll::Ready(Err(error)) => (Arc::clone(attempt.lease.backend()), error),
                Poll::Ready(Ok(())) => {
                    let attempt = self.attempts.swap_remove(index);
                    match self.finish(attempt) {
                        Ok(link) => {
                            self.attempts.drain(..).for_each(|loser| loser.dial.abandon());
                            return Some(link);
                        }
                        Err((backend, error)) => {
                            self.note_failure(&backend, error);
                            continue;
                        }
                    }
                }
            };
            self.attempts.swap_remove(index).dial.abandon();
            self.note_failure(&failed.0, failed.1);
        }
        None
    }

    /// Turns an attempt that has connected into a link.
    fn finish(&mut self, attempt: Attempt) -> Result<Link, (Arc<Backend>, ConnectError)> {
        let Attempt { dial, lease, started, .. } = attempt;
        let backend = lease.backend();
        let stream = dial
            .into_stream(&backend.address, self.worker.shared.ports)
            .map_err(|error| (Arc::clone(backend), error))?;
        let now = self.worker.engine.clock.now();
        let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        backend.load.record_latency(micros, u32::try_from(now & 0xffff_ffff).unwrap_or(0));
        self.connection.meter.count_into(&backend.totals);
        *self.connection.backend.borrow_mut() = Some(Arc::clone(backend));
        Ok(Link { stream, lease, unread: std::mem::take(&mut self.unread) })
    }

    fn note_failure(&self, backend: &Backend, error: ConnectError) {
        debug!(
            pool = %self.pool.name,
            backend = %backend.name,
            address = %backend.address,
            reason = error.as_str(),
            "connect failed"
        );
    }

    /// Sees to being asked again when the next attempt expires, is due, or all must end.
    fn set_deadline(&mut self, cx: &Context<'_>) {
        let expiry = self.attempts.iter().map(|attempt| attempt.expires).min();
        let hedge = self.hedge_at.filter(|_| self.exhausted.is_none());
        let at = [expiry, hedge].into_iter().flatten().fold(self.ends_at, Tick::min);
        self.deadline = Some(self.worker.engine.deadlines.set(at, cx.waker().clone()));
    }
}

impl Drop for Race<'_> {
    fn drop(&mut self) {
        self.attempts.drain(..).for_each(|attempt| attempt.dial.abandon());
    }
}
