//! One connected socket, TCP or unix, as the data path wants it.
//!
//! A stream is not known to a reactor until it first has to wait, and then for reading only; it is
//! registered for writing too once a write has found the send queue full. The reactor is the
//! thread's own where it has one, tokio's elsewhere.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pipe::Pipe;
use super::reactor::{About, Reactor, Source};
use super::sys;

/// A connected stream socket that never blocks.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    is_tcp: bool,
    nagle: Cell<Nagle>,
}

/// What becomes of Nagle's algorithm, which holds a small segment back while another is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nagle {
    /// It stays as it is.
    Settled,
    /// It is turned off before the second write. The first one it does not hold back: Linux holds a
    /// segment only for a small one that was sent before (`tcp_minshall_check`, after Minshall). So
    /// a connection with one request is spared a system call.
    OffAfterFirst,
    OffBeforeNext,
}

/// What a reactor knows of the socket.
#[derive(Debug)]
enum Socket {
    /// Nothing, or nothing that a task waits for.
    Unregistered(OwnedFd),
    /// The thread's own reactor tells the task that waits.
    Here(Box<Here>),
    /// tokio's reactor does.
    Tokio(Box<AsyncFd<OwnedFd>>, Waits),
    /// Only while a registration is replaced, or after that failed.
    Gone,
}

#[derive(Debug)]
struct Here {
    fd: OwnedFd,
    source: Source,
    waits: Waits,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    ToRead,
    ToReadOrWrite,
}

impl Waits {
    fn interest(self) -> Interest {
        match self {
            Self::ToRead => Interest::READABLE,
            Self::ToReadOrWrite => Interest::READABLE | Interest::WRITABLE,
        }
    }

    fn news(self) -> EventFlags {
        let reading = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match self {
            Self::ToRead => reading,
            Self::ToReadOrWrite => reading | EventFlags::OUT,
        }
    }
}

/// One of the two things to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn news(self) -> EventFlags {
        match self {
            Self::In => EventFlags::IN | EventFlags::RDHUP,
            Self::Out => EventFlags::OUT,
        }
    }
}

impl Stream {
    /// Takes over a non-blocking socket.
    #[must_use]
    pub fn new(fd: OwnedFd, is_tcp: bool) -> Self {
        Self { socket: Socket::Unregistered(fd), is_tcp, nagle: Cell::new(Nagle::Settled) }
    }

    /// Small segments are sent without delay.
    #[must_use]
    pub(super) fn with_nodelay(self) -> Self {
        self.nagle.set(Nagle::OffAfterFirst);
        self
    }

    /// The descriptor. An error only if a registration has failed, which ends the stream.
    pub(super) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.socket {
            Socket::Unregistered(fd) => Ok(fd.as_fd()),
            Socket::Here(here) => Ok(here.fd.as_fd()),
            Socket::Tokio(fd, _) => Ok(fd.get_ref().as_fd()),
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
        self.settle_nagle()?;
        let taken = retry(|| Ok(rustix::net::send(self.fd()?, buf, SendFlags::NOSIGNAL)?))?;
        if self.nagle.get() == Nagle::OffAfterFirst {
            self.nagle.set(Nagle::OffBeforeNext);
        }
        Ok(taken)
    }

    fn settle_nagle(&self) -> io::Result<()> {
        if self.nagle.get() == Nagle::OffBeforeNext {
            self.nagle.set(Nagle::Settled);
            sockopt::set_tcp_nodelay(self.fd()?, true)?;
        }
        Ok(())
    }

    /// Reads once data or the end of the stream is there; 0 is the end.
    ///
    /// # Errors
    ///
    /// As the kernel says; `WouldBlock` never.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.register(Waits::ToRead)?;
        self.poll_io(Way::In, cx, |stream| stream.try_read(buf))
    }

    /// Writes what fits once something fits.
    ///
    /// # Errors
    ///
    /// As the kernel says; `WouldBlock` never.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_registered(Waits::ToReadOrWrite) {
            match self.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            self.register(Waits::ToReadOrWrite)?;
            // Whoever waits for reading must ask again: it is woken.
            cx.waker().wake_by_ref();
        }
        self.poll_io(Way::Out, cx, |stream| stream.try_write(buf))
    }

    /// Moves bytes from the socket into `pipe` without waiting; 0 is the end of the stream, or
    /// TCP's urgent mark.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing is there, or the pipe is full: splice(2) says the same for both.
    pub(super) fn splice_in(&self, pipe: &mut Pipe, most: usize) -> io::Result<usize> {
        pipe.fill_from(self.fd()?, most)
    }

    /// Moves bytes from `pipe`, which holds some, to the socket without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing fits.
    pub(super) fn splice_out(&self, pipe: &mut Pipe) -> io::Result<usize> {
        self.settle_nagle()?;
        pipe.empty_into(self.fd()?)
    }

    /// Waits for a connect under way to end.
    ///
    /// # Errors
    ///
    /// The connect's own error (`SO_ERROR`).
    pub fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.register(Waits::ToReadOrWrite)?;
        match &self.socket {
            Socket::Here(here) => ready!(here.source.poll_ready(Way::Out.news(), cx)),
            Socket::Tokio(fd, _) => ready!(fd.poll_write_ready(cx))?.retain_ready(),
            Socket::Unregistered(_) | Socket::Gone => {}
        }
        Poll::Ready(sockopt::socket_error(self.fd()?)?.map_err(Into::into))
    }

    /// The socket's own address, an IPv4 one as such; `None` for a unix socket. A system call.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        let own = self.fd().and_then(|fd| Ok(rustix::net::getsockname(fd)?)).ok()?;
        let own = SocketAddr::try_from(own).ok()?;
        Some(SocketAddr::new(own.ip().to_canonical(), own.port()))
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

    /// Whether it is a TCP socket.
    pub(super) fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Has `reactor` tell of the socket as news `about` something else than a waiting task.
    pub(super) fn hand_over(
        &mut self,
        reactor: &Reactor,
        about: About,
        news: EventFlags,
    ) -> io::Result<()> {
        let (fd, is_known) = match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Unregistered(fd) => (fd, false),
            Socket::Here(here) => (here.fd, true),
            Socket::Tokio(fd, _) => (fd.into_inner(), false),
            Socket::Gone => return Err(io::ErrorKind::NotConnected.into()),
        };
        let done =
            if is_known { reactor.modify(&fd, about, news) } else { reactor.add(&fd, about, news) };
        self.socket = Socket::Unregistered(fd);
        done
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

    fn is_registered(&self, waits: Waits) -> bool {
        match &self.socket {
            Socket::Here(here) => here.waits == waits || waits == Waits::ToRead,
            Socket::Tokio(_, known) => *known == waits || waits == Waits::ToRead,
            Socket::Unregistered(_) | Socket::Gone => false,
        }
    }

    /// Registers for what is to be waited for, unless that is done.
    fn register(&mut self, waits: Waits) -> io::Result<()> {
        if self.is_registered(waits) {
            return Ok(());
        }
        self.socket = match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Unregistered(fd) => match Reactor::current() {
                Some(reactor) => {
                    let source = Source::new(&reactor, &fd, waits.news())?;
                    Socket::Here(Box::new(Here { fd, source, waits }))
                }
                None => Socket::Tokio(Box::new(sys::register(fd, waits.interest())?), waits),
            },
            Socket::Here(mut here) => {
                here.source.modify(&here.fd, waits.news())?;
                here.waits = waits;
                Socket::Here(here)
            }
            Socket::Tokio(fd, _) => {
                let registered = sys::register(fd.into_inner(), waits.interest())?;
                Socket::Tokio(Box::new(registered), waits)
            }
            Socket::Gone => return Err(io::ErrorKind::NotConnected.into()),
        };
        Ok(())
    }

    /// Makes a call that does not wait, once it may succeed, until it says something else than
    /// `WouldBlock`. The socket is registered for it.
    fn poll_io<T>(
        &self,
        way: Way,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&Self) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let would_block = |done: &io::Result<T>| {
            done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
        };
        loop {
            match &self.socket {
                Socket::Here(here) => {
                    ready!(here.source.poll_ready(way.news(), cx));
                    let done = call(self);
                    if !would_block(&done) {
                        return Poll::Ready(done);
                    }
                    here.source.clear(way.news());
                }
                Socket::Tokio(fd, _) => {
                    let mut guard = match way {
                        Way::In => ready!(fd.poll_read_ready(cx))?,
                        Way::Out => ready!(fd.poll_write_ready(cx))?,
                    };
                    let done = call(self);
                    if !would_block(&done) {
                        return Poll::Ready(done);
                    }
                    guard.clear_ready();
                }
                Socket::Unregistered(_) | Socket::Gone => {
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                }
            }
        }
    }
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
