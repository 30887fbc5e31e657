//! tidegate in front of real servers.
//!
//! Each test looks for the programs it needs and says `SKIPPED` when one is absent. With
//! `TIDEGATE_REQUIRE_REAL=1`, which `.ci/run` sets after it has installed them, that is a failure.

#[path = "../suite/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the suite; this uses a part of it")]
mod support;

mod http;
mod nginx;
mod php;
mod postgres;
mod redis;
mod server;
