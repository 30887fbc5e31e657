//! The old process's side: a new one is started, and either serves or is ended.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use super::books::Elders;
use super::{
    Answer, FORMAT, Offer, OfferedDoor, PATIENCE, VARIABLE, VERSION, read_message, write_message,
};
use crate::health::Saved;
use crate::metrics::Tally;
use crate::net::addr::Address;
use crate::net::pass;

/// How long one that has given up may take to say why and end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A door to be passed on.
#[derive(Clone, Debug)]
pub(in crate::process) struct Passed {
    pub(in crate::process) listener: String,
    pub(in crate::process) wanted: Address,
    pub(in crate::process) address: Address,
    pub(in crate::process) sockets: Vec<Arc<OwnedFd>>,
    pub(in crate::process) is_lent: bool,
}

/// All that is passed on.
#[derive(Debug)]
pub(in crate::process) struct Estate {
    pub(in crate::process) doors: Vec<Passed>,
    pub(in crate::process) admin: Option<(String, Arc<OwnedFd>)>,
    pub(in crate::process) state: Saved,
    pub(in crate::process) counted: Tally,
}

/// Why another process did not take over. This one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The binary could not be started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// The new process has ended before it served.
    #[error("the new process has ended before it served{0}; what it said is in the log above")]
    Ended(String),
    /// It did not serve in time, and was ended.
    #[error("the new process did not serve within {}s, and was ended", PATIENCE.as_secs())]
    TimedOut,
    /// Talking to it failed.
    #[error("the new process could not be talked to: {0}")]
    Talk(io::Error),
    /// This process is being ended.
    #[error("this process is about to end")]
    Ending,
}

/// The new process, which serves: the doors it accepts at, by their place among those passed on.
#[derive(Debug)]
pub(in crate::process) struct Successor {
    pub(in crate::process) pid: u32,
    pub(in crate::process) taken: Vec<usize>,
    /// Where it is told what is still counted here.
    pub(in crate::process) channel: UnixStream,
}

/// A new process on its way to serve.
#[derive(Debug)]
pub(in crate::process) struct Attempt {
    channel: UnixStream,
    done: JoinHandle<Result<Successor, UpgradeError>>,
}

impl Attempt {
    /// Starts the binary anew. Must be called on a runtime.
    ///
    /// # Errors
    ///
    /// No socket could be made.
    pub(in crate::process) fn start(estate: Estate, elders: Elders) -> Result<Self, UpgradeError> {
        let (near, far) = UnixStream::pair().map_err(UpgradeError::Talk)?;
        let channel = near.try_clone().map_err(UpgradeError::Talk)?;
        let start = move || start_successor(near, far.into(), &estate, &elders);
        Ok(Self { channel, done: tokio::task::spawn_blocking(start) })
    }

    /// Waits until the new process serves, for [`PATIENCE`] at most. Cancel safe.
    ///
    /// # Errors
    ///
    /// Why it does not; it has ended.
    pub(in crate::process) async fn done(&mut self) -> Result<Successor, UpgradeError> {
        (&mut self.done).await.unwrap_or(Err(UpgradeError::Ending))
    }

    /// Ends the new process: nobody is to serve any more.
    pub(in crate::process) async fn abandon(mut self) {
        let _ = self.channel.shutdown(Shutdown::Both);
        let served = self.done().await.ok();
        // It has begun to serve in this very moment: it drains too.
        if let Some(pid) = served.and_then(|new| Pid::from_raw(new.pid.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// The binary at the path by which this one was started: a link may lead elsewhere by now, and what runs may
/// have been moved aside. Started by a name alone, or with nothing there any more, it is the one that runs.
fn program() -> io::Result<String> {
    let called = std::env::args_os().next().map(PathBuf::from);
    let called = called.filter(|path| path.components().count() > 1 && path.is_file());
    let path = called.map_or_else(std::env::current_exe, Ok)?;
    // A binary that was replaced is shown with this mark; the new one is at the same path.
    Ok(path.to_string_lossy().trim_end_matches(" (deleted)").to_owned())
}

/// Starts the binary anew and waits until it serves. Blocks, for [`PATIENCE`] at most.
fn start_successor(
    near: UnixStream,
    far: OwnedFd,
    estate: &Estate,
    elders: &Elders,
) -> Result<Successor, UpgradeError> {
    let path = program()
        .map_err(|error| UpgradeError::Start { program: "this program".to_owned(), error })?;
    let child = Command::new(&path)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        // The watchdog watches whoever says that it is the main process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(far))
        .spawn();
    let child = child.map_err(|error| UpgradeError::Start { program: path, error })?;
    let mut child = Started(Some(child));
    // From here on nobody but the new one hears them, if it serves.
    let mut elders = elders.lock();
    match negotiate(&near, estate, &elders) {
        Ok(answer) => {
            elders.clear();
            Ok(Successor { pid: child.keep(), taken: answer.taken, channel: near })
        }
        Err(error) if is_timeout(&error) => Err(UpgradeError::TimedOut),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || is_broken(&error) => {
            Err(UpgradeError::Ended(child.how_it_ended()))
        }
        Err(error) => Err(UpgradeError::Talk(error)),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A process that was started; unless it is kept, it ends with this.
struct Started(Option<Child>);

impl Started {
    /// Lets it live; its number.
    fn keep(&mut self) -> u32 {
        self.0.take().map_or(0, |child| child.id())
    }

    fn how_it_ended(&mut self) -> String {
        let status = self.0.as_mut().and_then(|child| {
            // It has closed its end, so it is about to end: once it has said why.
            for _ in 0..LAST_WORDS.as_millis() / 10 {
                if let Ok(Some(status)) = child.try_wait() {
                    return Some(status);
                }
                pause();
            }
            let _ = child.kill();
            child.wait().ok()
        });
        status.map_or_else(String::new, |status| format!(" ({status})"))
    }
}

#[expect(clippy::disallowed_methods, reason = "on a thread that blocks anyhow")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(super) fn negotiate(
    near: &UnixStream,
    estate: &Estate,
    elders: &[Arc<UnixStream>],
) -> io::Result<Answer> {
    near.set_read_timeout(Some(PATIENCE))?;
    near.set_write_timeout(Some(PATIENCE))?;
    let door = |door: &Passed| OfferedDoor {
        listener: door.listener.clone(),
        wanted: door.wanted.to_string(),
        address: door.address.to_string(),
        sockets: door.sockets.len(),
        is_lent: door.is_lent,
    };
    let offer = Offer {
        format: FORMAT.into(),
        version: VERSION,
        doors: estate.doors.iter().map(door).collect(),
        admin: estate.admin.as_ref().map(|(address, _)| address.clone()),
        elders: elders.len(),
        state: estate.state.clone(),
        counted: estate.counted.clone(),
    };
    write_message(near, &offer)?;
    let sockets = estate.doors.iter().flat_map(|door| &door.sockets);
    let admin = estate.admin.iter().map(|(_, socket)| socket);
    let elders = elders.iter().map(|elder| elder.as_fd());
    let sockets = sockets.chain(admin).map(|socket| socket.as_fd());
    let all: Vec<BorrowedFd<'_>> = sockets.chain(elders).collect();
    pass::send(near, &all)?;
    read_message(near)
}
