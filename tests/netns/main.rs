//! What a network, a kernel or a user without privileges can do to it, done for real: in a network
//! namespace of its own, by failing system calls with strace, or as an ordinary user.
//!
//! Names in brackets are rows of the failure catalogue this was built by. A test that the machine
//! does not allow says `SKIPPED` and why; with `TIDEGATE_REQUIRE_REAL=1`, which `.ci/run` sets, that
//! is a failure.

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

mod calls;
mod health;
mod hole;
mod ports;
mod reject;
mod starved;
mod transparent;
mod user;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use support::{TestBackend, backend, netns, skipped};

/// Whether the test `name` runs in a namespace of its own; see [`netns::entered`].
#[track_caller]
fn entered(name: &str) -> bool {
    let is_possible = Command::new("unshare").args(["-rn", "ip", "link"]).output();
    if !is_possible.is_ok_and(|output| output.status.success()) {
        return refuse("no user and network namespaces here (unshare -rn ip …)");
    }
    netns::entered(name)
}

/// Whether a program is there to be run.
#[track_caller]
fn has(program: &str, argument: &str) -> bool {
    let is_there = Command::new(program).arg(argument).output().is_ok();
    is_there || refuse(&format!("{program} is not installed"))
}

/// Says why a test cannot run here; fails it where it must.
#[track_caller]
fn refuse(reason: &str) -> bool {
    assert!(std::env::var_os("TIDEGATE_REQUIRE_REAL").is_none(), "{reason}");
    skipped(reason);
    false
}

/// An address of this namespace, where every port is ours.
fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A backend that echoes.
fn echo_on(port: u16) -> TestBackend {
    TestBackend::scripted_on(&local(port).into(), backend::echo)
}
