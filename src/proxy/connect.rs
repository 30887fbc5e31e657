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
use crate::net::dial::{ConnectError, Dial, DialOptions};
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
    /// Its turn, once it has picked.
    turn: Option<u64>,
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
            turn: None,
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
            Some(Ok(Some(_))) => return Ok(Some(self.finish(attempt))),
            Some(Err(error)) => self.note_failure(attempt.lease.backend(), error),
            Some(Ok(None)) | None => self.attempts.push(attempt),
        }
        Ok(None)
    }

    /// Picks, leases and dials until an attempt is under way.
    fn next_attempt(&mut self) -> Result<Attempt, Ending> {
        let now = self.worker.engine.clock.now();
        let mut last = Ending::ConnectFailed;
        loop {
            if self.made >= self.pool.connect.attempts || now >= self.ends_at {
                return Err(last);
            }
            let lease = match self.next_lease(now) {
                Err(Ending::ConnectFailed) => return Err(last),
                lease => lease?,
            };
            if self.made > 0 && !self.pool.budget.try_retry(now) {
                self.tried.remove(lease.backend().id);
                return Err(last);
            }
            self.made += 1;
            match self.dial(&lease) {
                Ok(dial) => {
                    self.hedge_at = self.pool.connect.hedge.map(|hedge| now + hedge);
                    let expires = now + self.pool.connect.timeout;
                    return Ok(Attempt { dial, lease, started: Instant::now(), expires });
                }
                // Without descriptors or memory no other backend can be connected to either.
                Err(error) if error.is_shortage() => return Err(Ending::LocalError),
                // What this host lacks for one address, another one may not need.
                Err(ConnectError::Local(_)) => last = Ending::LocalError,
                Err(error) => {
                    self.note_failure(lease.backend(), error);
                    last = Ending::ConnectFailed;
                }
            }
        }
    }

    /// A slot of a backend that this connection has not tried.
    fn next_lease(&mut self, now: Tick) -> Result<Lease, Ending> {
        let rotation = self.pool.rotation();
        if rotation.is_empty() {
            return Err(Ending::NoBackend);
        }
        // One turn for all attempts: a strategy goes on from where it began, so that retries do not
        // take the turns of other connections.
        let turn = *self.turn.get_or_insert_with(|| self.pool.next_turn());
        let random = self.worker.random();
        let mut is_full = false;
        loop {
            let request = Request {
                source: self.connection.source.map(|source| source.ip()),
                turn,
                random,
                now_ms: u32::try_from(now & u64::from(u32::MAX)).unwrap_or(0),
                tried: &self.tried,
            };
            let picked = rotation.pick(&request).filter(|m| !self.tried.contains(m.backend.id));
            let Some(member) = picked else {
                let was_tried = self.made > 0 || !is_full;
                return Err(if was_tried { Ending::ConnectFailed } else { Ending::QueueFull });
            };
            self.tried.insert(member.backend.id);
            if let Some(lease) = Lease::take(&member.backend, member.max_connections) {
                return Ok(lease);
            }
            if !is_full {
                // All that are full at once, and not one by one with a pick for each.
                rotation.full().for_each(|id| self.tried.insert(id));
                is_full = true;
            }
        }
    }

    /// Starts one connect, from each source address in turn until one has a port to spare.
    fn dial(&self, lease: &Lease) -> Result<Dial, ConnectError> {
        let address = &lease.backend().address;
        let options = DialOptions {
            nodelay: self.connection.listener.options.nodelay,
            ports: self.worker.shared.ports,
            transparent: false,
        };
        let mut failed = None;
        for source in self.pool.sources(address) {
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
            if self.attempts.is_empty() || is_hedge_due {
                match self.next_attempt() {
                    Ok(attempt) => self.attempts.push(attempt),
                    Err(ending) if self.attempts.is_empty() => return Poll::Ready(Err(ending)),
                    // Not now; when those under way have failed, it is tried again.
                    Err(_) => self.hedge_at = None,
                }
                continue;
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
            let error = match connected {
                Poll::Pending if attempt.expires > now => {
                    index += 1;
                    continue;
                }
                Poll::Pending => ConnectError::Timeout,
                Poll::Ready(Err(error)) => error,
                Poll::Ready(Ok(())) => {
                    let winner = self.attempts.swap_remove(index);
                    self.attempts.drain(..).for_each(|loser| loser.dial.abandon());
                    return Some(self.finish(winner));
                }
            };
            let failed = self.attempts.swap_remove(index);
            self.note_failure(failed.lease.backend(), error);
            failed.dial.abandon();
            // Another one at once, beside those that are still under way.
            self.hedge_at = self.hedge_at.map(|_| now);
        }
        None
    }

    /// Turns an attempt that has connected into a link.
    fn finish(&mut self, attempt: Attempt) -> Link {
        let Attempt { dial, lease, started, .. } = attempt;
        let backend = lease.backend();
        let now = self.worker.engine.clock.now();
        let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        backend.load.record_latency(micros, u32::try_from(now & 0xffff_ffff).unwrap_or(0));
        self.connection.meter.count_into(&backend.totals);
        *self.connection.backend.borrow_mut() = Some(Arc::clone(backend));
        Link { stream: dial.into_stream(), lease, unread: std::mem::take(&mut self.unread) }
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
        let at = [expiry, self.hedge_at].into_iter().flatten().fold(self.ends_at, Tick::min);
        self.deadline = Some(self.worker.engine.deadlines.set(at, cx.waker().clone()));
    }
}

impl Drop for Race<'_> {
    fn drop(&mut self) {
        self.attempts.drain(..).for_each(|attempt| attempt.dial.abandon());
    }
}
