//! Bytes and sockets. Nothing in here knows a pool, a policy or a strategy.

pub mod addr;
