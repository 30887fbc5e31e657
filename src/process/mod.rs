//! The composition root: starts the data path, waits for signals, stops in order.

mod limits;
mod server;
mod signals;

pub use server::{Server, StartError};
pub use signals::Signals;
