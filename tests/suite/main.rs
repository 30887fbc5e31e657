//! The program from outside: the real binary, real sockets, scripted peers.
//!
//! Needs neither root nor a network; what needs more says so and is skipped. Every port is free by
//! the kernel's choice. `TIDEGATE_TEST_THREADS` sets the program's worker threads (4 unless set);
//! the suite is to pass with 1 as well. `TIDEGATE_TEST_RELAY=direct` runs the relay tests without
//! a balancer: a test that fails then is wrong itself.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests talk to real sockets and real time, from threads"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "that is how tests fail"
)]
#![allow(clippy::cast_possible_truncation, reason = "the numbers here are small")]

mod accept;
mod access_log;
mod admin;
mod balancing;
mod cli;
mod config_errors;
mod connect;
mod descriptors;
mod drill;
mod ending;
mod guard;
mod health;
mod limits;
mod metrics;
mod names;
mod regression;
mod relay;
mod reload;
mod support;
mod systemd;
mod timeouts;
mod top;
mod upgrade;
