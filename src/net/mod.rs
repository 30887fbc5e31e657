//! Bytes, sockets and programs that are run. Nothing in here knows a pool, a policy or a strategy.

pub mod addr;
pub mod child;
pub mod clock;
pub mod dial;
pub mod drive;
pub mod listen;
pub mod pass;
pub mod pipe;
pub mod reactor;
pub mod relay;
pub mod stream;
mod sys;
