//! Both directions of one connection: a state machine that is given turns.

use super::end::End;
use super::flow::{Broken, Flow, FlowState, Moved};
use super::leaving::Leaving;
use super::meter::{Limits, Meter};
use super::pace::Pace;
use super::watch::Watch;
use super::{Engine, Pair, Side, Stop};
use crate::net::clock::Tick;

/// A connection this old gets keepalive on its backend side: short ones are spared the calls.
const LIVENESS_AFTER: Tick = 5_000;

/// A connection in its relay phase: all that an idle one keeps.
#[derive(Debug)]
pub(super) struct TwoWay {
    pub(super) client: End,
    pub(super) backend: End,
    /// Client to backend.
    pub(super) flow_in: Flow,
    /// Backend to client.
    pub(super) flow_out: Flow,
    /// How fast it may go, where that is limited.
    pace: Option<Box<Pace>>,
    /// Its last words, once something else than its peers has ended it.
    leaving: Option<Box<Leaving>>,
    start: Tick,
    /// When its limits are looked at next; activity in between only puts them off.
    due: Tick,
    /// Send queues when a limit had passed, to see a slow reader move.
    unsent: Option<Box<usize>>,
    /// The side whose end came first.
    first: Option<Side>,
    has_liveness: bool,
    /// The backend has sent a byte.
    has_answered: bool,
    /// The watch was told that the backend is silent.
    is_silent: bool,
}

/// What a connection makes of its turn.
pub(super) enum Turn {
    /// It waits for news of its sockets, or for the time [`TwoWay::due`].
    Wait,
    /// There is more to do, after others had their turn.
    Again,
    /// It is over, and its sockets are ready to be closed.
    Over(Stop),
}

impl TwoWay {
    pub(super) fn new(pair: Pair, limits: &Limits, meter: &Meter, now: Tick) -> Self {
        Self {
            client: End::new(pair.client),
            backend: End::new(pair.backend),
            flow_in: Flow::beginning_with(pair.unread),
            flow_out: Flow::default(),
            pace: Pace::new(limits, meter.bytes_in(), now),
            leaving: None,
            start: now,
            due: 0,
            unsent: None,
            first: None,
            has_liveness: false,
            has_answered: false,
            is_silent: false,
        }
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }

    /// When to give it a turn even without news.
    pub(super) fn due(&self) -> Tick {
        match &self.pace {
            None => self.due,
            Some(pace) => pace.next().map_or(self.due, |at| at.min(self.due)),
        }
    }

    /// Moves what can be moved, until both directions have ended or something else ends it.
    ///
    /// Memory: nothing while idle, at most 64 KiB and one pipe a direction.
    pub(super) fn turn(
        &mut self,
        engine: &Engine,
        limits: &Limits,
        (meter, watch): (&Meter, &impl Watch),
        now: Tick,
    ) -> Turn {
        if self.leaving.is_some() {
            return self.leave(meter, now);
        }
        if meter.is_stopped() {
            return self.stop(Stop::Told, limits, meter, now);
        }
        let before = meter.bytes_in() + meter.bytes_out();
        let (stuck, first) = (self.undelivered(), self.first);
        let is_more = self.move_both(engine, meter, now);
        if !self.has_answered && meter.bytes_out() > 0 {
            self.has_answered = true;
            watch.first_byte();
        }
        if let Some(stop) = self.stopped(limits).or_else(|| self.gone()) {
            return self.stop(stop, limits, meter, now);
        }
        let is_moving = meter.bytes_in() + meter.bytes_out() != before;
        if is_moving || self.undelivered() != stuck || self.first != first {
            meter.active.set(now);
        }
        let must_look = now >= self.due || self.first != first || !self.has_answered;
        if must_look && let Some(stop) = self.look_at_limits(limits, (meter, watch), now) {
            return self.stop(stop, limits, meter, now);
        }
        if is_more { Turn::Again } else { Turn::Wait }
    }

    /// Moves what can be moved, and notes which ends have come. Whether there may be more.
    fn move_both(&mut self, engine: &Engine, meter: &Meter, now: Tick) -> bool {
        let mut is_more = false;
        if let Some(pace) = &mut self.pace {
            pace.begin_turn(now);
        }
        if self.flow_in.is_moving() {
            let ends = (&mut self.client, &mut self.backend);
            let allowed = allowed(&mut self.pace, Side::Client, now);
            let count = |bytes| {
                meter.add_in(bytes);
                note_passed(&mut self.pace, Side::Client, bytes);
            };
            let moved = self.flow_in.turn(engine, ends, (allowed, count));
            is_more |= self.note(Side::Client, moved);
        }
        if self.flow_out.is_moving() {
            let ends = (&mut self.backend, &mut self.client);
            let allowed = allowed(&mut self.pace, Side::Backend, now);
            let count = |bytes| {
                meter.add_out(bytes);
                note_passed(&mut self.pace, Side::Backend, bytes);
            };
            let moved = self.flow_out.turn(engine, ends, (allowed, count));
            is_more |= self.note(Side::Backend, moved);
        }
        is_more
    }

    /// Takes note of how the direction that starts at `source` fares; whether it has more to move.
    fn note(&mut self, source: Side, moved: Moved) -> bool {
        let (this, other, sink) = match source {
            Side::Client => (&mut self.flow_in, &mut self.flow_out, &self.backend),
            Side::Backend => (&mut self.flow_out, &mut self.flow_in, &self.client),
        };
        match moved {
            Moved::All => {}
            Moved::Part => return true,
            Moved::Enough => {
                if let Some(pace) = &mut self.pace {
                    pace.rest(source);
                }
            }
            Moved::Ended if this.state == FlowState::Done => {
                self.first.get_or_insert(source);
                // Where both have ended, closing the sockets says it.
                if other.state != FlowState::Done {
                    sink.stream.shutdown_write();
                }
            }
            Moved::Ended => {}
            Moved::Broken(Broken::Source) => {
                this.state = FlowState::Reset;
                other.die();
            }
            Moved::Broken(Broken::Sink) => {
                this.die();
                other.source_is_broken = true;
            }
        }
        false
    }

    /// Whether the flows have come to an end, and which.
    fn stopped(&self, limits: &Limits) -> Option<Stop> {
        let (flow_in, flow_out) = (&self.flow_in, &self.flow_out);
        if self.is_done() {
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

    /// A side that has ended is read no more, and may still reset.
    fn gone(&self) -> Option<Stop> {
        if self.flow_in.state == FlowState::Done && self.client.is_gone() {
            return Some(Stop::Reset(Side::Client));
        }
        if self.flow_out.state == FlowState::Done && self.backend.is_gone() {
            return Some(Stop::Reset(Side::Backend));
        }
        None
    }

    /// Why the connection must end now, if a limit in time has passed; else sees to [`Self::due`].
    fn look_at_limits(
        &mut self,
        limits: &Limits,
        (meter, watch): (&Meter, &impl Watch),
        now: Tick,
    ) -> Option<Stop> {
        let silence = self.silence(meter, watch, now);
        if self.start + LIVENESS_AFTER <= now {
            self.set_liveness(limits);
        }
        let mut limit = self.next_limit(limits, meter.active());
        if let Some((at, stop, length)) = limit
            && at <= now
        {
            // The longest duration is one also for who is served slowly.
            if stop == Stop::MaxDuration || !self.is_delivering(meter, now) {
                return Some(stop);
            }
            limit = Some((now + (length / 10).max(1), stop, length));
        }
        let liveness = (!self.has_liveness).then_some(self.start + LIVENESS_AFTER);
        let at = [limit.map(|(at, ..)| at), liveness, silence].into_iter().flatten().min();
        self.due = at.unwrap_or(Tick::MAX);
        None
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
        if self.flow_in.undelivered() > 0 || self.backend.stream.unsent() > 0 {
            return Some(now + limit);
        }
        self.is_silent = true;
        watch.silent(limit);
        None
    }

    /// Whether the kernel still delivers to a slow reader although no byte passes through here.
    ///
    /// The first look, when a limit has passed, only remembers; the second one tells.
    fn is_delivering(&mut self, meter: &Meter, now: Tick) -> bool {
        let unsent = self.client.stream.unsent() + self.backend.stream.unsent();
        // One byte may be a FIN that the peer need not acknowledge soon.
        if unsent <= 1 {
            return false;
        }
        match self.unsent.replace(Box::new(unsent)) {
            None => true,
            Some(before) if *before != unsent => {
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
            self.backend.stream.set_liveness(limits.keepalive, limits.user_timeout);
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

    /// Ends it: at once where both sides have said so, else with the last words it owes them.
    fn stop(&mut self, stop: Stop, limits: &Limits, meter: &Meter, now: Tick) -> Turn {
        if self.is_done() && matches!(stop, Stop::Closed(_)) {
            return Turn::Over(stop);
        }
        self.pace = None;
        self.leaving = Some(Box::new(Leaving::begin(self, stop, limits, now)));
        self.leave(meter, now)
    }

    fn leave(&mut self, meter: &Meter, now: Tick) -> Turn {
        // Taken out, because it works on the rest.
        let Some(mut leaving) = self.leaving.take() else { return Turn::Wait };
        match leaving.look(self, meter, now) {
            Some(next) => {
                self.due = next;
                self.leaving = Some(leaving);
                Turn::Wait
            }
            None => Turn::Over(leaving.stop()),
        }
    }
}

/// How many bytes of `source` may pass now.
fn allowed(pace: &mut Option<Box<Pace>>, source: Side, now: Tick) -> usize {
    pace.as_mut().map_or(usize::MAX, |pace| pace.allowed(source, now))
}

fn note_passed(pace: &mut Option<Box<Pace>>, source: Side, bytes: usize) {
    if let Some(pace) = pace {
        pace.passed(source, bytes);
    }
}
