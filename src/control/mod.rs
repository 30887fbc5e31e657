//! The control plane: the single writer of all health and failover state.

pub mod event;
pub mod handle;
