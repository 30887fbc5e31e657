//! The commands that end by themselves.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::log::Log;
use super::setup::Scratch;
use super::{PATIENCE, eventually, ms, pause};

/// What a command wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; -1 for a signal.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary with these arguments in an empty directory.
#[track_caller]
pub(crate) fn tidegate(arguments: &[&str]) -> Outcome {
    tidegate_with(arguments, &[])
}

/// As [`tidegate`], with environment variables.
#[track_caller]
pub(crate) fn tidegate_with(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let scratch = Scratch::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("TIDEGATE_CONFIG").env_remove("RUST_LOG");
    command.envs(environment.iter().copied()).current_dir(scratch.path());
    outcome(command)
}

/// Runs `tidegate check` on a file of this text.
#[track_caller]
pub(crate) fn check(text: impl AsRef<[u8]>) -> Outcome {
    let scratch = Scratch::new();
    let file = scratch.write("tidegate.yaml", text);
    let mut outcome = tidegate(&["check", "-c", &file]);
    outcome.stderr = outcome.stderr.replace(&file, "FILE");
    outcome
}

#[track_caller]
fn outcome(mut command: Command) -> Outcome {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (out, err) = (Log::default(), Log::default());
    out.collect(child.stdout.take().unwrap());
    err.collect(child.stderr.take().unwrap());
    let start = Instant::now();
    let status = loop {
        let over = start.elapsed() > PATIENCE;
        if over {
            let _ = child.kill();
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(!over, "it did not end: {}{}", out.tail(), err.tail());
            break status;
        }
        pause(ms(2));
    };
    eventually(PATIENCE, "its output ends", || out.is_complete() && err.is_complete());
    let code = status.code().unwrap_or(-1);
    Outcome { code, stdout: out.whole(), stderr: err.whole() }
}
