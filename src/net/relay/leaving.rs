//! The last words of a connection that something else than its two peers has ended.

use super::meter::{Limits, Meter};
use super::two_way::TwoWay;
use super::{Side, Stop};
use crate::net::clock::Tick;
use crate::net::stream::Stream;

/// How long what was read may take to be delivered once a connection is ended from outside.
const LAST_WORDS: Tick = 5_000;
/// The pause before the first look and the longest one, in milliseconds.
const FIRST_PAUSE: Tick = 1;
const LONGEST_PAUSE: Tick = 20;

/// Looks from time to time whether all is said, and makes the sockets ready to be closed.
#[derive(Debug)]
pub(super) struct Leaving {
    stop: Stop,
    /// When it gives up; a reset gives up only when nothing moves until then.
    until: Tick,
    patience: Tick,
    pause: Tick,
    /// Send queue of the side to be reset, at the last look.
    unsent: usize,
    is_told: bool,
}

impl Leaving {
    pub(super) fn begin(relay: &TwoWay, stop: Stop, limits: &Limits, now: Tick) -> Self {
        let patience = match stop {
            Stop::Reset(_) => limits.half_closed.or(limits.idle).unwrap_or(60_000).max(1_000),
            _ => LAST_WORDS,
        };
        let unsent = match stop {
            Stop::Reset(Side::Client) => relay.backend.stream.unsent(),
            Stop::Reset(Side::Backend) => relay.client.stream.unsent(),
            _ => 0,
        };
        Self { stop, until: now + patience, patience, pause: FIRST_PAUSE, unsent, is_told: false }
    }

    /// Why the connection ends.
    pub(super) fn stop(&self) -> Stop {
        self.stop
    }

    /// When to look again; `None`: the sockets may be closed.
    pub(super) fn look(&mut self, relay: &mut TwoWay, meter: &Meter, now: Tick) -> Option<Tick> {
        let is_over = match self.stop {
            Stop::Reset(Side::Client) => self.reset(&relay.backend.stream, meter, now),
            Stop::Reset(Side::Backend) => self.reset(&relay.client.stream, meter, now),
            _ => self.finish(relay, now),
        };
        if is_over {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Some(now + pause)
    }

    /// Resets `stream` once the peer has acknowledged all bytes: a reset throws away what is unsent.
    ///
    /// Gives up waiting when nothing was acknowledged for the half-closed time.
    fn reset(&mut self, stream: &Stream, meter: &Meter, now: Tick) -> bool {
        let unsent = stream.unsent();
        if unsent < self.unsent {
            self.until = now + self.patience;
        }
        self.unsent = unsent;
        let is_over = unsent == 0 || now >= self.until || meter.is_stopped();
        if is_over {
            stream.reset_when_closed();
        }
        is_over
    }

    /// Delivers what was read and says FIN to both sides. Bounded in time.
    ///
    /// Closing a socket with unread input says reset, which destroys what is still on its way. So
    /// input is read and dropped until the peers have acknowledged everything, the FIN included.
    fn finish(&mut self, relay: &mut TwoWay, now: Tick) -> bool {
        let TwoWay { client, backend, flow_in, flow_out, .. } = relay;
        if !self.is_told {
            client.try_writing_again();
            backend.try_writing_again();
            // A side that takes nothing more has nothing to wait for.
            let to_backend = flow_in.deliver(backend).unwrap_or(true);
            let to_client = flow_out.deliver(client).unwrap_or(true);
            if !(to_backend && to_client) && now < self.until {
                return false;
            }
            client.stream.shutdown_write();
            backend.stream.shutdown_write();
            self.is_told = true;
        }
        discard_input(&client.stream);
        discard_input(&backend.stream);
        let is_acknowledged = client.stream.unsent() == 0 && backend.stream.unsent() == 0;
        is_acknowledged || now >= self.until
    }
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
