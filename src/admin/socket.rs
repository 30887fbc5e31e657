//! The endpoint's listening socket and its connections.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};

use crate::net::addr::Address;
use crate::net::listen::{self, Bound, ListenOptions, bind_all, bind_private};

/// How long the other side may leave unread what it was sent.
const UNREAD: Duration = Duration::from_secs(15);

/// A bound and listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix stream socket.
    Unix(UnixListener),
}

/// Binds the endpoint's address: a unix socket for the user of this process alone.
///
/// # Errors
///
/// What the kernel says.
pub fn bind(address: &Address) -> io::Result<Bound> {
    match address {
        Address::Unix(path) => bind_private(path),
        Address::Tcp(_) => bind_all(address, 1, &OPTIONS),
    }
}

/// The endpoint's socket, which another process has bound to `address`.
///
/// # Errors
///
/// What the kernel says.
pub fn take_over(address: Address, socket: OwnedFd) -> io::Result<Bound> {
    listen::take_over(address, vec![socket], 1, &OPTIONS)
}

/// Of a socket for a few connections that are short or say little.
const OPTIONS: ListenOptions = ListenOptions {
    nodelay: true,
    keepalive: Some(Duration::from_secs(60)),
    user_timeout: None,
    backlog: 128,
    defer_accept: None,
    fast_open: false,
};

impl Socket {
    /// Accepts from a listening socket that is bound to `address`: from a duplicate of its descriptor,
    /// so that it can be handed on. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// Out of descriptors, or the reactor cannot watch it.
    pub fn new(socket: impl AsFd, address: &Address) -> io::Result<Self> {
        let fd = socket.as_fd().try_clone_to_owned()?;
        match address {
            Address::Tcp(_) => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Address::Unix(_) => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    /// Accepts a connection, and says whether it comes from this host. Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<(Connection, bool)> {
        let (stream, is_local) = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                (Stream::Tcp(stream), is_loopback(peer.ip()))
            }
            Self::Unix(listener) => (Stream::Unix(listener.accept().await?.0), true),
        };
        Ok((Connection { stream, stalled: None }, is_local))
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection whose other side must read: a write that has not moved for 15 seconds fails.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        if written.is_pending() {
            return self.patience(cx);
        }
        self.stalled = None;
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
