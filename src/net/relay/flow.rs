//! One direction of a relay.

use std::io;

use super::Engine;
use super::end::End;
use crate::net::pipe::{Lent, is_denied};

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

/// How a turn of a direction came out.
pub(super) enum Moved {
    /// Nothing more can be moved until the kernel tells of something.
    All,
    /// There may be more, but others have their turn first.
    Part,
    /// There may be more, but no more is allowed now.
    Enough,
    /// The source has ended and all is delivered.
    Ended,
    /// An end has failed.
    Broken(Broken),
}

impl Flow {
    /// A direction that begins with `unread` to deliver.
    pub(super) fn beginning_with(unread: Vec<u8>) -> Self {
        Self { held: Held::of(unread), ..Self::default() }
    }

    /// Moves bytes, at most about `allowed`, until one side would block, the source has ended and all is
    /// delivered, or an end breaks.
    pub(super) fn turn(
        &mut self,
        engine: &Engine,
        (source, sink): (&mut End, &mut End),
        (allowed, mut count): (usize, impl FnMut(usize)),
    ) -> Moved {
        let mut moved = 0;
        while moved < TURN_BYTES {
            match self.deliver(sink) {
                Err(_) => return Moved::Broken(Broken::Sink),
                Ok(false) => return Moved::All,
                Ok(true) => {}
            }
            let most = allowed.saturating_sub(moved);
            if most == 0 {
                // A pipe serves others meanwhile; it is empty.
                self.held = None;
                return Moved::Enough;
            }
            self.take_pipe(engine, source);
            let pipe = self.held.as_mut().and_then(|held| held.pipe.as_mut());
            let read = match pipe.and_then(Lent::get) {
                Some(pipe) => match source.splice_in(pipe, most) {
                    // The end, or TCP's urgent mark, which splice(2) does not pass: reading tells.
                    Ok(Some(0)) => {
                        (self.full_reads, self.held) = (0, None);
                        continue;
                    }
                    Err(error) if is_denied(&error) => {
                        (self.full_reads, self.held) = (0, None);
                        engine.pipes.refuse(engine.clock.now());
                        continue;
                    }
                    spliced => {
                        self.judge_splice(&spliced);
                        spliced
                    }
                },
                None => self.copy(engine, (source, sink), most),
            };
            match read {
                Ok(Some(0)) => {
                    self.state =
                        if self.source_is_broken { FlowState::Reset } else { FlowState::Done };
                    return Moved::Ended;
                }
                Ok(Some(bytes)) => {
                    count(bytes);
                    moved += bytes;
                }
                Ok(None) => {
                    // An empty pipe serves others while this source is silent.
                    self.held = None;
                    return Moved::All;
                }
                Err(_) => return Moved::Broken(Broken::Source),
            }
        }
        Moved::Part
    }

    /// Reads into the scratch buffer, writes at once, and keeps what the sink does not take.
    fn copy(
        &mut self,
        engine: &Engine,
        (source, sink): (&mut End, &mut End),
        most: usize,
    ) -> io::Result<Option<usize>> {
        engine.with_scratch(|scratch| {
            let room = most.min(scratch.len());
            let read = source.read(&mut scratch[..room])?;
            let Some(bytes @ 1..) = read else { return Ok(read) };
            let is_full = bytes == scratch.len();
            self.full_reads = if is_full { self.full_reads.saturating_add(1) } else { 0 };
            // Where writing fails, the next delivery meets the same error, after the bytes were
            // counted.
            let taken = sink.write(&scratch[..bytes]).ok().flatten().unwrap_or(0);
            self.held = Held::of(&scratch[taken..bytes]);
            Ok(read)
        })
    }

    /// Sees to a pipe if this direction carries enough for one and there is one to spare.
    fn take_pipe(&mut self, engine: &Engine, source: &End) {
        if self.full_reads >= FULL_READS && self.held.is_none() && !source.is_urgent() {
            let pipe = engine.pipes.lend(engine.clock.now());
            self.held = pipe.map(|pipe| Box::new(Held { pipe: Some(pipe), ..Held::default() }));
        }
    }

    /// Splices that move little, some in a row, mean that copying is used again.
    fn judge_splice(&mut self, spliced: &io::Result<Option<usize>>) {
        match spliced {
            Ok(Some(bytes)) if *bytes < SMALL_SPLICE_BYTES => self.full_reads -= 1,
            Ok(Some(_)) => self.full_reads = FULL_READS + SMALL_SPLICES,
            _ => {}
        }
    }

    /// Delivers what was read before; whether nothing is left.
    pub(super) fn deliver(&mut self, sink: &mut End) -> io::Result<bool> {
        let Some(held) = &mut self.held else { return Ok(true) };
        while held.sent < held.rest.len() {
            let Some(taken) = sink.write(&held.rest[held.sent..])? else { return Ok(false) };
            held.sent += taken;
        }
        if let Some(pipe) = held.pipe.as_mut().and_then(Lent::get) {
            while !pipe.is_empty() {
                if sink.splice_out(pipe)?.is_none() {
                    return Ok(false);
                }
            }
        }
        if held.pipe.is_none() || self.full_reads < FULL_READS {
            self.held = None;
        }
        Ok(true)
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
