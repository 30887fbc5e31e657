//! hickory-resolver's sockets, timers and tasks, on the runtime of the thread that looks up.
//!
//! It has such a thing of its own, behind a feature that turns on tokio's multi-threaded runtime: for
//! the whole program, whose every registered socket would be eight bytes larger for it, 16 bytes of
//! each idle connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long connecting to a server may take where nobody says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The runtime that the calling thread is in. What it spawns ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Here {
    tasks: Tasks,
}

/// Where background tasks go.
#[derive(Clone)]
pub(super) struct Tasks {
    ended: CancellationToken,
    _guard: std::sync::Arc<DropGuard>,
}

impl Default for Here {
    fn default() -> Self {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        Self { tasks: Tasks { ended, _guard: guard.into() } }
    }
}

impl Spawn for Tasks {
    fn spawn_bg(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "on the control thread; tracked by the token"
        )]
        tokio::spawn(async move {
            let _ = ended.run_until_cancelled_owned(task).await;
        });
    }
}

impl RuntimeProvider for Here {
    type Handle = Tasks;
    type Timer = Timer;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Tasks {
        self.tasks.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Tcp> {
        Box::pin(async move {
            let is_v4 = server.is_ipv4();
            let socket = if is_v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(from) = from {
                socket.bind(from)?;
            }
            socket.set_nodelay(true)?;
            let within = timeout.unwrap_or(CONNECT_TIMEOUT);
            Ok(Tcp(tokio::time::timeout(within, socket.connect(server)).await??))
        })
    }

    fn bind_udp(&self, from: SocketAddr, _server: SocketAddr) -> Opening<Udp> {
        Box::pin(async move { UdpSocket::bind(from).await.map(Udp) })
    }
}

pub(super) struct Timer;

#[async_trait]
impl Time for Timer {
    async fn delay_for(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn timeout<F: Future + Send + 'static>(
        duration: Duration,
        future: F,
    ) -> io::Result<F::Output> {
        Ok(tokio::time::timeout(duration, future).await?)
    }
}

pub(super) struct Udp(UdpSocket);

#[async_trait]
impl DnsUdpSocket for Udp {
    type Time = Timer;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        let from = ready!(self.0.poll_recv_from(cx, &mut buf))?;
        Poll::Ready(Ok((buf.filled().len(), from)))
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, bytes, to)
    }
}

pub(super) struct Tcp(TcpStream);

impl DnsTcpStream for Tcp {
    type Time = Timer;
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
