//! A program run by this process: arguments as they are, a process group of its own, output by a pipe.
//!
//! No shell, and nothing inherited: standard input is `/dev/null`, and all other descriptors of
//! ours are closed when the program starts. What it starts itself belongs to its group.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::AsyncReadExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use super::sys;

/// Most bytes of output that are read at once.
const CHUNK: usize = 16 * 1024;

/// Rest after a full chunk: a program that floods its output may cost no more than a few percent of
/// a core. It waits meanwhile, as for any slow reader.
const REST: Duration = Duration::from_millis(1);

/// What a service manager tells its service by the environment, and nobody else.
const NOT_INHERITED: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// A program that runs. Dropping it kills its process group; it never stays a zombie.
#[derive(Debug)]
pub struct Child {
    child: tokio::process::Child,
    /// Readable once the program has ended, reaped or not.
    end: AsyncFd<OwnedFd>,
    /// Standard output and error; `None` after their end.
    output: Option<Receiver>,
    chunk: Vec<u8>,
}

impl Child {
    /// Starts `argv`, whose first is the program, looked up in `PATH` if it has no slash.
    ///
    /// The environment is ours, with `variables` added. Costs a `vfork`, not a copy of our memory.
    /// Needs Linux 5.3 (`pidfd_open`), a runtime with I/O, and with that its signal driver.
    ///
    /// # Errors
    ///
    /// What the kernel says about the program, or a shortage of this host (see [`is_shortage`]).
    pub fn start<'a>(
        argv: &[String],
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        for (name, value) in variables {
            // A NUL ends a C string: a variable with one would be refused.
            command.env(name, value.replace('\0', "\u{fffd}"));
        }
        let child = command.spawn()?;
        // Before anything else can fail: its end of the pipe is the only one.
        drop(command);
        let pid = pid_of(&child).ok_or(io::ErrorKind::NotFound)?;
        let end = sys::register(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)?;
        let output = Some(Receiver::from_owned_fd(reader.into())?);
        Ok(Self { child, end, output, chunk: vec![0; CHUNK] })
    }

    /// Waits until the program has ended, and gives what it writes to `sink` meanwhile.
    ///
    /// What it has started may go on and hold the pipe open: that is not waited for. The program is
    /// not reaped yet, so its process group can still be killed. Cancel safe.
    pub async fn ended(&mut self, mut sink: impl FnMut(&[u8])) {
        loop {
            tokio::select! {
                biased;
                _ = self.end.readable() => break,
                is_full = read(&mut self.output, &mut self.chunk, &mut sink) => {
                    if is_full {
                        tokio::time::sleep(REST).await;
                    }
                }
            }
        }
        self.take_rest(sink);
    }

    /// What was written before the end and not yet read: no more than a pipe holds.
    fn take_rest(&mut self, mut sink: impl FnMut(&[u8])) {
        const PIPE: usize = 64 * 1024;
        let Some(output) = &self.output else { return };
        for _ in 0..PIPE / CHUNK {
            match output.try_read(&mut self.chunk) {
                Ok(count @ 1..) => sink(&self.chunk[..count]),
                _ => return,
            }
        }
    }

    /// Asks the whole process group to end (`SIGTERM`).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills the whole process group (`SIGKILL`).
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Only before the program is reaped: until then its number belongs to nobody else.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = pid_of(&self.child) {
            // It fails when the whole group is gone, which is what is wanted.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// How the program ended. What it has started and not ended itself goes on.
    ///
    /// Waits for the end, without reading output. Cancel safe.
    ///
    /// # Errors
    ///
    /// None that is known; what the kernel says.
    pub async fn reap(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid_of(child: &tokio::process::Child) -> Option<Pid> {
    child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
}

/// Reads once; whether that filled the chunk. Never ends after the end of the output.
async fn read(
    output: &mut Option<Receiver>,
    chunk: &mut [u8],
    sink: &mut impl FnMut(&[u8]),
) -> bool {
    let Some(pipe) = output else { return std::future::pending().await };
    match pipe.read(chunk).await {
        Ok(count @ 1..) => {
            sink(&chunk[..count]);
            count == chunk.len()
        }
        _ => {
            *output = None;
            false
        }
    }
}

/// Whether starting a program failed for want of something on this host: processes, descriptors,
/// memory. Then the program said nothing.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

/// Makes every descriptor that is open now, but the standard three, close when a program is started.
///
/// All that this crate opens does so by itself. This is for what the process was born with: call it
/// once, early, before other threads run. Kernels before 5.11 do not know how; nothing is changed
/// then.
///
/// # Errors
///
/// What the kernel says.
pub fn inherit_nothing() -> io::Result<()> {
    sys::close_on_exec_from(3)
}

#[cfg(test)]
mod tests;
