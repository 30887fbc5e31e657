//! tidegate: a layer-4 TCP load balancer with hot backup and automatic recovery.
//!
//! # The map
//!
//! Folders are layers; imports only go down. `tests/architecture.rs` holds the table.
//!
//! ```text
//!    people               cli                     commands of the binary
//!                          │
//!                       process                   composition root: threads, signals, stop
//!                          │
//!                     ╱         ╲
//!    bytes ──►    proxy         control           data path │ control plane, the only writer
//!                     ╲         ╱
//!                        state                    Snapshot · Pool · Rotation · Backend
//!                          │
//!     config  balance  health  failover         PURE: no I/O, no clock, no randomness
//!
//!                    net ◄── probe                sockets and bytes, checks; know no pool and no policy
//! ```
//!
//! # Reading order
//!
//! `proxy/connection.rs` is the life of a connection in one straight line; each of its lines is a
//! module. `balance/mod.rs` says what a strategy is, `config/model.rs` what can be configured,
//! `health/mod.rs` what is known of a backend, `failover/mod.rs` who is active, `probe/mod.rs` how it is
//! checked, `control/recovery.rs` how it is repaired.

pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod failover;
pub mod health;
pub mod log;
pub mod net;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod state;
