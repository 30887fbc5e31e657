//! The data path.
//!
//! ```text
//! accept ─► limits ─► opening ─► connect: pick ─► lease ─► dial, again elsewhere ─► relay ─► record
//! accept.rs           opening.rs  connect.rs                              net/relay.rs  connection.rs
//! ```
//!
//! `connection.rs` holds the line itself. Each thread is a worker (`worker.rs`) with its own
//! reactor; a connection lives and dies on one of them.

mod accept;
mod connect;
mod connection;
mod judge;
mod logged;
mod opening;
mod worker;

pub use accept::Socket;
pub use worker::{Alive, Fleet, Inbox, Order, Shared, start};
