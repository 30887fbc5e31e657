//! tidegate in front of real servers.
//!
//! Each test looks for the programs it needs and says `SKIPPED` when one is absent. With
//! `TIDEGATE_REQUIRE_REAL=1`, which `.ci/run` sets after it has installed them, that is a failure.

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

#[path = "../suite/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the suite; this uses a part of it")]
mod support;

mod http;
mod nginx;
mod php;
mod postgres;
mod prometheus;
mod redis;
mod server;
mod swoole;
