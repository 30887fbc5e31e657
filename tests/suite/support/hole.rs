//! Addresses that cannot be connected to.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::{ms, procfs};

/// An address that refuses every connection.
///
/// The port stays bound without listening, so that no other test can be given it.
pub(crate) struct Refusing {
    socket: Socket,
}

impl Refusing {
    /// A port that refuses.
    pub(crate) fn new() -> Self {
        Self { socket: bound() }
    }

    /// The address for the configuration.
    pub(crate) fn address(&self) -> String {
        address(&self.socket)
    }

    /// Starts to listen on the same port: the backend is back.
    pub(crate) fn recover(self) -> Listening {
        self.socket.listen(128).unwrap();
        Listening { socket: self.socket }
    }
}

/// A backend that came back; it completes handshakes and nothing else.
pub(crate) struct Listening {
    socket: Socket,
}

impl Listening {
    /// The next connection.
    #[track_caller]
    pub(crate) fn accept(&self) -> super::Peer {
        self.socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
        super::Peer::new(self.socket.accept().unwrap().0).unwrap()
    }
}

/// An address that answers nothing: its backlog is full, so the kernel drops each SYN.
pub(crate) struct BlackHole {
    socket: Socket,
    /// The connections that fill the backlog.
    fill: Vec<Socket>,
}

impl BlackHole {
    /// A listening socket whose backlog is full.
    pub(crate) fn new() -> Self {
        let socket = bound();
        socket.listen(0).unwrap();
        let target = socket.local_addr().unwrap();
        let mut fill = Vec::new();
        loop {
            let next = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if next.connect_timeout(&target, ms(60)).is_err() {
                return Self { socket, fill };
            }
            fill.push(next);
            assert!(fill.len() < 16, "this kernel's backlog cannot be filled");
        }
    }

    /// The address for the configuration.
    pub(crate) fn address(&self) -> String {
        address(&self.socket)
    }

    /// How many connections of the process `pid` are being opened towards it.
    pub(crate) fn dials_of(&self, pid: u32) -> usize {
        let own = self.socket.local_addr().unwrap().as_socket().unwrap();
        let dials = procfs::tcp_sockets(pid, Some(procfs::SYN_SENT));
        dials.iter().filter(|socket| socket.remote == own).count()
    }

    /// Takes what is in the backlog, so that it answers from now on; gives the listening socket.
    pub(crate) fn open(self) -> Listening {
        for _ in &self.fill {
            self.socket.accept().unwrap();
        }
        self.socket.listen(128).unwrap();
        Listening { socket: self.socket }
    }
}

fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket
}

fn address(socket: &Socket) -> String {
    socket.local_addr().unwrap().as_socket().unwrap().to_string()
}
