//! Pipes for splice(2), and the pool that a thread keeps of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::clock::Tick;
use super::stream::retry;

/// Capacity asked for. Root and users within `pipe-user-pages-soft` get it.
const WANTED_BYTES: usize = 1024 * 1024;
/// Most that is moved in at once: a turn of one connection should not be long.
const FILL_BYTES: usize = 512 * 1024;
/// A pipe that holds less is not worth its system calls: copying is used instead.
const USEFUL_BYTES: usize = 64 * 1024;

/// How long no pipe is asked for after the kernel has refused one, in milliseconds.
const REFUSAL: Tick = 1_000;

/// A kernel buffer that bytes pass through without being copied to user space.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let capacity = fcntl_setpipe_size(&write, WANTED_BYTES)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&write))?;
        if capacity < USEFUL_BYTES {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { read, write, held: 0 })
    }

    /// Whether it holds no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves at most `most` bytes in. More than the nominal capacity may fit: pages count, not bytes.
    pub(super) fn fill_from(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let most = most.min(FILL_BYTES);
        let moved = retry(|| Ok(splice(&from, None, &self.write, None, most, flags)?))?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves bytes out; the pipe must hold some.
    pub(super) fn empty_into(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = retry(|| Ok(splice(&self.read, None, &to, None, self.held, flags)?))?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }
}

/// The pipes of one thread: a bounded number, lent and given back empty.
#[derive(Debug)]
pub struct PipePool {
    spare: RefCell<Vec<Pipe>>,
    /// Pipes open, lent or spare.
    open: Cell<usize>,
    limit: usize,
    /// Until when no pipe is asked for, because the kernel refused one.
    refused_until: Cell<Tick>,
}

/// A pipe on loan; dropping it gives it back.
#[derive(Debug)]
pub struct Lent {
    /// `None` only while being dropped.
    pipe: Option<Pipe>,
    pool: Rc<PipePool>,
}

impl PipePool {
    /// A pool that never has more than `limit` pipes (two descriptors each) open.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { spare: RefCell::default(), open: Cell::new(0), limit, refused_until: Cell::new(0) }
    }

    /// Pipes open, lent or spare.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// Lends a pipe; `None` when all are lent or the kernel gives no useful one: copy instead.
    pub fn lend(self: &Rc<Self>, now: Tick) -> Option<Lent> {
        let spare = self.spare.borrow_mut().pop();
        let pipe = match spare {
            Some(pipe) => pipe,
            None if self.open.get() >= self.limit || now < self.refused_until.get() => return None,
            None => {
                let Ok(pipe) = Pipe::open() else {
                    self.refused_until.set(now + REFUSAL);
                    return None;
                };
                self.open.set(self.open.get() + 1);
                pipe
            }
        };
        Some(Lent { pipe: Some(pipe), pool: Rc::clone(self) })
    }

    /// The kernel lets nothing pass through pipes, so none is lent for a while.
    pub(super) fn refuse(&self, now: Tick) {
        let spare = self.spare.take();
        self.open.set(self.open.get().saturating_sub(spare.len()));
        self.refused_until.set(now + REFUSAL);
    }
}

/// Whether the kernel, or a filter of system calls, does not splice at all: nothing about the socket.
pub(super) fn is_denied(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::PERM | Errno::NOSYS | Errno::INVAL | Errno::NOMEM)
    )
}

impl Lent {
    /// The pipe itself.
    pub(super) fn get(&mut self) -> Option<&mut Pipe> {
        self.pipe.as_mut()
    }

    /// Bytes it holds.
    pub(super) fn held(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.held)
    }
}

impl Drop for Lent {
    /// A pipe that still holds bytes of a connection is closed, never pooled.
    fn drop(&mut self) {
        match self.pipe.take() {
            Some(pipe) if pipe.is_empty() => self.pool.spare.borrow_mut().push(pipe),
            _ => self.pool.open.set(self.pool.open.get().saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pool_lends_no_more_than_its_limit_and_pools_no_pipe_with_bytes() {
        let pool = Rc::new(PipePool::new(1));
        let mut pipe = pool.lend(0).unwrap();
        assert!(pool.lend(0).is_none());
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"left over").unwrap();
        assert_eq!(pipe.get().unwrap().fill_from(&far, 100).unwrap(), 9);
        drop(pipe);
        assert_eq!((pool.spare.borrow().len(), pool.open.get()), (0, 0));
        drop(pool.lend(0).unwrap());
        assert_eq!((pool.spare.borrow().len(), pool.open.get()), (1, 1));
    }
}
