//! The composition root: starts the data path, waits for signals, stops in order.

mod doors;
mod host;
mod limits;
mod server;
mod signals;
mod systemd;
mod upgrade;

pub use crate::control::reload::{LoadError, Source};
pub use doors::BindError;
pub use server::{Server, StartError};
pub use signals::Signals;
pub use upgrade::{Inheritance, UpgradeError};
