//! The composition root: starts the data path, waits for signals, stops in order.

mod access;
mod doors;
mod endpoint;
mod host;
mod limits;
mod server;
mod signals;
mod systemd;
mod upgrade;
mod warnings;

pub use crate::control::reload::{LoadError, Source};
pub use access::AccessError;
pub use doors::BindError;
pub use endpoint::AdminError;
pub use server::{Server, StartError};
pub use signals::Signals;
pub use upgrade::{Inheritance, UpgradeError};
pub use warnings::warnings;
