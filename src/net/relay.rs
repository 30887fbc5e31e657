//! Both directions of a connection until both have ended.
//!
//! A readable socket is read into the thread's scratch buffer and written on at once; only what the
//! other side does not take is kept, in a buffer of the connection that goes when it is empty. A
//! direction that fills the scratch buffer twice in a row passes through a pipe instead (splice(2)),
//! without copies. A direction with something undelivered is not read: that is the backpressure.
//!
//! What holds, each with a test: every byte read is delivered before the end is signalled; a FIN is
//! passed on as a FIN, each way alone; a reset is passed on as a reset, after the bytes before it
//! have arrived; a failed write in one direction does not cut the other.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::clock::{Clock, Deadline, Deadlines, Tick};
use super::pipe::{Lent, PipePool};
use super::stream::Stream;

/// Size of a thread's scratch buffer, and the most that a direction keeps undelivered.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Reads that fill the scratch buffer in a row before a pipe is used.
const FULL_READS: u8 = 2;
/// A splice that moves less counts against the pipe: a copy would have done.
const SMALL_SPLICE_BYTES: usize = 16 * 1024;
/// Reads of one direction before other connections have their turn.
const ROUNDS: u32 = 4;
/// A connection this old gets keepalive on its backend side: short ones are spared the calls.
const LIVENESS_AFTER: Tick = 5_000;
/// How long what was read may take to be delivered once a connection is ended from outside.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the relays of one thread share.
#[derive(Debug)]
pub struct Engine {
    /// The coarse clock.
    pub clock: Clock,
    /// When to look at which connection again.
    pub deadlines: Rc<Deadlines>,
    pipes: Rc<PipePool>,
    scratch: RefCell<Box<[u8]>>,
}

impl Engine {
    /// An engine that keeps at most `pipes` pipes open.
    #[must_use]
    pub fn new(clock: Clock, pipes: usize) -> Self {
        Self {
            clock,
            deadlines: Rc::default(),
            pipes: Rc::new(PipePool::new(pipes)),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
        }
    }

    /// Lends the scratch buffer for the length of a call.
    pub fn with_scratch<T>(&self, call: impl FnOnce(&mut [u8]) -> T) -> T {
        call(&mut self.scratch.borrow_mut())
    }
}

/// Bytes of many connections together; written by every thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Totals {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Totals {
    /// Bytes from clients.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    /// Bytes from the backend.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }
}

/// Live figures of one connection, and the word that ends it from outside.
pub struct Meter {
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    active: Cell<Tick>,
    stopped: Cell<bool>,
    waker: Cell<Option<Waker>>,
    totals: OnceCell<Arc<Totals>>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meter({} in, {} out)", self.bytes_in(), self.bytes_out())
    }
}

impl Meter {
    /// A meter at zero.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self {
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            active: Cell::new(now),
            stopped: Cell::new(false),
            waker: Cell::new(None),
            totals: OnceCell::new(),
        }
    }

    /// Bytes read from the client.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Bytes read from the backend.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// When a byte last moved.
    #[must_use]
    pub fn active(&self) -> Tick {
        self.active.get()
    }

    /// Ends the connection: what was read is delivered, then both sides get a FIN.
    pub fn stop(&self) {
        self.stopped.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it was told to stop; if not, the task of `cx` is woken when it is.
    pub fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        if self.stopped.get() {
            return Poll::Ready(());
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Counts into `totals` as well from now on, and what was counted before at once.
    pub fn count_into(&self, totals: &Arc<Totals>) {
        let totals = self.totals.get_or_init(|| Arc::clone(totals));
        totals.bytes_in.fetch_add(self.bytes_in(), Relaxed);
    }

    /// Counts bytes read from the client.
    pub fn add_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
        if let Some(totals) = self.totals.get() {
            totals.bytes_in.fetch_add(bytes as u64, Relaxed);
        }
    }

    fn add_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
        if let Some(totals) = self.totals.get() {
            totals.bytes_out.fetch_add(bytes as u64, Relaxed);
        }
    }
}

/// The limits in time of one connection, in milliseconds; `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// No byte in either direction.
    pub idle: Option<Tick>,
    /// One direction has ended and no byte moves in the other; 0: the first end ends both.
    pub half_closed: Option<Tick>,
    /// From the start of the relay.
    pub max_duration: Option<Tick>,
    /// Quiet time after which the backend's socket is probed (TCP keepalive).
    pub keepalive: Option<Duration>,
    /// How long bytes sent to the backend may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Backend,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Both directions ended in order; this side first.
    Closed(Side),
    /// This side reset the connection, or vanished.
    Reset(Side),
    /// [`Limits::idle`].
    Idle,
    /// [`Limits::half_closed`].
    HalfClosed,
    /// [`Limits::max_duration`].
    MaxDuration,
    /// [`Meter::stop`].
    Told,
}

/// The two sockets of a connection, and what was read from the client already.
#[derive(Debug)]
pub struct Pair {
    /// The client's side.
    pub client: Stream,
    /// The backend's side.
    pub backend: Stream,
    /// Bytes for the backend that precede what is read from now on; already counted.
    pub unread: Vec<u8>,
}

/// Relays until both directions have ended, or something else ends the connection, and closes both
/// sockets accordingly.
///
/// Memory: nothing while idle, at most 64 KiB and one pipe a direction. Dropping the future closes
/// both sockets at once.
pub async fn relay(engine: &Engine, pair: Pair, limits: &Limits, meter: &Meter) -> Stop {
    let mut relay = Relay::new(engine, pair, limits);
    let stop = poll_fn(|cx| relay.poll(engine, meter, cx)).await;
    match stop {
        Stop::Closed(_) if relay.is_done() => {}
        Stop::Reset(side) => {
            let other = match side {
                Side::Client => relay.backend,
                Side::Backend => relay.client,
            };
            if other.unsent() == 0 {
                other.reset();
            } else {
                Box::pin(reset_after_delivery(other, limits)).await;
            }
        }
        _ => Box::pin(relay.finish()).await,
    }
    stop
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    state: FlowState,
    /// A write to the source has failed: the end of its bytes is no FIN but a reset.
    source_is_broken: bool,
    full_reads: u8,
    /// Read and not delivered: `rest[sent..]`.
    rest: Vec<u8>,
    sent: usize,
    pipe: Option<Lent>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FlowState {
    #[default]
    Open,
    /// The source has sent its FIN; something may be undelivered.
    Ended,
    /// The source has reset the connection; something may be undelivered.
    Reset,
    /// The end was passed on.
    Done,
    /// The sink takes nothing more.
    Dead,
}

/// Which end of a flow failed.
enum Broken {
    Source,
    Sink,
}

struct Relay<'a> {
    client: Stream,
    backend: Stream,
    /// Client to backend.
    flow_in: Flow,
    /// Backend to client.
    flow_out: Flow,
    /// The side whose end came first.
    first: Option<Side>,
    limits: &'a Limits,
    start: Tick,
    deadline: Option<Deadline>,
    /// Send queues at the last look, to see a slow reader move.
    unsent: usize,
    has_liveness: bool,
}

impl<'a> Relay<'a> {
    fn new(engine: &Engine, pair: Pair, limits: &'a Limits) -> Self {
        Self {
            client: pair.client,
            backend: pair.backend,
            flow_in: Flow { rest: pair.unread, ..Flow::default() },
            flow_out: Flow::default(),
            first: None,
            limits,
            start: engine.clock.now(),
            deadline: None,
            unsent: 0,
            has_liveness: false,
        }
    }

    fn poll(&mut self, engine: &Engine, meter: &Meter, cx: &mut Context<'_>) -> Poll<Stop> {
        if meter.stopped.get() {
            return Poll::Ready(Stop::Told);
        }
        let before = meter.bytes_in() + meter.bytes_out();
        let stuck = self.flow_in.undelivered() + self.flow_out.undelivered();
        self.poll_flows(engine, meter, cx);
        if let Some(stop) = self.stopped() {
            return Poll::Ready(stop);
        }
        let now = engine.clock.now();
        if meter.bytes_in() + meter.bytes_out() != before
            || self.flow_in.undelivered() + self.flow_out.undelivered() != stuck
        {
            meter.active.set(now);
        }
        self.poll_limits(engine, meter, now, cx)
    }

    /// Moves what can be moved, and notes which ends have come.
    fn poll_flows(&mut self, engine: &Engine, meter: &Meter, cx: &mut Context<'_>) {
        if self.flow_in.is_moving() {
            let moved = self.flow_in.poll(
                engine,
                (&mut self.client, &mut self.backend),
                |bytes| meter.add_in(bytes),
                cx,
            );
            self.note(Side::Client, moved);
        }
        if self.flow_out.is_moving() {
            let moved = self.flow_out.poll(
                engine,
                (&mut self.backend, &mut self.client),
                |bytes| meter.add_out(bytes),
                cx,
            );
            self.note(Side::Backend, moved);
        }
    }

    /// Takes note of how the direction that starts at `source` fares.
    fn note(&mut self, source: Side, moved: Poll<Result<(), Broken>>) {
        let (this, other, sink) = match source {
            Side::Client => (&mut self.flow_in, &mut self.flow_out, &self.backend),
            Side::Backend => (&mut self.flow_out, &mut self.flow_in, &self.client),
        };
        match moved {
            Poll::Pending => {
                if this.state == FlowState::Ended {
                    self.first.get_or_insert(source);
                }
            }
            Poll::Ready(Ok(())) if this.state == FlowState::Ended => {
                self.first.get_or_insert(source);
                this.state = FlowState::Done;
                // Where both have ended, closing the sockets says it.
                if other.state != FlowState::Done {
                    sink.shutdown_write();
                }
            }
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Broken::Source)) => {
                this.state = FlowState::Reset;
                other.die();
            }
            Poll::Ready(Err(Broken::Sink)) => {
                this.die();
                other.source_is_broken = true;
            }
        }
    }

    /// Whether the flows have come to an end, and which.
    fn stopped(&self) -> Option<Stop> {
        let (flow_in, flow_out) = (&self.flow_in, &self.flow_out);
        if flow_in.state == FlowState::Done && flow_out.state == FlowState::Done {
            return self.first.map(Stop::Closed);
        }
        if self.limits.half_closed == Some(0)
            && (flow_in.state == FlowState::Done || flow_out.state == FlowState::Done)
        {
            return self.first.map(Stop::Closed);
        }
        // A reset is passed on once what came before it is delivered.
        if flow_in.has_broken_source() && flow_in.undelivered() == 0 {
            return Some(Stop::Reset(Side::Client));
        }
        if flow_out.has_broken_source() && flow_out.undelivered() == 0 {
            return Some(Stop::Reset(Side::Backend));
        }
        match (flow_in.state, flow_out.state) {
            // The backend takes nothing more, and has said all it had to say; or the client.
            (FlowState::Dead, FlowState::Done | FlowState::Dead) => {
                Some(Stop::Reset(Side::Backend))
            }
            (FlowState::Done, FlowState::Dead) => Some(Stop::Reset(Side::Client)),
            _ => None,
        }
    }

    /// Ends the connection when a limit in time has passed, else sees to it that it is asked again.
    fn poll_limits(
        &mut self,
        engine: &Engine,
        meter: &Meter,
        now: Tick,
        cx: &mut Context<'_>,
    ) -> Poll<Stop> {
        let is_due = self.deadline.as_ref().is_some_and(|deadline| deadline.at() <= now);
        if is_due {
            self.look_closer(meter, now);
        }
        let (at, stop) = self.next_limit(meter.active());
        if at <= now {
            return Poll::Ready(stop);
        }
        let at = if self.deadline.is_none() { at.min(self.start + LIVENESS_AFTER) } else { at };
        if is_due || self.deadline.as_ref().is_none_or(|deadline| at < deadline.at()) {
            if self.deadline.is_none() {
                meter.waker.set(Some(cx.waker().clone()));
            }
            self.deadline = Some(engine.deadlines.set(at, cx.waker().clone()));
        }
        Poll::Pending
    }

    /// What only a connection that has lived a while is worth: keepalive, and a look at whether the
    /// kernel still delivers to a slow reader although no byte passes through here.
    fn look_closer(&mut self, meter: &Meter, now: Tick) {
        if self.start + LIVENESS_AFTER <= now {
            self.set_liveness();
        }
        let unsent = self.client.unsent() + self.backend.unsent();
        if unsent > 1 && unsent != self.unsent {
            meter.active.set(now);
        }
        self.unsent = unsent;
    }

    fn set_liveness(&mut self) {
        if !self.has_liveness {
            self.has_liveness = true;
            self.backend.set_liveness(self.limits.keepalive, self.limits.user_timeout);
        }
    }

    /// The limit that comes next.
    fn next_limit(&self, active: Tick) -> (Tick, Stop) {
        let half_closed = self.limits.half_closed.filter(|_| self.first.is_some());
        [
            self.limits.idle.map(|limit| (active + limit, Stop::Idle)),
            half_closed.map(|limit| (active + limit, Stop::HalfClosed)),
            self.limits.max_duration.map(|limit| (self.start + limit, Stop::MaxDuration)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
        .unwrap_or((Tick::MAX, Stop::Told))
    }

    fn is_done(&self) -> bool {
        self.flow_in.state == FlowState::Done && self.flow_out.state == FlowState::Done
    }

    /// Delivers what was read, says FIN to both sides and closes. Bounded in time.
    async fn finish(mut self) {
        let flush = poll_fn(|cx| {
            let to_backend = self.flow_in.poll_deliver(&mut self.backend, cx).is_ready();
            let to_client = self.flow_out.poll_deliver(&mut self.client, cx).is_ready();
            if to_backend && to_client { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = tokio::time::timeout(LAST_WORDS, flush).await;
        for stream in [&self.client, &self.backend] {
            stream.shutdown_write();
            discard_input(stream);
        }
    }
}

impl Flow {
    /// Moves bytes until one side would block, the source has ended and all is delivered
    /// (`Ready(Ok)`), or an end breaks.
    fn poll(
        &mut self,
        engine: &Engine,
        (source, sink): (&mut Stream, &mut Stream),
        count: impl Fn(usize),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..ROUNDS {
            if ready!(self.poll_deliver(sink, cx)).is_err() {
                return Poll::Ready(Err(Broken::Sink));
            }
            if self.state != FlowState::Open {
                return Poll::Ready(Ok(()));
            }
            if self.full_reads >= FULL_READS && self.pipe.is_none() {
                self.pipe = engine.pipes.lend();
            }
            let read = if self.pipe.is_some() {
                self.poll_splice(source, cx)
            } else {
                self.poll_copy(engine, (source, sink), cx)
            };
            match read {
                Poll::Ready(Ok(0)) if self.source_is_broken => self.state = FlowState::Reset,
                Poll::Ready(Ok(0)) => self.state = FlowState::Ended,
                Poll::Ready(Ok(bytes)) => count(bytes),
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    // An empty pipe serves others while this source is silent.
                    self.pipe = None;
                    return Poll::Pending;
                }
            }
        }
        // The rest of the work waits until other connections had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads into the scratch buffer, writes at once, and keeps what the sink does not take.
    fn poll_copy(
        &mut self,
        engine: &Engine,
        (source, sink): (&mut Stream, &mut Stream),
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        engine.with_scratch(|scratch| {
            let Ok(bytes) = ready!(source.poll_read(cx, scratch)) else {
                return Poll::Ready(Err(Broken::Source));
            };
            let is_full = bytes == scratch.len();
            self.full_reads = if is_full { self.full_reads.saturating_add(1) } else { 0 };
            if bytes > 0 {
                let taken = match sink.poll_write(cx, &scratch[..bytes]) {
                    Poll::Ready(Ok(taken)) => taken,
                    // The next delivery meets the same error, after the bytes were counted.
                    Poll::Ready(Err(_)) | Poll::Pending => 0,
                };
                if taken < bytes {
                    self.rest = scratch[taken..bytes].to_vec();
                    self.sent = 0;
                }
            }
            Poll::Ready(Ok(bytes))
        })
    }

    /// Fills the pipe, which is empty.
    fn poll_splice(
        &mut self,
        source: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        let Some(pipe) = self.pipe.as_mut().and_then(Lent::get) else {
            return Poll::Ready(Err(Broken::Source));
        };
        match ready!(source.poll_splice_in(cx, pipe)) {
            Err(_) => Poll::Ready(Err(Broken::Source)),
            Ok(bytes) => {
                if bytes < SMALL_SPLICE_BYTES {
                    self.full_reads -= 1;
                } else {
                    self.full_reads = FULL_READS + 2;
                }
                Poll::Ready(Ok(bytes))
            }
        }
    }

    /// Delivers what was read before. `Ready(Ok)` when nothing is left.
    fn poll_deliver(&mut self, sink: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.rest.len() {
            self.sent += ready!(sink.poll_write(cx, &self.rest[self.sent..]))?;
        }
        if !self.rest.is_empty() {
            self.rest = Vec::new();
            self.sent = 0;
        }
        if let Some(pipe) = self.pipe.as_mut().and_then(Lent::get) {
            while !pipe.is_empty() {
                ready!(sink.poll_splice_out(cx, pipe))?;
            }
            if self.full_reads < FULL_READS {
                self.pipe = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there is anything left to do.
    fn is_moving(&self) -> bool {
        match self.state {
            FlowState::Open | FlowState::Ended => true,
            FlowState::Reset => self.undelivered() > 0,
            FlowState::Done | FlowState::Dead => false,
        }
    }

    fn undelivered(&self) -> usize {
        self.rest.len() - self.sent + usize::from(self.pipe.as_ref().is_some_and(|p| !p.is_empty()))
    }

    fn has_broken_source(&self) -> bool {
        self.state == FlowState::Reset
    }

    /// The sink takes nothing more: what is undelivered never will be.
    fn die(&mut self) {
        *self = Self { state: FlowState::Dead, ..Self::default() };
    }
}

/// Resets `stream` once the peer has acknowledged all bytes: a reset throws away what is unsent.
///
/// Gives up waiting when nothing was acknowledged for the half-closed time.
async fn reset_after_delivery(stream: Stream, limits: &Limits) {
    const FIRST_LOOK: Duration = Duration::from_millis(1);
    const LATER_LOOKS: Duration = Duration::from_millis(20);
    let patience =
        Duration::from_millis(limits.half_closed.or(limits.idle).unwrap_or(60_000).max(1_000));
    let (mut unsent, mut quiet, mut pause) = (stream.unsent(), Duration::ZERO, FIRST_LOOK);
    while unsent > 0 && quiet < patience {
        tokio::time::sleep(pause).await;
        let now_unsent = stream.unsent();
        quiet = if now_unsent < unsent { Duration::ZERO } else { quiet + pause };
        unsent = now_unsent;
        pause = (pause * 2).min(LATER_LOOKS);
    }
    stream.reset();
}

/// Reads and drops what has arrived, so that closing the socket says FIN and not RST.
fn discard_input(stream: &Stream) {
    let mut buf = [0; 4096];
    for _ in 0..64 {
        if !matches!(stream.try_read(&mut buf), Ok(n) if n > 0) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
