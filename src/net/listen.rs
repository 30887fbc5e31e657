//! Listening sockets: bound once, one for each thread where the kernel can share an address.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind,
    connect, getsockname, listen, socket_with, sockopt,
};

use super::addr::Address;
use super::reactor::{Reactor, Source};
use super::stream::{Stream, set_liveness};

/// Connections that the kernel holds for a socket of our own, until they are accepted.
const PRIVATE_BACKLOG: u32 = 128;

/// Options of a listening socket; what a connection can inherit from it, it inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// No delay of small segments (Nagle).
    pub nodelay: bool,
    /// Quiet time before a client is probed.
    pub keepalive: Option<Duration>,
    /// How long bytes may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// Connections the kernel holds until they are accepted; it caps this at `somaxconn`.
    pub backlog: u32,
    /// Wake up for a connection only once its first bytes are there.
    pub defer_accept: Option<Duration>,
    /// TCP Fast Open.
    pub fast_open: bool,
}

/// One bound address and its sockets.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the port that the kernel chose where 0 was asked for.
    pub address: Address,
    /// The sockets, all on that address. At least one.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// The file of a unix socket.
    pub path: Option<SocketPath>,
}

/// The file of a unix socket that was bound here; dropping it removes the file, unless somebody has
/// put another one in its place.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketPath {
    fn of(path: &Path) -> Option<Self> {
        Some(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl SocketPath {
    /// Leaves the file to another process.
    pub fn leave(mut self) {
        self.path.clear();
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.identity) {
            // Who cannot remove it leaves a file that the next start takes away.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Binds `address` and listens, with `shards` sockets where the kernel can spread connections over
/// them (`SO_REUSEPORT`, socket(7)), else with one.
///
/// # Errors
///
/// What the kernel says; `AddrInUse` also when another process holds the address: `SO_REUSEPORT`
/// would let two of one user share it, so that is looked for first.
pub fn bind_all(address: &Address, shards: usize, options: &ListenOptions) -> io::Result<Bound> {
    match address {
        Address::Unix(path) => {
            let sockets = vec![Arc::new(bind_unix(path, options.backlog, None)?)];
            Ok(Bound { address: address.clone(), sockets, path: SocketPath::of(path) })
        }
        Address::Tcp(wanted) => {
            let first = bind_tcp(*wanted, true, options)?;
            let bound = local_address(&first)?;
            let mut sockets = vec![Arc::new(first)];
            for _ in 1..shards {
                sockets.push(Arc::new(bind_tcp(bound, false, options)?));
            }
            Ok(Bound { address: Address::Tcp(bound), sockets, path: None })
        }
    }
}

/// Binds `path` and listens on it, for the user of this process alone.
///
/// # Errors
///
/// What the kernel says.
pub fn bind_private(path: &Path) -> io::Result<Bound> {
    let socket = bind_unix(path, PRIVATE_BACKLOG, Some(Mode::RUSR | Mode::WUSR))?;
    let sockets = vec![Arc::new(socket)];
    Ok(Bound { address: Address::Unix(path.to_owned()), sockets, path: SocketPath::of(path) })
}

/// A bound and listening TCP socket. The first one of an address must find it free.
fn bind_tcp(address: SocketAddr, is_first: bool, options: &ListenOptions) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, super::dial::TCP)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if is_first && address.port() != 0 {
        // Without SO_REUSEPORT the kernel says whether anybody else listens here.
        let probe = socket_with(family, SocketType::STREAM, flags, super::dial::TCP)?;
        sockopt::set_socket_reuseaddr(&probe, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&probe, true)?;
        }
        bind(&probe, &address)?;
    }
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    set_tcp_options(&socket, options)?;
    listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

fn set_tcp_options(socket: &OwnedFd, options: &ListenOptions) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, options.nodelay)?;
    if options.keepalive.is_none() {
        sockopt::set_socket_keepalive(socket, false)?;
    }
    let user_timeout = options.user_timeout.or(Some(Duration::ZERO));
    set_liveness(socket.as_fd(), options.keepalive, user_timeout)?;
    if let Some(wait) = options.defer_accept {
        super::sys::set_defer_accept(socket, wait)?;
    }
    if options.fast_open {
        super::sys::set_fast_open(socket, options.backlog)?;
    }
    // Between two ends on this host there is no network to be considerate of, and a congestion control
    // that paces (BBR) costs a timer for each burst, a third of a second of processor time per GiB. Reno
    // (RFC 5681) is in every kernel and allowed to everybody; ADR 0011.
    if local_address(socket)?.ip().is_loopback() {
        let _ = sockopt::set_tcp_congestion(socket, "reno");
    }
    Ok(())
}

/// A bound and listening unix socket, in place of one that a process left behind.
fn bind_unix(path: &Path, backlog: u32, mode: Option<Mode>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    if let Some(mode) = mode {
        // The file inherits the socket's mode, so at no moment may anybody else connect.
        rustix::fs::fchmod(&socket, mode)?;
    }
    let address = SocketAddrUnix::new(path)?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_if_dead(path)?;
            bind(&socket, &address)?;
        }
        done => done?,
    }
    listen(&socket, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// A listening socket that this process was started with, as [`Address`] has it; `None` for a
/// descriptor that is none.
#[must_use]
pub fn inherited(fd: i32) -> Option<OwnedFd> {
    let socket = super::sys::adopt(fd)?;
    let is_listening = sockopt::socket_acceptconn(&socket).ok()?;
    rustix::io::ioctl_fionbio(&socket, true).ok()?;
    is_listening.then_some(socket)
}

/// Where a socket is bound; `None` for one that is bound nowhere that has a name.
#[must_use]
pub fn address_of(socket: &OwnedFd) -> Option<Address> {
    let bound = getsockname(socket).ok()?;
    if let Ok(tcp) = SocketAddr::try_from(bound.clone()) {
        return Some(Address::Tcp(tcp));
    }
    let unix = SocketAddrUnix::try_from(bound).ok()?;
    let path = std::ffi::OsStr::from_bytes(unix.path_bytes()?);
    Some(Address::Unix(path.into()))
}

/// Sockets that were bound by somebody else, on `address`: with the options of this process, and as many
/// as it has threads where the kernel can spread connections over them.
///
/// # Errors
///
/// What the kernel says.
pub fn take_over(
    address: Address,
    sockets: Vec<OwnedFd>,
    shards: usize,
    options: &ListenOptions,
) -> io::Result<Bound> {
    let is_tcp = matches!(address, Address::Tcp(_));
    for socket in &sockets {
        set_options(socket, is_tcp, options)?;
    }
    let mut sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
    let is_spread = |socket: &Arc<OwnedFd>| sockopt::socket_reuseport(socket).unwrap_or(false);
    if let (Address::Tcp(bound), true) = (&address, sockets.iter().all(is_spread)) {
        while sockets.len() < shards {
            sockets.push(Arc::new(bind_tcp(*bound, false, options)?));
        }
    }
    let path = match &address {
        Address::Unix(path) => SocketPath::of(path),
        Address::Tcp(_) => None,
    };
    Ok(Bound { address, sockets, path })
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// Removes the socket at `path` if nobody listens on it; no file of another kind, no link.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    if is_socket(path) && is_refused(path)? {
        std::fs::remove_file(path)
    } else {
        Err(Errno::ADDRINUSE.into())
    }
}

/// Whether nobody listens on the socket at `path`. A full backlog is somebody.
fn is_refused(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?) == Err(Errno::CONNREFUSED))
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(getsockname(socket)?).map_err(Into::into)
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not known to any reactor yet.
    pub fd: OwnedFd,
    /// The client's address; `None` over a unix socket.
    pub peer: Option<SocketAddr>,
}

/// Why nothing was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// Nothing is waiting.
    Empty,
    /// The client has gone again, or the network failed it: go on with the next.
    Aborted,
    /// Out of descriptors or memory: pause, or the loop spins.
    Exhausted(Errno),
    /// The socket itself is of no use any more.
    Broken(Errno),
}

/// A listening socket that the reactor of its thread watches.
///
/// The reactor tells again and again while a connection is queued, so that accepting may stop after
/// any of them: no failing accept(2), which makes a socket first, has to say that there are no more.
#[derive(Debug)]
pub struct Watched {
    fd: Arc<OwnedFd>,
    source: Source,
    is_paused: Cell<bool>,
}

impl Watched {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// Out of memory; the socket is closed then.
    pub fn new(reactor: &Rc<Reactor>, fd: Arc<OwnedFd>) -> io::Result<Self> {
        let source = Source::new(reactor, &fd, EventFlags::IN)?;
        Ok(Self { fd, source, is_paused: Cell::new(false) })
    }

    /// The socket, which others may hold too.
    #[must_use]
    pub fn socket(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Waits until a connection is queued. Cancel safe.
    ///
    /// # Errors
    ///
    /// Out of memory.
    pub async fn readable(&self) -> io::Result<()> {
        if self.is_paused.replace(false) {
            self.source.modify(&self.fd, EventFlags::IN)?;
        }
        poll_fn(|cx| self.source.poll_ready(EventFlags::IN, cx)).await;
        self.source.clear(EventFlags::IN);
        Ok(())
    }

    /// Does not watch before it is waited for again: for whoever does something else meanwhile.
    pub fn pause(&self) {
        // Where it fails, the thread wakes up in vain.
        let is_done = self.source.modify(&self.fd, EventFlags::empty()).is_ok();
        self.is_paused.set(is_done);
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.source.remove(&self.fd);
    }
}

/// Gives a listening socket other options, as far as it can have them: connections to come inherit
/// them.
///
/// # Errors
///
/// What the kernel says.
pub fn set_options(socket: &OwnedFd, is_tcp: bool, options: &ListenOptions) -> io::Result<()> {
    if is_tcp {
        set_tcp_options(socket, options)?;
    }
    listen(socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(())
}

/// Lets no more connections queue up than are there: before the last ones are accepted and the socket
/// is closed.
pub fn close_queue(socket: impl AsFd) {
    // The kernel keeps room for one. A failure leaves the queue as it was.
    let _ = listen(socket, 0);
}

/// Accepts one connection without waiting.
///
/// # Errors
///
/// See [`AcceptError`]; the errors of accept(2) are sorted into its kinds.
pub fn accept(socket: impl AsFd) -> Result<Accepted, AcceptError> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match acceptfrom_with(socket, flags) {
        Ok((fd, peer)) => Ok(Accepted { fd, peer: peer.and_then(canonical) }),
        Err(Errno::AGAIN) => Err(AcceptError::Empty),
        Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
            Err(AcceptError::Exhausted(e))
        }
        Err(e @ (Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)) => {
            Err(AcceptError::Broken(e))
        }
        // ECONNABORTED, EINTR, EPERM and the network errors that accept(2) passes on.
        Err(_) => Err(AcceptError::Aborted),
    }
}

/// The peer's address; an IPv4 address mapped into IPv6 is an IPv4 address from here on.
fn canonical(address: SocketAddrAny) -> Option<SocketAddr> {
    let address = SocketAddr::try_from(address).ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

impl Accepted {
    /// The connection as a stream.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        Stream::new(self.fd, self.peer.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ListenOptions = ListenOptions {
        nodelay: true,
        keepalive: None,
        user_timeout: None,
        backlog: 1,
        defer_accept: None,
        fast_open: false,
    };

    #[test]
    fn connections_within_this_host_are_not_paced_and_others_have_what_the_machine_has() {
        let machine = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        for (address, expected) in [("127.0.0.1:0", "reno"), ("0.0.0.0:0", machine.trim())] {
            let bound = bind_all(&Address::Tcp(address.parse().unwrap()), 1, &OPTIONS).unwrap();
            let Address::Tcp(at) = bound.address else { panic!("{:?}", bound.address) };
            let _client = std::net::TcpStream::connect((at.ip(), at.port())).unwrap();
            let mut wait =
                [rustix::event::PollFd::new(&bound.sockets[0], rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut wait, None).unwrap();
            let accepted = accept(&bound.sockets[0]).unwrap();
            assert_eq!(sockopt::tcp_congestion(&accepted.fd).unwrap(), expected, "{address}");
        }
    }
}
