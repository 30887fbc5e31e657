//! The listening sockets of the process: bound once, kept over reloads, passed on at an upgrade.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};

use super::upgrade::{Inheritance, Passed, Taken};
use crate::net::addr::Address;
use crate::net::listen::{Bound, SocketPath, bind_all, set_options, take_over};
use crate::proxy::{Order, Shared, Socket};
use crate::state::{Entrance, Listener, Snapshot};

/// All listening sockets, and what a reload is about to do with them.
#[derive(Debug)]
pub(super) struct Doors {
    threads: usize,
    /// The threads, once they run.
    shared: Option<Arc<Shared>>,
    open: Vec<Opened>,
    next: Option<Next>,
    /// Turns of the threads at sockets that only one of them can have.
    turn: usize,
}

/// An address that is listened on.
#[derive(Debug)]
struct Opened {
    /// As the configuration has it: port 0 stands for one that the kernel chooses.
    wanted: Address,
    /// As it is.
    address: Address,
    entrance: Arc<Entrance>,
    /// With the thread that accepts from it.
    sockets: Vec<(usize, Arc<OwnedFd>)>,
    /// The file of a unix socket.
    path: Option<SocketPath>,
    /// Whether a service manager has opened it, and keeps it.
    is_lent: bool,
}

/// What a reload is about to do.
#[derive(Debug, Default)]
struct Next {
    opened: Vec<Opened>,
    /// Indexes of what stays, and the listener it leads to then.
    kept: Vec<(usize, Arc<Listener>)>,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot listen on {address}: {error}{}", advice(address, error))]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// Where it was to be bound.
    pub address: Address,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

fn advice(address: &Address, error: &io::Error) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Unix(path)) if is_other_file(path) => {
            "; a file that is no socket is there"
        }
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            "; another program listens there (ss -lxp shows which)"
        }
        (io::ErrorKind::AddrInUse, _) => "; another program listens there (ss -ltnp shows which)",
        (io::ErrorKind::PermissionDenied, Address::Tcp(_)) => {
            "; ports under 1024 need CAP_NET_BIND_SERVICE or a lower \
             net.ipv4.ip_unprivileged_port_start"
        }
        (io::ErrorKind::AddrNotAvailable, _) => "; this host has no such address",
        _ => "",
    }
}

fn is_other_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

impl Doors {
    /// Binds every address of `snapshot` that is not inherited, with one socket for each of `threads`
    /// where that can be.
    pub(super) fn open(
        snapshot: &Snapshot,
        threads: usize,
        inheritance: &mut Inheritance,
    ) -> Result<Self, BindError> {
        let (open, next) = (Vec::new(), None);
        let mut doors = Self { threads, shared: None, open, next, turn: 0 };
        for listener in &snapshot.listeners {
            for address in &listener.bind {
                let opened = match inheritance.take(&listener.name, address) {
                    Some(known) => doors.take_over(listener, address, known)?,
                    None => doors.bind(listener, address)?,
                };
                doors.open.push(opened);
            }
        }
        Ok(doors)
    }

    /// Lets the threads accept: the sockets for each of them, in order. What is opened later is for
    /// the threads of `shared`.
    pub(super) fn hand_out(&mut self, shared: Arc<Shared>) -> Vec<Vec<Socket>> {
        let mut each: Vec<Vec<Socket>> = (0..self.threads).map(|_| Vec::new()).collect();
        for opened in &self.open {
            opened.sockets().for_each(|(thread, socket)| each[thread].push(socket));
        }
        self.shared = Some(shared);
        each
    }

    /// Where each listener is bound, ports chosen by the kernel filled in.
    pub(super) fn addresses(&self) -> Vec<(String, Address)> {
        let name = |opened: &Opened| opened.entrance.listener().name.to_string();
        self.open.iter().map(|opened| (name(opened), opened.address.clone())).collect()
    }

    /// Says where is listened.
    pub(super) fn announce(&self, process_limit: u32) {
        self.open.iter().for_each(|opened| opened.announce(process_limit));
    }

    /// Lets go of all sockets, and removes the files of those that have one: the threads have been told to
    /// close them too, and who connects then is refused.
    pub(super) fn let_go(&mut self) {
        self.open.clear();
    }

    fn bind(&mut self, listener: &Arc<Listener>, address: &Address) -> Result<Opened, BindError> {
        let bound = bind_all(address, self.threads, &listener.options).map_err(|error| {
            BindError { listener: listener.name.to_string(), address: address.clone(), error }
        })?;
        Ok(self.opened(listener, address, bound))
    }

    fn take_over(
        &mut self,
        listener: &Arc<Listener>,
        wanted: &Address,
        Taken { address, sockets, is_lent }: Taken,
    ) -> Result<Opened, BindError> {
        let bound =
            take_over(address, sockets, self.threads, &listener.options).map_err(|error| {
                BindError { listener: listener.name.to_string(), address: wanted.clone(), error }
            })?;
        let mut opened = self.opened(listener, wanted, bound);
        opened.is_lent = is_lent;
        if is_lent {
            opened.path.take().into_iter().for_each(SocketPath::leave);
        }
        Ok(opened)
    }

    fn opened(&mut self, listener: &Arc<Listener>, wanted: &Address, bound: Bound) -> Opened {
        let Bound { address, sockets, path } = bound;
        let turn = self.turn;
        self.turn += 1;
        let threads = self.threads;
        let for_thread = |(index, fd)| ((turn + index) % threads, fd);
        Opened {
            wanted: wanted.clone(),
            address,
            entrance: Arc::new(Entrance::new(Arc::clone(listener))),
            sockets: sockets.into_iter().enumerate().map(for_thread).collect(),
            path,
            is_lent: false,
        }
    }

    /// All doors, to be passed on to another process.
    pub(super) fn passed(&self) -> Vec<Passed> {
        let passed = |opened: &Opened| Passed {
            listener: opened.entrance.listener().name.to_string(),
            wanted: opened.wanted.clone(),
            address: opened.address.clone(),
            sockets: opened.sockets.iter().map(|(_, fd)| Arc::clone(fd)).collect(),
            is_lent: opened.is_lent,
        };
        self.open.iter().map(passed).collect()
    }

    /// Another process accepts at the doors of these places: leaves them to it, and closes the rest.
    pub(super) fn leave(&mut self, taken: &[usize]) {
        for (place, mut opened) in std::mem::take(&mut self.open).into_iter().enumerate() {
            if taken.contains(&place) {
                opened.path.take().into_iter().for_each(SocketPath::leave);
            } else {
                self.close(&opened);
            }
        }
        (0..self.threads).for_each(|thread| self.send(thread, Order::Leave));
    }

    /// The index of what is open at `address` of `listener`, and not spoken for.
    fn find(&self, listener: &Listener, address: &Address, taken: &Next) -> Option<usize> {
        let is_chosen = matches!(address, Address::Tcp(tcp) if tcp.port() == 0);
        let is_it = |(index, opened): &(usize, &Opened)| {
            let is_same = opened.entrance.listener().name == listener.name;
            let is_free = !taken.kept.iter().any(|(kept, _)| kept == index);
            opened.wanted == *address && is_free && (is_same || !is_chosen)
        };
        self.open.iter().enumerate().find(is_it).map(|(index, _)| index)
    }

    fn send(&self, thread: usize, order: Order) {
        if let Some(shared) = &self.shared {
            shared.fleet.tell(thread, order);
        }
    }

    fn close(&self, opened: &Opened) {
        info!(listener = %opened.entrance.listener().name, address = %opened.address,
            "no longer listening: what the kernel had queued is served");
        for (thread, fd) in &opened.sockets {
            self.send(*thread, Order::Close(Arc::clone(fd)));
        }
    }
}

impl Opened {
    fn sockets(&self) -> impl Iterator<Item = (usize, Socket)> {
        self.sockets.iter().map(|(thread, fd)| {
            let (entrance, fd) = (Arc::clone(&self.entrance), Arc::clone(fd));
            (*thread, Socket { entrance, fd, is_lent: self.is_lent })
        })
    }

    fn announce(&self, process_limit: u32) {
        let listener = self.entrance.listener();
        let pools: Vec<&str> = listener.pools.iter().map(|pool| &*pool.name).collect();
        let (address, pool) = (&self.address, pools.join(","));
        info!(listener = %listener.name, %address, pool, "listening");
        if listener.max_connections.is_some_and(|limit| limit > process_limit) {
            warn!(
                listener = %listener.name,
                max_connections = listener.max_connections,
                process_limit,
                "the listener's limit cannot be reached: the whole process may open fewer connections"
            );
        }
    }

    /// Gives the sockets the options of a listener that is in force from now on.
    fn renew(&self, listener: &Listener) {
        let is_tcp = matches!(self.address, Address::Tcp(_));
        for (_, fd) in &self.sockets {
            if let Err(error) = set_options(fd, is_tcp, &listener.options) {
                warn!(listener = %listener.name, address = %self.address, %error,
                    "an option of the listening socket could not be changed");
            }
        }
    }
}

impl Doors {
    /// Binds what a reload to `snapshot` adds; nothing is in force yet.
    pub(super) fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), BindError> {
        let mut next = Next::default();
        for listener in &snapshot.listeners {
            for address in &listener.bind {
                match self.find(listener, address, &next) {
                    Some(index) => next.kept.push((index, Arc::clone(listener))),
                    None => {
                        let opened = self.bind(listener, address)?;
                        next.opened.push(opened);
                    }
                }
            }
        }
        self.next = Some(next);
        Ok(())
    }

    /// Opens, closes and leads elsewhere as prepared.
    pub(super) fn commit(&mut self) {
        let Some(Next { opened, kept }) = self.next.take() else { return };
        for (index, listener) in &kept {
            let open = &self.open[*index];
            let was = Arc::clone(&open.entrance.listener());
            open.entrance.lead_to(Arc::clone(listener));
            if was.options != listener.options {
                open.renew(listener);
            }
        }
        let mut rest = std::mem::take(&mut self.open).into_iter().enumerate();
        let is_kept = |index: usize| kept.iter().any(|(kept, _)| *kept == index);
        for (index, open) in rest.by_ref() {
            if is_kept(index) {
                self.open.push(open);
            } else {
                self.close(&open);
            }
        }
        for open in opened {
            open.sockets().for_each(|(thread, socket)| self.send(thread, Order::Open(socket)));
            open.announce(u32::MAX);
            self.open.push(open);
        }
        (0..self.threads).for_each(|thread| self.send(thread, Order::Renew));
    }

    /// Lets go of what was prepared.
    pub(super) fn abandon(&mut self) {
        self.next = None;
    }
}
