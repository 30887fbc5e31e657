//! One direction of a relay.

use std::io;
use std::task::{Context, Poll, ready};

use super::Engine;
use crate::net::pipe::{Lent, Pipe};
use crate::net::stream::Stream;

/// Reads that fill the scratch buffer in a row before a pipe is used.
const FULL_READS: u8 = 2;
/// A splice that moves less counts against the pipe: a copy would have done.
const SMALL_SPLICE_BYTES: usize = 16 * 1024;
/// Such splices in a row before copying is used again.
const SMALL_SPLICES: u8 = 2;
/// Bytes that one direction moves before other connections have their turn.
const TURN_BYTES: usize = 256 * 1024;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) state: FlowState,
    /// A write to the source has failed: the end of its bytes is no FIN but a reset.
    pub(super) source_is_broken: bool,
    full_reads: u8,
    /// What the sink has not taken, or a pipe in use; an idle connection has neither.
    held: Option<Box<Held>>,
}

/// Bytes between the two sockets.
#[derive(Debug, Default)]
struct Held {
    /// Read and not delivered: `rest[sent..]`.
    rest: Vec<u8>,
    sent: usize,
    pipe: Option<Lent>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FlowState {
    #[default]
    Open,
    /// The source has sent its FIN, and all before it is delivered.
    Done,
    /// The source has reset the connection, and all that was read before is delivered.
    Reset,
    /// The sink takes nothing more.
    Dead,
}

/// Which end of a flow failed.
pub(super) enum Broken {
    Source,
    Sink,
}

impl Flow {
    /// A direction that begins with `unread` to deliver.
    pub(super) fn beginning_with(unread: Vec<u8>) -> Self {
        Self { held: Held::of(unread), ..Self::default() }
    }

    /// Moves bytes until one side would block, the source has ended and all is delivered
    /// (`Ready(Ok)`), or an end breaks.
    pub(super) fn poll(
        &mut self,
        engine: &Engine,
        (source, sink): (&mut Stream, &mut Stream),
        count: impl Fn(usize),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut moved = 0;
        while moved < TURN_BYTES {
            if ready!(self.poll_deliver(sink, cx)).is_err() {
                return Poll::Ready(Err(Broken::Sink));
            }
            self.take_pipe(engine, source);
            let pipe = self.held.as_mut().and_then(|held| held.pipe.as_mut());
            let read = match pipe.and_then(Lent::get) {
                Some(pipe) => match poll_splice(source, pipe, &mut self.full_reads, cx) {
                    // The end, or TCP's urgent mark, which splice(2) does not pass: reading tells.
                    Poll::Ready(Ok(0)) => {
                        (self.full_reads, self.held) = (0, None);
                        continue;
                    }
                    spliced => spliced,
                },
                None => self.poll_copy(engine, (source, sink), cx),
            };
            match read {
                Poll::Ready(Ok(0)) => {
                    self.state =
                        if self.source_is_broken { FlowState::Reset } else { FlowState::Done };
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(bytes)) => {
                    count(bytes);
                    moved += bytes;
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    // An empty pipe serves others while this source is silent.
                    self.held = None;
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
                self.held = Held::of(&scratch[taken..bytes]);
            }
            Poll::Ready(Ok(bytes))
        })
    }

    /// Sees to a pipe if this direction carries enough for one and there is one to spare.
    fn take_pipe(&mut self, engine: &Engine, source: &Stream) {
        if self.full_reads >= FULL_READS && self.held.is_none() && !source.is_urgent() {
            let pipe = engine.pipes.lend(engine.clock.now());
            self.held = pipe.map(|pipe| Box::new(Held { pipe: Some(pipe), ..Held::default() }));
        }
    }

    /// Delivers what was read before. `Ready(Ok)` when nothing is left.
    pub(super) fn poll_deliver(
        &mut self,
        sink: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(held) = &mut self.held else { return Poll::Ready(Ok(())) };
        while held.sent < held.rest.len() {
            held.sent += ready!(sink.poll_write(cx, &held.rest[held.sent..]))?;
        }
        if let Some(pipe) = held.pipe.as_mut().and_then(Lent::get) {
            while !pipe.is_empty() {
                ready!(sink.poll_splice_out(cx, pipe))?;
            }
        }
        if held.pipe.is_none() || self.full_reads < FULL_READS {
            self.held = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there is anything left to do.
    pub(super) fn is_moving(&self) -> bool {
        self.state == FlowState::Open
    }

    pub(super) fn undelivered(&self) -> usize {
        self.held.as_ref().map_or(0, |held| {
            held.rest.len() - held.sent + held.pipe.as_ref().map_or(0, Lent::held)
        })
    }

    /// The sink takes nothing more: what is undelivered never will be.
    pub(super) fn die(&mut self) {
        *self = Self { state: FlowState::Dead, ..Self::default() };
    }
}

impl Held {
    /// `bytes` to deliver; nothing where there are none.
    fn of(bytes: impl Into<Vec<u8>> + AsRef<[u8]>) -> Option<Box<Self>> {
        let has_some = !bytes.as_ref().is_empty();
        has_some.then(|| Box::new(Self { rest: bytes.into(), ..Self::default() }))
    }
}

/// Fills the pipe, which is empty.
fn poll_splice(
    source: &mut Stream,
    pipe: &mut Pipe,
    full_reads: &mut u8,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Broken>> {
    match ready!(source.poll_splice_in(cx, pipe)) {
        Err(_) => Poll::Ready(Err(Broken::Source)),
        Ok(bytes) if bytes < SMALL_SPLICE_BYTES => {
            *full_reads -= 1;
            Poll::Ready(Ok(bytes))
        }
        Ok(bytes) => {
            *full_reads = FULL_READS + SMALL_SPLICES;
            Poll::Ready(Ok(bytes))
        }
    }
}
