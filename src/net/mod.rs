//! Bytes, sockets and programs that are run. Nothing in here knows a pool, a policy or a strategy.

pub mod addr;
pub mod caught;
pub mod child;
pub mod cidr;
pub mod client_hello;
pub mod clock;
pub mod dial;
pub mod drive;
pub mod file;
pub mod listen;
pub mod name;
pub mod pass;
pub mod pipe;
pub mod proxy_protocol;
pub mod reactor;
pub mod relay;
pub mod resolve;
pub mod stream;
mod sys;
pub mod throttle;
