//! The composition root: starts the data path, waits for signals, stops in order.

mod limits;
mod server;
mod signals;
mod warnings;

pub use server::{Server, StartError};
pub use signals::Signals;
pub use warnings::warnings;
