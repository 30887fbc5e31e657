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

mod flow;
mod meter;
#[cfg(test)]
mod tests;
mod watch;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use flow::{Broken, Flow, FlowState};
pub use meter::{Limits, Meter, Totals};
pub use watch::Watch;

use super::clock::{Clock, Deadline, Deadlines, Tick};
use super::pipe::PipePool;
use super::stream::Stream;

/// Size of a thread's scratch buffer, and the most that a direction keeps undelivered.
const SCRATCH_BYTES: usize = 64 * 1024;
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

/// A connection in its relay phase: all that an idle one keeps.
#[derive(Debug)]
pub struct Relay {
    client: Stream,
    backend: Stream,
    /// Client to backend.
    flow_in: Flow,
    /// Backend to client.
    flow_out: Flow,
    /// The side whose end came first.
    first: Option<Side>,
    start: Tick,
    deadline: Option<Deadline>,
    /// Send queues when a limit had passed, to see a slow reader move.
    unsent: Option<usize>,
    has_liveness: bool,
    /// The backend has sent a byte.
    has_answered: bool,
    /// The watch was told that the backend is silent.
    is_silent: bool,
}

impl Relay {
    /// The relay between the two sides of `pair`, not running yet.
    #[must_use]
    pub fn new(engine: &Engine, pair: Pair) -> Self {
        Self {
            client: pair.client,
            backend: pair.backend,
            flow_in: Flow::beginning_with(pair.unread),
            flow_out: Flow::default(),
            first: None,
            start: engine.clock.now(),
            deadline: None,
            unsent: None,
            has_liveness: false,
            has_answered: false,
            is_silent: false,
        }
    }

    /// Relays until both directions have ended, or something else ends the connection. The sockets
    /// are ready to be closed then: dropping the relay says what is left to say.
    ///
    /// Memory: nothing while idle, at most 64 KiB and one pipe a direction. Dropping the relay
    /// before its time closes both sockets at once.
    pub async fn run(
        &mut self,
        engine: &Engine,
        limits: &Limits,
        (meter, watch): (&Meter, &impl Watch),
    ) -> Stop {
        // What connecting took is no time without traffic.
        meter.active.set(self.start);
        let stop = poll_fn(|cx| self.poll(engine, limits, (meter, watch), cx)).await;
        if !matches!(stop, Stop::Closed(_)) || !self.is_done() {
            // Boxed: room for what only some connections need, and only at their end.
            Box::pin(self.close(stop, limits, meter)).await;
        }
        stop
    }

    fn poll(
        &mut self,
        engine: &Engine,
        limits: &Limits,
        (meter, watch): (&Meter, &impl Watch),
        cx: &mut Context<'_>,
    ) -> Poll<Stop> {
        if meter.stopped.get() {
            return Poll::Ready(Stop::Told);
        }
        let before = meter.bytes_in() + meter.bytes_out();
        let (stuck, first) = (self.undelivered(), self.first);
        self.poll_flows(engine, meter, cx);
        if !self.has_answered && meter.bytes_out() > 0 {
            self.has_answered = true;
            watch.first_byte();
        }
        if let Some(stop) = self.stopped(limits).or_else(|| self.poll_gone(cx)) {
            return Poll::Ready(stop);
        }
        let now = engine.clock.now();
        let is_moving = meter.bytes_in() + meter.bytes_out() != before;
        if is_moving || self.undelivered() != stuck || self.first != first {
            meter.active.set(now);
        }
        let silence = self.silence(meter, watch, now);
        self.poll_limits(engine, (limits, meter), (now, silence), cx)
    }

    /// When the backend will have been silent for too long; tells the watch when it has.
    fn silence(&mut self, meter: &Meter, watch: &impl Watch, now: Tick) -> Option<Tick> {
        if self.has_answered || self.is_silent || meter.bytes_in() == 0 {
            return None;
        }
        let limit = watch.silence()?;
        let at = meter.active() + limit;
        if at > now {
            return Some(at);
        }
        // What its kernel has not acknowledged was not delivered.
        if self.flow_in.undelivered() > 0 || self.backend.unsent() > 0 {
            return Some(now + limit);
        }
        self.is_silent = true;
        watch.silent(limit);
        None
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
            Poll::Pending => {}
            Poll::Ready(Ok(())) if this.state == FlowState::Done => {
                self.first.get_or_insert(source);
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
    fn stopped(&self, limits: &Limits) -> Option<Stop> {
        let (flow_in, flow_out) = (&self.flow_in, &self.flow_out);
        if flow_in.state == FlowState::Done && flow_out.state == FlowState::Done {
            return self.first.map(Stop::Closed);
        }
        if limits.half_closed == Some(0)
            && (flow_in.state == FlowState::Done || flow_out.state == FlowState::Done)
        {
            return self.first.map(Stop::Closed);
        }
        match (flow_in.state, flow_out.state) {
            (FlowState::Reset, _) => Some(Stop::Reset(Side::Client)),
            (_, FlowState::Reset) => Some(Stop::Reset(Side::Backend)),
            // The backend takes nothing more, and has said all it had to say; or the client.
            (FlowState::Dead, FlowState::Done | FlowState::Dead) => {
                Some(Stop::Reset(Side::Backend))
            }
            (FlowState::Done, FlowState::Dead) => Some(Stop::Reset(Side::Client)),
            _ => None,
        }
    }

    /// A side that has ended may still reset: nobody reads from it any more, so that is asked for.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Option<Stop> {
        if self.flow_in.state == FlowState::Done && self.client.poll_gone(cx).is_ready() {
            return Some(Stop::Reset(Side::Client));
        }
        if self.flow_out.state == FlowState::Done && self.backend.poll_gone(cx).is_ready() {
            return Some(Stop::Reset(Side::Backend));
        }
        None
    }

    /// Ends the connection when a limit in time has passed, else sees to it that it is asked again.
    fn poll_limits(
        &mut self,
        engine: &Engine,
        (limits, meter): (&Limits, &Meter),
        (now, silence): (Tick, Option<Tick>),
        cx: &mut Context<'_>,
    ) -> Poll<Stop> {
        if self.start + LIVENESS_AFTER <= now {
            self.set_liveness(limits);
        }
        let mut limit = self.next_limit(limits, meter.active());
        if let Some((at, stop, length)) = limit
            && at <= now
        {
            if !self.is_delivering(meter, now) {
                return Poll::Ready(stop);
            }
            limit = Some((now + (length / 10).max(1), stop, length));
        }
        let liveness = (!self.has_liveness).then_some(self.start + LIVENESS_AFTER);
        let at = [limit.map(|(at, ..)| at), liveness, silence].into_iter().flatten().min();
        self.set_deadline(engine, meter, (at, now), cx);
        Poll::Pending
    }

    /// Sees to being asked again `at` that time, unless that is so already.
    fn set_deadline(
        &mut self,
        engine: &Engine,
        meter: &Meter,
        (at, now): (Option<Tick>, Tick),
        cx: &Context<'_>,
    ) {
        let set = self.deadline.as_ref().map(Deadline::at).filter(|set| *set > now);
        let Some(at) = at.filter(|at| set.is_none_or(|set| *at < set)) else { return };
        if self.deadline.is_none() {
            meter.waker.set(Some(cx.waker().clone()));
        }
        self.deadline = Some(engine.deadlines.set(at, cx.waker().clone()));
    }

    /// Whether the kernel still delivers to a slow reader although no byte passes through here.
    ///
    /// The first look, when a limit has passed, only remembers; the second one tells.
    fn is_delivering(&mut self, meter: &Meter, now: Tick) -> bool {
        let unsent = self.client.unsent() + self.backend.unsent();
        // One byte may be a FIN that the peer need not acknowledge soon.
        if unsent <= 1 {
            return false;
        }
        match self.unsent.replace(unsent) {
            None => true,
            Some(before) if before != unsent => {
                self.unsent = None;
                meter.active.set(now);
                true
            }
            Some(_) => false,
        }
    }

    fn set_liveness(&mut self, limits: &Limits) {
        if !self.has_liveness {
            self.has_liveness = true;
            self.backend.set_liveness(limits.keepalive, limits.user_timeout);
        }
    }

    /// The limit that comes next: when, what it comes to, and how long it is.
    fn next_limit(&self, limits: &Limits, active: Tick) -> Option<(Tick, Stop, Tick)> {
        let half_closed = limits.half_closed.filter(|_| self.first.is_some());
        [
            limits.idle.map(|limit| (active + limit, Stop::Idle, limit)),
            half_closed.map(|limit| (active + limit, Stop::HalfClosed, limit)),
            limits.max_duration.map(|limit| (self.start + limit, Stop::MaxDuration, 0)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, ..)| *at)
    }

    fn undelivered(&self) -> usize {
        self.flow_in.undelivered() + self.flow_out.undelivered()
    }

    fn is_done(&self) -> bool {
        self.flow_in.state == FlowState::Done && self.flow_out.state == FlowState::Done
    }

    /// Makes both sockets ready to be closed as the way it ended asks for.
    async fn close(&mut self, stop: Stop, limits: &Limits, meter: &Meter) {
        match stop {
            Stop::Reset(Side::Client) => reset_after_delivery(&self.backend, limits, meter).await,
            Stop::Reset(Side::Backend) => reset_after_delivery(&self.client, limits, meter).await,
            _ => self.finish().await,
        }
    }

    /// Delivers what was read and says FIN to both sides. Bounded in time.
    ///
    /// Closing a socket with unread input says reset, which destroys what is still on its way. So
    /// input is read and dropped until the peers have acknowledged everything, the FIN included.
    async fn finish(&mut self) {
        const LOOKS: Duration = Duration::from_millis(10);
        let flush = poll_fn(|cx| {
            let to_backend = self.flow_in.poll_deliver(&mut self.backend, cx).is_ready();
            let to_client = self.flow_out.poll_deliver(&mut self.client, cx).is_ready();
            if to_backend && to_client { Poll::Ready(()) } else { Poll::Pending }
        });
        let begun = tokio::time::Instant::now();
        let _ = tokio::time::timeout(LAST_WORDS, flush).await;
        self.client.shutdown_write();
        self.backend.shutdown_write();
        loop {
            discard_input(&self.client);
            discard_input(&self.backend);
            let is_told = self.client.unsent() == 0 && self.backend.unsent() == 0;
            if is_told || begun.elapsed() >= LAST_WORDS {
                break;
            }
            tokio::time::sleep(LOOKS).await;
        }
    }
}

/// Resets `stream` once the peer has acknowledged all bytes: a reset throws away what is unsent.
///
/// Gives up waiting when nothing was acknowledged for the half-closed time.
async fn reset_after_delivery(stream: &Stream, limits: &Limits, meter: &Meter) {
    const FIRST_LOOK: Duration = Duration::from_millis(1);
    const LATER_LOOKS: Duration = Duration::from_millis(20);
    let patience =
        Duration::from_millis(limits.half_closed.or(limits.idle).unwrap_or(60_000).max(1_000));
    let (mut unsent, mut quiet, mut pause) = (stream.unsent(), Duration::ZERO, FIRST_LOOK);
    while unsent > 0 && quiet < patience && !meter.stopped.get() {
        tokio::time::sleep(pause).await;
        let now_unsent = stream.unsent();
        quiet = if now_unsent < unsent { Duration::ZERO } else { quiet + pause };
        unsent = now_unsent;
        pause = (pause * 2).min(LATER_LOOKS);
    }
    stream.reset_when_closed();
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
