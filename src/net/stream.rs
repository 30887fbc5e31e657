//! One connected socket, TCP or unix, as the data path wants it.
//!
//! A stream is not known to the reactor until it first has to wait, and then for reading only; it
//! is registered for writing too once a write has found the send queue full. So a short connection
//! costs one registration a side and no spurious wake-up.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pipe::Pipe;
use super::sys;

/// What is waited for in order to read; priority says that urgent data has come.
const READING: Interest = Interest::READABLE.add(Interest::PRIORITY);

/// A connected stream socket that never blocks.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    is_tcp: bool,
}

/// What the reactor knows of the socket.
#[derive(Debug)]
enum Socket {
    Unregistered(OwnedFd),
    Reading(AsyncFd<OwnedFd>),
    Both(AsyncFd<OwnedFd>),
    /// Only while a registration is replaced, or after that failed.
    Gone,
}

impl Stream {
    /// Takes over a non-blocking socket.
    #[must_use]
    pub fn new(fd: OwnedFd, is_tcp: bool) -> Self {
        Self { socket: Socket::Unregistered(fd), is_tcp }
    }

    /// The descriptor. An error only if a registration has failed, which ends the stream.
    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.socket {
            Socket::Unregistered(fd) => Ok(fd.as_fd()),
            Socket::Reading(fd) | Socket::Both(fd) => Ok(fd.get_ref().as_fd()),
            Socket::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is there; `ConnectionReset` and the like as the kernel says.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        retry(|| rustix::net::recv(self.fd()?, &mut *buf, RecvFlags::empty()).map_err(Into::into))
            .map(|(n, _)| n)
    }

    /// Writes what fits, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing fits, or while the socket is still connecting; the connect's own
    /// error if that has failed.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        retry(|| rustix::net::send(self.fd()?, buf, SendFlags::NOSIGNAL).map_err(Into::into))
    }

    /// Reads once data or the end of the stream is there; 0 is the end.
    ///
    /// A read that does not fill `buf` has emptied a TCP socket, so that no second system call asks:
    /// a FIN that came along keeps the readiness set. It has not where a read stops short: at TCP's
    /// urgent mark, and on a unix socket after a message that carries descriptors.
    ///
    /// # Errors
    ///
    /// As the kernel says; `WouldBlock` never.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.register(READING)?;
        let (Socket::Reading(fd) | Socket::Both(fd)) = &self.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let mut ready = ready!(fd.poll_read_ready(cx))?;
            match retry(|| Ok(rustix::net::recv(fd.get_ref(), &mut *buf, RecvFlags::empty())?)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok((n, _)) => {
                    if n > 0 && n < buf.len() && self.is_tcp && !is_urgent(fd) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Writes what fits once something fits.
    ///
    /// # Errors
    ///
    /// As the kernel says; `WouldBlock` never.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Socket::Both(fd) = &self.socket {
                let mut ready = ready!(fd.poll_write_ready(cx))?;
                match retry(|| Ok(rustix::net::send(fd.get_ref(), buf, SendFlags::NOSIGNAL)?)) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    done => return Poll::Ready(done),
                }
            } else {
                match self.try_write(buf) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.register_both(cx)?,
                    done => return Poll::Ready(done),
                }
            }
        }
    }

    /// Moves bytes from the socket into `pipe`; 0 is the end of the stream.
    ///
    /// `Pending` with bytes in the pipe may also mean that the pipe is full: splice(2) says EAGAIN
    /// for both. Empty the pipe, then ask again.
    ///
    /// # Errors
    ///
    /// As the kernel says; `WouldBlock` never.
    pub(super) fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        self.register(READING)?;
        let (Socket::Reading(fd) | Socket::Both(fd)) = &self.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let mut ready = ready!(fd.poll_read_ready(cx))?;
            match pipe.fill_from(fd.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && pipe.is_empty() => {
                    ready.clear_ready();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                done => return Poll::Ready(done),
            }
        }
    }

    /// Moves bytes from `pipe`, which holds some, to the socket once something fits.
    ///
    /// # Errors
    ///
    /// As the kernel says; `WouldBlock` never.
    pub(super) fn poll_splice_out(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Socket::Both(fd) = &self.socket {
                let mut ready = ready!(fd.poll_write_ready(cx))?;
                match pipe.empty_into(fd.get_ref()) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    done => return Poll::Ready(done),
                }
            } else {
                match self.fd().and_then(|fd| pipe.empty_into(fd)) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.register_both(cx)?,
                    done => return Poll::Ready(done),
                }
            }
        }
    }

    /// Waits until the peer is gone altogether, after its FIN: reset, or given up by the kernel.
    ///
    /// Never ready once the socket is registered for writing: being writable hides it. Nor for a
    /// unix socket, which looks the same when its peer has merely closed it.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Socket::Reading(fd) = &self.socket else { return Poll::Pending };
        if !self.is_tcp {
            return Poll::Pending;
        }
        match ready!(fd.poll_write_ready(cx)) {
            Ok(mut ready) if !ready.ready().is_write_closed() => {
                ready.clear_ready();
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Waits for a connect under way to end.
    ///
    /// # Errors
    ///
    /// The connect's own error (`SO_ERROR`).
    pub fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.socket, Socket::Both(_)) {
            self.register(READING | Interest::WRITABLE)?;
        }
        let Socket::Both(fd) = &self.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        ready!(fd.poll_write_ready(cx))?.retain_ready();
        Poll::Ready(sockopt::socket_error(fd.get_ref())?.map_err(Into::into))
    }

    /// Whether the socket's own address is `address`; the unspecified one stands for this host.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        let own = self.fd().and_then(|fd| Ok(rustix::net::getsockname(fd)?));
        own.ok().and_then(|own| SocketAddr::try_from(own).ok()).is_some_and(|own| {
            let is_this_host = address.ip().is_unspecified() || own.ip() == address.ip();
            own.port() == address.port() && is_this_host
        })
    }

    /// Sends a FIN after everything written so far. A peer that is gone already is no error.
    pub fn shutdown_write(&self) {
        if let Ok(fd) = self.fd() {
            // ENOTCONN: the peer has reset the connection, which says more than a FIN.
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
        }
    }

    /// Closes with a reset instead of a FIN. What the kernel has not sent yet is lost.
    pub fn reset(self) {
        self.reset_when_closed();
    }

    /// Makes closing say reset instead of FIN; see [`Stream::reset`].
    pub fn reset_when_closed(&self) {
        if let Ok(fd) = self.fd() {
            // It fails on a unix socket only, which knows no reset.
            let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
        }
    }

    /// Bytes that the peer has not acknowledged yet and still may, a FIN counted as one. None for a
    /// connection that is reset or given up: its send queue goes nowhere any more.
    #[must_use]
    pub fn unsent(&self) -> usize {
        let Ok(fd) = self.fd() else { return 0 };
        match sys::unsent(fd) {
            Ok(bytes) if bytes > 0 && !(self.is_tcp && sys::is_closed(fd)) => bytes,
            _ => 0,
        }
    }

    /// Whether urgent data has come: splice(2) does not get past it.
    pub(super) fn is_urgent(&self) -> bool {
        match &self.socket {
            Socket::Reading(fd) | Socket::Both(fd) => is_urgent(fd),
            Socket::Unregistered(_) | Socket::Gone => false,
        }
    }

    /// Sets keepalive and the longest time that sent data may stay unacknowledged.
    ///
    /// `keepalive` is the quiet time before the first probe; three more follow 15 s apart. Nothing
    /// on a unix socket. Failures are ignored: the connection works without.
    pub fn set_liveness(&self, keepalive: Option<Duration>, user_timeout: Option<Duration>) {
        if let (true, Ok(fd)) = (self.is_tcp, self.fd()) {
            let _ = set_liveness(fd, keepalive, user_timeout);
        }
    }

    /// Registers for reading if nothing is registered yet.
    fn register(&mut self, interest: Interest) -> io::Result<()> {
        if let Socket::Unregistered(_) = self.socket {
            self.replace(interest)?;
        }
        Ok(())
    }

    /// Registers for writing as well. Whoever waits for reading must ask again: it is woken.
    fn register_both(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if matches!(self.socket, Socket::Reading(_)) {
            cx.waker().wake_by_ref();
        }
        self.replace(READING | Interest::WRITABLE)
    }

    fn replace(&mut self, interest: Interest) -> io::Result<()> {
        let fd = match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Unregistered(fd) => fd,
            Socket::Reading(fd) | Socket::Both(fd) => fd.into_inner(),
            Socket::Gone => return Err(io::ErrorKind::NotConnected.into()),
        };
        let registered = sys::register(fd, interest)?;
        self.socket = if interest.is_writable() {
            Socket::Both(registered)
        } else {
            Socket::Reading(registered)
        };
        Ok(())
    }
}

/// Whether urgent data has ever come: reads stop short at it. Asks the reactor, not the kernel.
fn is_urgent(fd: &AsyncFd<OwnedFd>) -> bool {
    fd.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
}

/// See [`Stream::set_liveness`]; also for a listening socket, whose connections inherit it.
pub(super) fn set_liveness(
    fd: BorrowedFd<'_>,
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
) -> io::Result<()> {
    const PROBE_INTERVAL: Duration = Duration::from_secs(15);
    const PROBES: u32 = 4;
    if let Some(idle) = keepalive {
        sockopt::set_socket_keepalive(fd, true)?;
        sockopt::set_tcp_keepidle(fd, idle.max(Duration::from_secs(1)))?;
        sockopt::set_tcp_keepintvl(fd, PROBE_INTERVAL.min(idle.max(Duration::from_secs(1))))?;
        sockopt::set_tcp_keepcnt(fd, PROBES)?;
    }
    if let Some(limit) = user_timeout {
        sockopt::set_tcp_user_timeout(fd, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
