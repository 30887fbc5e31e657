//! One attempt of an action that is a program.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{ActionResult, Occasion, OrStopped, Stopped, late};
use crate::config::model::{ExecAction, Values, expand};
use crate::net::child::Child;
use crate::probe::{host_and_port, text};

/// Time between `SIGTERM` and `SIGKILL`.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Runs the program once. What it started and left behind when it ended in time goes on: a repair
/// may be to start something. At the end of its time, or when stopped, its whole process group ends.
pub(super) async fn attempt(
    exec: &ExecAction,
    occasion: &Occasion,
    output: &mut Output,
    stop: &CancellationToken,
) -> OrStopped<(ActionResult, String)> {
    let mut child = match start(exec, occasion) {
        Ok(child) => child,
        Err(error) => {
            let program = exec.command.first().map_or("", String::as_str);
            return Ok((ActionResult::Failure, format!("cannot run {program:?}: {error}")));
        }
    };
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        ended = tokio::time::timeout(exec.timeout, child.ended(|b| output.feed(b, occasion))) => {
            Some(ended.is_ok())
        }
    };
    if ended != Some(true) {
        end_all(&mut child, output, occasion).await;
    }
    let status = child.reap().await;
    let how = match (ended, status) {
        (Some(true), Ok(status)) if status.success() => {
            return Ok((ActionResult::Success, output.end_attempt(&text::exit(status), occasion)));
        }
        (Some(true), Ok(status)) => text::exit(status),
        (Some(true), Err(error)) => format!("cannot learn how the program ended: {error}"),
        (Some(false), _) => {
            let how = output.end_attempt(&late(exec.timeout, ""), occasion);
            return Ok((ActionResult::Timeout, how));
        }
        (None, _) => return Err(Stopped),
    };
    Ok((ActionResult::Failure, output.end_attempt(&how, occasion)))
}

/// Asks the process group to end, and kills what is left of it after the grace.
async fn end_all(child: &mut Child, output: &mut Output, occasion: &Occasion) {
    child.terminate();
    let ended = child.ended(|bytes| output.feed(bytes, occasion));
    // In either case: the program may have ended while others of its group have not.
    let _ = tokio::time::timeout(GRACE, ended).await;
    child.kill();
}

/// The program and its arguments as they are run.
pub(super) fn command(exec: &ExecAction, occasion: &Occasion) -> Vec<String> {
    let (host, port) = host_and_port(&occasion.address);
    let values = values(occasion, (&host, &port));
    exec.command.iter().map(|part| expand(part, &values)).collect()
}

fn values<'a>(occasion: &'a Occasion, (host, port): (&'a str, &'a str)) -> Values<'a> {
    Values {
        pool: &occasion.pool,
        backend: &occasion.backend,
        host,
        port,
        event: occasion.event.as_str(),
        cause: &occasion.cause,
    }
}

fn start(exec: &ExecAction, occasion: &Occasion) -> std::io::Result<Child> {
    let (host, port) = host_and_port(&occasion.address);
    let values = values(occasion, (&host, &port));
    let argv = command(exec, occasion);
    let variables = [
        ("TIDEGATE_POOL", values.pool),
        ("TIDEGATE_BACKEND", values.backend),
        ("TIDEGATE_HOST", values.host),
        ("TIDEGATE_PORT", values.port),
        ("TIDEGATE_EVENT", values.event),
        ("TIDEGATE_CAUSE", values.cause),
        ("TIDEGATE_EVIDENCE", &occasion.evidence),
    ];
    Child::start(&argv, variables)
}
