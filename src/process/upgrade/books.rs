//! The counters go on: a process that drains tells the one that serves what it still counts.

use std::convert::Infallible;
use std::io;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use tracing::{info, warn};

use super::{PATIENCE, read_message, write_message};
use crate::control::Handle;
use crate::metrics::{Ledger, Tally};
use crate::process::host::Held;

/// How often it is told what was counted: no scrape is as frequent.
const EVERY: Duration = Duration::from_millis(250);

/// The thread that tells the new process what this one still counts.
#[derive(Debug)]
pub(in crate::process) struct Telling {
    /// Dropped to end it.
    go_on: Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Telling {
    /// Tells at once, and then whenever something was counted.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(in crate::process) fn start(to: UnixStream, ledger: Ledger) -> io::Result<Self> {
        let (go_on, ended) = channel();
        let thread = Builder::new().name("telling".into());
        let thread = thread.spawn(move || tell(&to, ledger, &ended))?;
        Ok(Self { go_on, thread })
    }

    /// Tells the rest. Blocks until the new process has it, for [`PATIENCE`] at most.
    pub(in crate::process) fn finish(self) {
        drop(self.go_on);
        // One that has panicked has said so.
        let _ = self.thread.join();
    }
}

fn tell(to: &UnixStream, mut ledger: Ledger, ended: &Receiver<Infallible>) {
    let mut is_first = true;
    loop {
        let pause = if is_first { Duration::ZERO } else { EVERY };
        let is_last = ended.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected);
        let news = ledger.news();
        // The first is waited for, whatever is in it.
        let is_told = is_first || !news.is_empty();
        if is_told && let Err(error) = write_message(to, &news) {
            warn!(%error, "the new process is gone: what this one counts from now on is lost");
            return;
        }
        if is_last {
            return;
        }
        is_first = false;
    }
}

/// Where the processes before this one tell what they still count. Whoever holds the lock is the only
/// one who hears them.
#[derive(Clone)]
pub(in crate::process) struct Elders(Held<Vec<Arc<UnixStream>>>);

impl std::fmt::Debug for Elders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Elders")
    }
}

impl Default for Elders {
    fn default() -> Self {
        Self(Held::new(Vec::new()))
    }
}

impl Deref for Elders {
    type Target = Held<Vec<Arc<UnixStream>>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Elders {
    /// Hears them until they end or are passed on, each on a thread of its own. `caught_up` is called
    /// once the first has told all that it had counted when it stopped answering scrapes.
    pub(in crate::process) fn hear(
        &self,
        channels: Vec<UnixStream>,
        handle: &Handle,
        caught_up: impl FnOnce() + Send + 'static,
    ) {
        let mut caught_up = Some(caught_up);
        for channel in channels {
            let channel = Arc::new(channel);
            self.lock().push(Arc::clone(&channel));
            let (elders, handle, caught_up) = (self.clone(), handle.clone(), caught_up.take());
            let thread = Builder::new().name("elder".into());
            let started = thread.spawn(move || elders.hear_one(&channel, &handle, caught_up));
            if let Err(error) = started {
                warn!(%error, "what the old process still counts is lost");
            }
        }
    }

    fn hear_one(
        &self,
        channel: &Arc<UnixStream>,
        handle: &Handle,
        mut caught_up: Option<impl FnOnce()>,
    ) {
        loop {
            let is_there = is_readable(channel, caught_up.as_ref().map(|_| PATIENCE));
            let told = if is_there { self.next(channel, handle) } else { Some(()) };
            if let Some(caught_up) = caught_up.take() {
                caught_up();
            }
            if told.is_none() {
                return;
            }
        }
    }

    /// Adds what one of them tells; `None`: it will tell nothing more.
    fn next(&self, channel: &Arc<UnixStream>, handle: &Handle) -> Option<()> {
        let mut elders = self.lock();
        let place = elders.iter().position(|elder| Arc::ptr_eq(elder, channel))?;
        match read_message::<Tally>(channel) {
            Ok(tally) => handle.inherit(tally).ok(),
            Err(_) => {
                elders.remove(place);
                info!("the old process has ended");
                None
            }
        }
    }
}

/// Waits until there is something to read, or the end; `false`: not within `time`.
fn is_readable(channel: &UnixStream, time: Option<Duration>) -> bool {
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    let mut wanted = [PollFd::new(channel, PollFlags::IN)];
    // What the kernel refuses here the read will tell.
    retry_on_intr(|| poll(&mut wanted, time.as_ref())).map_or(true, |ready| ready > 0)
}
