//! The admin endpoint of the process: bound once, kept over reloads, passed on at an upgrade.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::admin::{self, Options, Token};
use crate::config::model::Admin;
use crate::net::addr::Address;
use crate::net::file;
use crate::net::listen::{Bound, SocketPath, address_of};

/// Bytes of a token's file that are read.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// The endpoint, and what a reload is about to do with it.
#[derive(Debug)]
pub(super) struct Endpoint {
    open: Option<Opened>,
    next: Option<Next>,
    /// What serves is told here; dropped to end it.
    tell: Option<watch::Sender<Option<admin::Endpoint>>>,
}

/// What is open.
#[derive(Debug)]
struct Opened {
    /// As the configuration has it.
    wanted: Address,
    address: Address,
    socket: Arc<OwnedFd>,
    /// The file of a unix socket.
    path: Option<SocketPath>,
    options: Arc<Options>,
}

/// What a reload is about to do.
#[derive(Debug)]
enum Next {
    /// Off.
    Close,
    /// The same socket, other options.
    Keep(Arc<Options>),
    /// Another socket.
    Open(Box<Opened>),
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Its address could not be listened on.
    #[error("admin.bind: cannot listen on {address}: {error}{}", advice(error))]
    Bind {
        /// Where it was to be bound.
        address: Address,
        /// What the kernel said.
        error: io::Error,
    },
    /// The file of the token cannot be read.
    #[error("admin.token_file: cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no token in it.
    #[error("admin.token_file: {}: {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there (ss -ltnxp shows which): give admin.bind another address"
        }
        io::ErrorKind::AddrNotAvailable => "; this host has no such address",
        io::ErrorKind::NotFound => "; make its directory first",
        _ => "",
    }
}

impl Endpoint {
    /// Binds the endpoint, or takes over the one that was bound to the same address, and gives what
    /// serves it what it is told by, with [`open_up`](Self::open_up). Blocks: the file of the token is
    /// read.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    pub(super) fn open(
        admin: Option<&Admin>,
        inherited: Option<(String, OwnedFd)>,
    ) -> Result<(Self, watch::Receiver<Option<admin::Endpoint>>), AdminError> {
        let open = match admin {
            None => None,
            Some(admin) => {
                let options = options(admin)?;
                let same = inherited.filter(|(wanted, _)| *wanted == admin.bind.to_string());
                let opened = match same {
                    Some((_, socket)) => Opened::take_over(admin, socket, options),
                    None => Opened::bind(admin, options),
                };
                Some(opened?)
            }
        };
        let (tell, told) = watch::channel(None);
        Ok((Self { open, next: None, tell: Some(tell) }, told))
    }

    /// Where it is bound.
    pub(super) fn address(&self) -> Option<Address> {
        self.open.as_ref().map(|open| open.address.clone())
    }

    /// Begins to serve.
    pub(super) fn open_up(&self) {
        if let Some(tell) = &self.tell {
            tell.send_replace(self.open.as_ref().map(Opened::served));
            self.announce();
        }
    }

    /// Says where it is.
    fn announce(&self) {
        if let Some(open) = &self.open {
            info!(address = %open.address, with_token = open.options.token.is_some(),
                "the admin endpoint is open");
        }
    }

    /// The socket, to be passed on to another process, and the address it was configured by.
    pub(super) fn passed(&self) -> Option<(String, Arc<OwnedFd>)> {
        self.open.as_ref().map(|open| (open.wanted.to_string(), Arc::clone(&open.socket)))
    }

    /// Another process has it: serves no more, and leaves its file alone.
    pub(super) fn leave(&mut self) {
        if let Some(open) = self.open.as_mut() {
            open.path.take().into_iter().for_each(SocketPath::leave);
        }
        self.close();
    }

    /// Serves no more.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.tell = None;
    }

    /// Gets ready what `admin` asks for; nothing is in force yet. Blocks as [`open`](Self::open) does.
    pub(super) fn prepare(&mut self, admin: Option<&Admin>) -> Result<(), AdminError> {
        let next = match (admin, &self.open) {
            (None, _) => Next::Close,
            (Some(admin), Some(open)) if admin.bind == open.wanted => Next::Keep(options(admin)?),
            (Some(admin), _) => Next::Open(Box::new(Opened::bind(admin, options(admin)?)?)),
        };
        self.next = Some(next);
        Ok(())
    }

    /// Puts in force what was prepared.
    pub(super) fn commit(&mut self) {
        match self.next.take() {
            None => return,
            Some(Next::Close) => {
                if self.open.take().is_some() {
                    info!("the admin endpoint is closed");
                }
            }
            Some(Next::Keep(options)) => {
                if let Some(open) = &mut self.open {
                    open.options = options;
                }
            }
            Some(Next::Open(opened)) => {
                self.open = Some(*opened);
                self.announce();
            }
        }
        if let Some(tell) = &self.tell {
            tell.send_replace(self.open.as_ref().map(Opened::served));
        }
    }

    /// Lets go of what was prepared.
    pub(super) fn abandon(&mut self) {
        self.next = None;
    }
}

impl Opened {
    fn bind(admin: &Admin, options: Arc<Options>) -> Result<Self, AdminError> {
        let bound = admin::bind(&admin.bind);
        Self::of(admin, bound, options)
    }

    fn take_over(
        admin: &Admin,
        socket: OwnedFd,
        options: Arc<Options>,
    ) -> Result<Self, AdminError> {
        let address = address_of(&socket).unwrap_or_else(|| admin.bind.clone());
        Self::of(admin, admin::take_over(address, socket), options)
    }

    fn of(
        admin: &Admin,
        bound: io::Result<Bound>,
        options: Arc<Options>,
    ) -> Result<Self, AdminError> {
        let wanted = admin.bind.clone();
        let socket = bound.and_then(|Bound { address, sockets, path }| {
            let socket = sockets.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
            Ok((address, socket, path))
        });
        match socket {
            Ok((address, socket, path)) => Ok(Self { wanted, address, socket, path, options }),
            Err(error) => Err(AdminError::Bind { address: wanted, error }),
        }
    }

    fn served(&self) -> admin::Endpoint {
        admin::Endpoint {
            socket: Arc::clone(&self.socket),
            address: self.address.clone(),
            options: Arc::clone(&self.options),
        }
    }
}

/// Who may ask, with the token from its file.
fn options(admin: &Admin) -> Result<Arc<Options>, AdminError> {
    let token = admin.token_file.as_deref().map(token).transpose()?;
    let (hosts, public_metrics) = (admin.hosts.clone(), admin.public_metrics);
    Ok(Arc::new(Options { token, hosts, public_metrics }))
}

fn token(path: &Path) -> Result<Token, AdminError> {
    let content = file::read(path, MAX_TOKEN_BYTES)
        .map_err(|error| AdminError::Unreadable { path: path.to_owned(), error })?;
    Token::new(&content).map_err(|problem| AdminError::Token { path: path.to_owned(), problem })
}
