//! Runs a program; passes when it ends with 0.
//!
//! Arguments as they are, no shell. The program learns what to check by `{pool} {backend} {host}
//! {port}` and `TIDEGATE_POOL`, `_BACKEND`, `_HOST`, `_PORT`. The last line that it writes, to either
//! output, says why it failed. At the end of the check, and of its time, its whole process group is
//! killed: a check leaves nothing behind.

use super::text::{LastLine, exit};
use super::{Built, Entry, Outcome, Probe, Progress, Roots, Running, Target};
use crate::config::model::{self, Values, expand};
use crate::net::child::{Child, is_shortage};

pub(super) const ENTRY: Entry = Entry { name: "exec", summary: "a program ends with 0", build };

#[derive(Debug)]
struct Exec {
    command: Vec<String>,
}

fn build(options: &model::Probe, _: &Roots) -> Option<Built> {
    let model::Probe::Exec(options) = options else { return None };
    Some(Ok(Box::new(Exec { command: options.command.clone() })))
}

impl Probe for Exec {
    fn run<'a>(&'a self, target: &'a Target, progress: &'a Progress) -> Running<'a> {
        Box::pin(self.check(target, progress))
    }
}

impl Exec {
    async fn check(&self, target: &Target, progress: &Progress) -> Outcome {
        progress.set("waiting for the program to end");
        let mut child = match self.start(target) {
            Ok(child) => child,
            Err(error) if is_shortage(&error) => {
                return Outcome::Unjudged(format!("cannot start a program: {error}"));
            }
            Err(error) => {
                let program = self.command.first().map_or("", String::as_str);
                return Outcome::Fail(format!("cannot run {program:?}: {error}"));
            }
        };
        let mut last = LastLine::default();
        child
            .ended(|bytes| {
                last.feed(bytes);
                if let Some(line) = last.text() {
                    progress.set(format!("waiting for the program to end, which said: {line}"));
                }
            })
            .await;
        child.kill();
        match child.reap().await {
            Ok(status) if status.success() => Outcome::Pass,
            Ok(status) => Outcome::Fail(last.after(&exit(status))),
            Err(error) => Outcome::Unjudged(format!("cannot learn how the program ended: {error}")),
        }
    }

    fn start(&self, target: &Target) -> std::io::Result<Child> {
        let (host, port) = target.host_and_port();
        let values = Values {
            pool: &target.pool,
            backend: &target.backend,
            host: &host,
            port: &port,
            ..Values::default()
        };
        let argv: Vec<_> = self.command.iter().map(|part| expand(part, &values)).collect();
        let variables = [
            ("TIDEGATE_POOL", values.pool),
            ("TIDEGATE_BACKEND", values.backend),
            ("TIDEGATE_HOST", values.host),
            ("TIDEGATE_PORT", values.port),
        ];
        Child::start(&argv, variables)
    }
}

#[cfg(test)]
mod tests;
