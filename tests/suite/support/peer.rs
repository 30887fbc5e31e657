//! One end of a connection, on the client's side or the backend's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{PATIENCE, procfs};

/// How the other side ended its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// An orderly end.
    Fin,
    /// A reset.
    Reset,
}

/// One end of a connection. Every call gives up, by panic, after ten seconds without progress.
///
/// Clones share the socket: it is closed with the last one.
#[derive(Clone)]
pub(crate) struct Peer {
    socket: Arc<Socket>,
    /// A call other than a read was told of a reset. The kernel tells once only.
    reset_heard: Arc<AtomicBool>,
}

/// What a [`Peer`] may be told before it connects.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options {
    /// Size of the kernel's receive buffer; small makes a slow reader felt early.
    pub(crate) receive_buffer: Option<usize>,
    /// Largest segment; small keeps the kernel's own buffers on the way small.
    pub(crate) segment: Option<u32>,
    /// Address to connect from.
    pub(crate) from: Option<SocketAddr>,
}

impl Peer {
    /// Connects to `address`, a TCP address or `unix:PATH`.
    #[track_caller]
    pub(crate) fn connect(address: &str) -> Self {
        Self::connect_with(address, Options::default()).unwrap_or_else(|e| panic!("{address}: {e}"))
    }

    /// Connects with options; errors are given back.
    pub(crate) fn connect_with(address: &str, options: Options) -> io::Result<Self> {
        let (domain, target) = parse(address)?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if let Some(size) = options.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = options.segment {
            socket.set_tcp_mss(size)?;
        }
        if let Some(from) = options.from {
            socket.bind(&from.into())?;
        }
        match socket.connect_timeout(&target, PATIENCE) {
            // Made and reset before this call came back.
            Err(error) if is_reset(&error) => {
                Ok(Self { socket: Arc::new(socket), reset_heard: Arc::new(true.into()) })
            }
            Err(error) => Err(error),
            Ok(()) => Self::new(socket),
        }
    }

    /// Takes over a connected socket.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        if socket.local_addr()?.as_socket().is_some() {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Self { socket: Arc::new(socket), reset_heard: Arc::default() })
    }

    /// The socket, for options this type has no word for.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// A handle that does not keep the socket open.
    pub(crate) fn downgrade(&self) -> Weak<Socket> {
        Arc::downgrade(&self.socket)
    }

    /// The other side's address.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.socket.peer_addr().unwrap().as_socket().expect("a TCP connection")
    }

    /// This side's address.
    pub(crate) fn local(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().expect("a TCP connection")
    }

    /// Sends all of `bytes`.
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.try_send(bytes) {
            panic!("could not send: {error}");
        }
    }

    /// Sends all of `bytes`, or says why not.
    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sent = (&*self.socket).write_all(bytes.as_ref());
        if sent.as_ref().is_err_and(is_reset) {
            self.reset_heard.store(true, Ordering::SeqCst);
        }
        sent
    }

    /// Reads once, what is there.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&*self.socket).read(buffer) {
            Ok(0) if self.reset_heard.load(Ordering::SeqCst) => {
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                Err(io::ErrorKind::ConnectionReset.into())
            }
            read => read,
        }
    }

    /// Reads exactly the bytes that are `expected`.
    #[track_caller]
    pub(crate) fn expect(&self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let got = self.receive(expected.len());
        assert!(
            got == expected,
            "expected {:?}, got {:?}",
            String::from_utf8_lossy(expected),
            String::from_utf8_lossy(&got)
        );
    }

    /// Reads exactly `count` bytes.
    #[track_caller]
    pub(crate) fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        if let Err(error) = (&*self.socket).read_exact(&mut bytes) {
            panic!("{count} bytes did not come: {error}");
        }
        bytes
    }

    /// Reads until the other side ends and gives what came and how it ended.
    #[track_caller]
    pub(crate) fn receive_all(&self) -> (Vec<u8>, End) {
        let (mut all, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.try_read(&mut buffer) {
                Ok(0) => return (all, End::Fin),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if is_reset(&error) => return (all, End::Reset),
                Err(error) => panic!("no end after {} bytes: {error}", all.len()),
            }
        }
    }

    /// Reads until the other side ends or nothing has come for `time`.
    pub(crate) fn receive_all_within(&self, time: Duration) -> Vec<u8> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let (mut all, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        while let Ok(count @ 1..) = self.try_read(&mut buffer) {
            all.extend_from_slice(&buffer[..count]);
        }
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        all
    }

    /// The other side ends, in this way, with nothing before it.
    #[track_caller]
    pub(crate) fn expect_end(&self, expected: End) {
        let (bytes, end) = self.receive_all();
        assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end), ("", expected));
    }

    /// As [`Peer::expect_end`], and gives how long it took.
    #[track_caller]
    pub(crate) fn time_to_end(&self, expected: End) -> Duration {
        let start = Instant::now();
        self.expect_end(expected);
        start.elapsed()
    }

    /// Nothing comes for `time`, neither bytes nor an end.
    #[track_caller]
    pub(crate) fn expect_silence(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 64];
        match self.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => panic!("expected silence, got {other:?}"),
        }
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Sends `message` and expects it back.
    #[track_caller]
    pub(crate) fn expect_echo(&self, message: &str) {
        self.send(message);
        self.expect(message);
    }

    /// Ends this side's direction; the other one goes on.
    pub(crate) fn fin(&self) {
        self.socket.shutdown(Shutdown::Write).expect("a connection that is open");
    }

    /// Ends the connection by a reset. This must be the only clone.
    #[track_caller]
    pub(crate) fn reset(self) {
        assert_eq!(Arc::strong_count(&self.socket), 1, "a clone would keep the socket open");
        self.socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Bytes sent that the other side's kernel has not yet taken.
    pub(crate) fn unsent(&self) -> u64 {
        procfs::unsent(self.local(), self.remote()).unwrap_or(0)
    }
}

/// Whether an error says that the other side reset the connection.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn parse(address: &str) -> io::Result<(Domain, SockAddr)> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok((Domain::UNIX, SockAddr::unix(path)?));
    }
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    Ok((Domain::for_address(address), address.into()))
}
