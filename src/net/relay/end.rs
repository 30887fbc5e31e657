//! One socket of a relayed connection, and what the kernel last said of it.

use std::io;

use rustix::event::epoll::EventFlags;

use crate::net::pipe::Pipe;
use crate::net::stream::Stream;

/// What is told of every socket, each time it changes. Only `OUT` is asked for later, when a write
/// has found the send queue full: a socket that can be written to would be told of at once.
pub(super) const NEWS: EventFlags =
    EventFlags::IN.union(EventFlags::PRI).union(EventFlags::RDHUP).union(EventFlags::ET);

/// A socket and what is known of it without asking the kernel.
#[derive(Debug)]
pub(super) struct End {
    pub(super) stream: Stream,
    /// There may be something to read.
    is_readable: bool,
    /// Something may fit into the send queue.
    is_writable: bool,
    /// The kernel tells when it can be written to again.
    is_watched_for_writing: bool,
    /// The peer's FIN has come: what is in the receive queue is all there will be.
    has_fin: bool,
    /// All of that was read.
    is_drained: bool,
    /// Reset, given up, or ended both ways.
    is_hung_up: bool,
    /// Urgent data has come: a read stops short at its mark, and splice(2) does not get past it.
    is_urgent: bool,
}

impl End {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            is_readable: false,
            is_writable: true,
            is_watched_for_writing: false,
            has_fin: false,
            is_drained: false,
            is_hung_up: false,
            is_urgent: false,
        }
    }

    /// Takes note of what the kernel says.
    pub(super) fn hear(&mut self, news: EventFlags) {
        let is_over = news.intersects(EventFlags::HUP | EventFlags::ERR);
        self.is_readable |= is_over || news.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.is_writable |= is_over || news.intersects(EventFlags::OUT);
        self.has_fin |= news.intersects(EventFlags::RDHUP);
        self.is_hung_up |= is_over;
        self.is_urgent |= news.intersects(EventFlags::PRI);
    }

    /// Reads what is there; 0 is the end of the stream, `None` nothing for now.
    ///
    /// A read that does not fill `buf` has emptied a TCP socket, so that no second system call asks;
    /// and where the FIN had come before, it was the last one. Not so where a read stops short: at
    /// TCP's urgent mark, and on a unix socket after a message that carries descriptors.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if self.is_drained {
            return Ok(Some(0));
        }
        if !self.is_readable {
            return Ok(None);
        }
        match self.stream.try_read(buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(None)
            }
            Ok(bytes) => {
                if bytes > 0 && bytes < buf.len() && self.stream.is_tcp() && !self.is_urgent {
                    // A reset may have come behind the FIN: reading tells.
                    self.is_drained = self.has_fin && !self.is_hung_up;
                    self.is_readable = self.has_fin;
                }
                Ok(Some(bytes))
            }
            Err(e) => Err(e),
        }
    }

    /// Writes what fits; `None` when nothing does.
    pub(super) fn write(&mut self, buf: &[u8]) -> io::Result<Option<usize>> {
        let written = if self.is_writable { Some(self.stream.try_write(buf)) } else { None };
        self.note_written(written)
    }

    /// Moves at most `most` bytes into `pipe`, which is empty; 0 is the end of the stream or perhaps the urgent
    /// mark, of which reading tells; `None` nothing for now.
    pub(super) fn splice_in(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<Option<usize>> {
        if !self.is_readable {
            return Ok(None);
        }
        match self.stream.splice_in(pipe, most) {
            // At the urgent mark it says so too, whatever is behind it: `tcp_splice_read` does not wait.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.is_urgent => Ok(Some(0)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(None)
            }
            moved => moved.map(Some),
        }
    }

    /// Moves bytes out of `pipe`, which holds some; `None` when nothing fits.
    pub(super) fn splice_out(&mut self, pipe: &mut Pipe) -> io::Result<Option<usize>> {
        let moved = if self.is_writable { Some(self.stream.splice_out(pipe)) } else { None };
        self.note_written(moved)
    }

    fn note_written(&mut self, written: Option<io::Result<usize>>) -> io::Result<Option<usize>> {
        match written {
            Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                self.is_writable = false;
                Ok(None)
            }
            written => written.transpose(),
        }
    }

    /// Whether the kernel must be asked, from now on, to tell when it can be written to. Once.
    pub(super) fn must_watch_for_writing(&mut self) -> bool {
        let must = !self.is_writable && !self.is_watched_for_writing;
        self.is_watched_for_writing |= must;
        must
    }

    /// A write is tried again whatever the kernel said.
    pub(super) fn try_writing_again(&mut self) {
        self.is_writable = true;
    }

    /// Whether the peer, whose FIN was read, is gone altogether: reset, or given up by the kernel.
    ///
    /// Never for a unix socket, which looks the same when its peer has merely closed it.
    pub(super) fn is_gone(&self) -> bool {
        self.is_hung_up && self.stream.is_tcp()
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent
    }
}
