//! One active check of a backend: a connection, a handshake, a request, or a program.
//!
//! A [`Probe`] is built once from its configuration and asked again and again. It knows no pool, no
//! state and no schedule: it says how one check ended, in words for a person at night. A new kind is
//! a variant of `config::model::Probe`, one file with an `ENTRY`, one line in [`PROBES`] and one row
//! in `docs/probes.md`.
//!
//! Reading order: this file, `tcp.rs` (the shortest), `send_expect.rs`.

mod exec;
mod http;
mod progress;
mod send_expect;
mod socket;
mod target;
mod tcp;
pub mod text;
mod tls;

#[cfg(test)]
mod peer;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use crate::config::model;

pub use http::words as http_words;
pub use progress::Progress;
pub use target::{Target, host_and_port};
pub use tls::{Roots, client_config, words as tls_words};

/// Every kind of probe, in the order of the documentation. The only such list.
pub const PROBES: &[Entry] =
    &[tcp::ENTRY, tls::ENTRY, http::ENTRY, send_expect::ENTRY, exec::ENTRY];

/// One row of the table of probes.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in the configuration.
    pub name: &'static str,
    /// One line for the documentation.
    pub summary: &'static str,
    /// Builds it; `None` for the options of another kind.
    pub build: fn(&model::Probe, &Roots) -> Option<Built>,
}

/// A probe, or what cannot be made of its options, in words.
pub type Built = Result<Box<dyn Probe>, String>;

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Pass,
    /// The backend's kernel refused at once.
    Refused,
    /// In any other way, silence included; how, in words.
    Fail(String),
    /// This host could not make the check: descriptors, ports, memory, a security policy. It says
    /// nothing about the backend; what was missing, in words.
    Unjudged(String),
}

/// A check under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Makes checks of one kind.
pub trait Probe: fmt::Debug {
    /// Begins a check of `target`, without a limit of time; tells `progress` what it waits for.
    ///
    /// Nothing happens before the future is polled, on a current-thread runtime with I/O and time.
    /// Dropping it ends the check: its connection is reset, its program killed.
    fn run<'a>(&'a self, target: &'a Target, progress: &'a Progress) -> Running<'a>;
}

/// Builds the probe of a configuration.
///
/// `roots` are read when the first probe needs them: one for all probes of a configuration.
///
/// # Errors
///
/// What cannot be made of the options, in words.
pub fn build(options: &model::Probe, roots: &Roots) -> Built {
    let built = PROBES.iter().find_map(|entry| (entry.build)(options, roots));
    built.unwrap_or_else(|| Err(format!("no probe is called {options:?}")))
}

/// Makes one check, which may take `timeout` in all: connect, handshake and answer together.
///
/// When the time is over the check is a failure that says what was waited for. Cancel safe: see
/// [`Probe::run`].
pub async fn check(probe: &dyn Probe, target: &Target, timeout: Duration) -> Outcome {
    let progress = Progress::default();
    let done = tokio::time::timeout(timeout, probe.run(target, &progress)).await;
    done.unwrap_or_else(|_| {
        let after = text::duration(timeout);
        Outcome::Fail(format!("timed out after {after} while {progress}"))
    })
}

#[cfg(test)]
mod tests;
