//! The data path.
//!
//! ```text
//! accept ─► limits ─► connect: pick ─► lease ─► dial, again elsewhere ─► relay ─► record
//! accept.rs           connect.rs                                   net/relay.rs   ending.rs
//! ```
//!
//! `connection.rs` holds the line itself. Each thread is a worker (`worker.rs`) with its own
//! runtime; a connection lives and dies on one of them.

mod accept;
mod connect;
mod connection;
mod judge;
pub mod sources;
mod worker;

pub use accept::Socket;
pub use worker::{Alive, Fleet, Inbox, Order, Shared, start};
