//! Passes when a connection is accepted, by the kernel at least.
//!
//! A process that hangs while its kernel still accepts passes: what finds it needs an answer, as
//! `http` and `send_expect` do. On this host the connection is there when the call returns, and the
//! check waits for nothing: four system calls.

use super::socket::Socket;
use super::{Built, Entry, Outcome, Probe, Progress, Roots, Running, Target};
use crate::config::model;

pub(super) const ENTRY: Entry = Entry { name: "tcp", summary: "a connection is accepted", build };

#[derive(Debug)]
struct Tcp;

fn build(options: &model::Probe, _: &Roots) -> Option<Built> {
    matches!(options, model::Probe::Tcp).then(|| Ok(Box::new(Tcp) as Box<dyn Probe>))
}

impl Probe for Tcp {
    fn run<'a>(&'a self, target: &'a Target, _: &'a Progress) -> Running<'a> {
        Box::pin(async move {
            match Socket::connect(target, false).await {
                Ok(_reset_when_dropped) => Outcome::Pass,
                Err(outcome) => outcome,
            }
        })
    }
}
