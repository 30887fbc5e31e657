//! One attempt to connect, and what its failure means.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, socket_with};

use super::addr::Address;
use super::stream::{Stream, retry};
use super::sys;

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there.
    #[error("refused")]
    Refused,
    /// No answer in time.
    #[error("timeout")]
    Timeout,
    /// No way there: no route, a prohibiting route, the host or network is down.
    #[error("unreachable")]
    Unreachable,
    /// Reset while connecting.
    #[error("reset")]
    Reset,
    /// Anything else that the backend or the network did.
    #[error("{0}")]
    Other(Errno),
    /// This host lacks something: descriptors, ports, memory, permission. Says nothing about the
    /// backend.
    #[error("local: {0}")]
    Local(Errno),
}

impl ConnectError {
    /// The metric's label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Other(_) | Self::Local(_) => "other",
        }
    }

    /// Whether this host has run out of what every connect needs: descriptors or memory.
    #[must_use]
    pub fn is_shortage(self) -> bool {
        let Self::Local(errno) = self else { return false };
        matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    }

    /// The same, for an error that came after the connect was under way: what forbids it then is
    /// the network, which said so by ICMP.
    fn once_under_way(self) -> Self {
        match self {
            Self::Local(Errno::ACCESS | Errno::PERM) => Self::Unreachable,
            other => other,
        }
    }

    fn classify(error: &io::Error, address: &Address) -> Self {
        let Some(errno) = error.raw_os_error().map(Errno::from_raw_os_error) else {
            return Self::Other(Errno::IO);
        };
        match (errno, address) {
            (Errno::CONNREFUSED, _) | (Errno::NOENT, Address::Unix(_)) => Self::Refused,
            (Errno::TIMEDOUT, _) => Self::Timeout,
            (Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE, _) => Self::Reset,
            (Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN, _) => {
                Self::Unreachable
            }
            // connect(2) reports a `blackhole` route as EINVAL and a `prohibit` route as EACCES.
            (Errno::INVAL, Address::Tcp(_)) => Self::Unreachable,
            (Errno::ACCESS, Address::Tcp(to)) if is_prohibited_route(*to) => Self::Unreachable,
            // A unix socket answers EAGAIN when its backlog is full: that is the backend's.
            (Errno::AGAIN, Address::Unix(_)) => Self::Other(errno),
            (
                Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::AGAIN
                | Errno::ADDRNOTAVAIL
                | Errno::ADDRINUSE
                | Errno::PERM
                | Errno::ACCESS,
                _,
            ) => Self::Local(errno),
            _ => Self::Other(errno),
        }
    }
}

/// Whether it is the routing table that forbids the way, and not a security policy.
///
/// Connecting a datagram socket asks the routing table and sends nothing.
fn is_prohibited_route(to: SocketAddr) -> bool {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let connected = UdpSocket::bind(any).and_then(|socket| socket.connect(to));
    connected.is_err_and(|e| e.raw_os_error() == Some(Errno::ACCESS.raw_os_error()))
}

/// The ports that the kernel gives to sockets without one (`ip_local_port_range`).
///
/// Only a connect to such a port can meet itself: without a listener there, TCP's simultaneous open
/// connects the socket to its own port.
#[derive(Clone, Copy, Debug)]
pub struct EphemeralPorts {
    low: u16,
    high: u16,
}

impl EphemeralPorts {
    /// Reads the range of this network namespace; all ports where it cannot be read.
    #[must_use]
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let mut ports = text.iter().flat_map(|t| t.split_whitespace()).map(str::parse);
        match (ports.next(), ports.next()) {
            (Some(Ok(low)), Some(Ok(high))) => Self { low, high },
            _ => Self { low: 1, high: u16::MAX },
        }
    }

    fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

/// How a connect is made.
#[derive(Clone, Copy, Debug)]
pub struct DialOptions {
    /// No delay of small segments (Nagle).
    pub nodelay: bool,
    /// Ports on which a socket could meet itself.
    pub ports: EphemeralPorts,
}

/// An attempt under way.
#[derive(Debug)]
pub struct Dial {
    stream: Stream,
}

impl Dial {
    /// Starts to connect to `address`, from `source` if one is given, without waiting.
    ///
    /// On this host and with a quick network the connection is often there at once; a first write
    /// then succeeds, which [`Dial::try_first_write`] finds out.
    ///
    /// # Errors
    ///
    /// What failed at once; a local shortage is [`ConnectError::Local`]. [`ConnectError::Refused`]
    /// too when the socket is connected to itself: nothing listens there.
    pub fn start(
        address: &Address,
        source: Option<IpAddr>,
        options: DialOptions,
    ) -> Result<Self, ConnectError> {
        Self::open(address, source, options).map_err(|e| ConnectError::classify(&e, address))
    }

    fn open(
        address: &Address,
        source: Option<IpAddr>,
        DialOptions { nodelay, ports }: DialOptions,
    ) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let family = match address {
            Address::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Address::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
            Address::Unix(_) => AddressFamily::UNIX,
        };
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        let connected = match address {
            Address::Tcp(to) => {
                if let Some(source) = source {
                    sys::bind_address_no_port(&socket)?;
                    rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
                }
                retry(|| Ok(rustix::net::connect(&socket, to)?))
            }
            Address::Unix(path) => {
                let to = SocketAddrUnix::new(path.as_path())?;
                retry(|| Ok(rustix::net::connect(&socket, &to)?))
            }
        };
        match connected {
            Err(e) if e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(e),
            _ => {}
        }
        let stream = match address {
            Address::Tcp(_) if nodelay => Stream::new(socket, true).with_nodelay(),
            Address::Tcp(_) => Stream::new(socket, true),
            Address::Unix(_) => Stream::new(socket, false),
        };
        match address {
            // Its own address was chosen by the connect: before a byte is written it is known
            // whether the socket will meet itself.
            Address::Tcp(to) if ports.contains(to.port()) && stream.is_at(*to) => {
                stream.reset();
                Err(Errno::CONNREFUSED.into())
            }
            _ => Ok(Self { stream }),
        }
    }

    /// Writes `bytes` if the connection is there already: how many were taken, or `None` while it
    /// is still being made.
    ///
    /// # Errors
    ///
    /// The connect's own failure.
    pub fn try_first_write(
        &self,
        bytes: &[u8],
        address: &Address,
    ) -> Result<Option<usize>, ConnectError> {
        match self.stream.try_write(bytes) {
            Ok(taken) => Ok(Some(taken)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(ConnectError::classify(&e, address).once_under_way()),
        }
    }

    /// Waits until the connection is there.
    ///
    /// # Errors
    ///
    /// The connect's own failure.
    pub fn poll_connected(
        &mut self,
        address: &Address,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectError>> {
        let connected = ready!(self.stream.poll_connected(cx));
        Poll::Ready(connected.map_err(|e| ConnectError::classify(&e, address).once_under_way()))
    }

    /// The connected stream.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Gives the attempt up: a connection that was made meanwhile is reset.
    pub fn abandon(self) {
        self.stream.reset();
    }
}

/// The protocol number, named where sockets are made by hand.
pub(super) const TCP: Option<rustix::net::Protocol> = Some(ipproto::TCP);
