//! The raw system calls that no safe wrapper offers. The only file where `unsafe` is allowed.

#![allow(unsafe_code, reason = "calls that no crate wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a socket with the reactor of this thread's runtime.
///
/// # Errors
///
/// Out of memory, or the descriptor is of a kind that cannot be waited for; it is closed then.
///
/// # Panics
///
/// Outside a tokio runtime with its I/O driver.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, always of the same number, and the
    // `AsyncFd` owns it. Nobody replaces it: no code calls `get_mut` on a registered descriptor.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(Into::into)
}

/// Takes over a descriptor that this process was started with; `None` when it is not open. From here on
/// no child inherits it.
pub(super) fn adopt(fd: i32) -> Option<OwnedFd> {
    // SAFETY: asking for the flags of a descriptor that may be closed has no effect but an error.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, as was just seen, and whoever started this process has left it to us: nothing
    // else in here knows of it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(owned)
}

/// Bytes in the send queue of a socket: not yet sent, or sent and not yet acknowledged.
///
/// For TCP a FIN that was not acknowledged counts as one byte (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
///
/// What the kernel says; only for a descriptor that is no socket.
pub(super) fn unsent(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int to the address given, which
    // lives until after the call; the descriptor is borrowed and therefore open.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 {
        Ok(usize::try_from(bytes).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a TCP connection is over for the kernel: reset, or given up (`TCP_CLOSE`).
pub(super) fn is_closed(socket: impl AsFd) -> bool {
    // The state is the first byte of `struct tcp_info`, and the kernel fills in what there is room
    // for (tcp(7), TCP_INFO). Its numbers are those of the kernel's net/tcp_states.h.
    const TCP_CLOSE: u8 = 7;
    let mut state: u8 = 0;
    let mut length: libc::socklen_t = 1;
    // SAFETY: one byte is writable at the address given, `length` says so, and both live until
    // after the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    done == 0 && state == TCP_CLOSE
}

/// Makes a later `bind` to port 0 choose only the address; the port is chosen by `connect`.
///
/// So that one source address serves as many connections as there are ports for each backend, not
/// in all (`IP_BIND_ADDRESS_NO_PORT`, ip(7)). The option belongs to IPv4 and IPv6 sockets alike.
///
/// # Errors
///
/// What the kernel says; kernels before 4.2 do not know the option.
pub(super) fn bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets `accept` see a connection only once data has come, or `wait` has passed
/// (`TCP_DEFER_ACCEPT`, tcp(7); whole seconds, at least one).
///
/// # Errors
///
/// What the kernel says.
pub(super) fn set_defer_accept(socket: impl AsFd, wait: Duration) -> io::Result<()> {
    let seconds = libc::c_int::try_from(wait.as_secs().max(1)).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Accepts data within the SYN (`TCP_FASTOPEN`, tcp(7)), for at most `pending` such connections
/// that are not accepted yet.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn set_fast_open(socket: impl AsFd, pending: u32) -> io::Result<()> {
    let pending = libc::c_int::try_from(pending).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_TCP, libc::TCP_FASTOPEN, pending)
}

/// Lets a socket bind to an address that is not this host's (`IP_TRANSPARENT`, ip(7)). The option
/// belongs to IPv4 and IPv6 sockets alike.
///
/// # Errors
///
/// `PermissionDenied` without `CAP_NET_ADMIN` and `CAP_NET_RAW`, one of which is enough.
pub(super) fn set_transparent(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)
}

/// Makes all descriptors from this number on close when a program is started (`close_range(2)` with
/// `CLOSE_RANGE_CLOEXEC`).
///
/// # Errors
///
/// `ENOSYS` or `EINVAL` on kernels before 5.11.
pub(super) fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(0);
    // SAFETY: with this flag the call closes nothing and touches no memory of ours: it sets a bit of
    // each descriptor, whoever owns it.
    let done = unsafe { libc::close_range(first, libc::c_uint::MAX, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_int(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option(socket, level, option, value)
}

/// Sets an option whose value is one number.
fn set_option<T: Copy + Into<i128>>(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the option value is one number that lives until after the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn unread_bytes_leave_the_send_queue_once_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"four").unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(unsent(&near).unwrap(), 0);
    }

    #[test]
    fn a_socket_that_nobody_reads_keeps_bytes_in_its_send_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = (&near).write(&[0; 65536]) {
            written += n;
        }
        assert!(written > 0 && unsent(&near).unwrap() > 0);
    }

    #[test]
    fn a_reset_connection_is_closed_and_an_open_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert!(!is_closed(&near));
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        { &near }.read(&mut [0]).unwrap_err();
        assert!(is_closed(&near));
    }

    #[test]
    fn a_descriptor_of_another_program_is_closed_when_one_is_started() {
        let (reader, _writer) = io::pipe().unwrap();
        // High, and with nothing of other tests above it that they want to hand down.
        let high = rustix::io::fcntl_dupfd_cloexec(&reader, 900).unwrap();
        rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
        close_on_exec_from(900).unwrap();
        let flags = rustix::io::fcntl_getfd(&high).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn late_port_binding_leaves_the_port_open_until_connect() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        bind_address_no_port(&socket).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(bound.port(), 0);
    }
}
