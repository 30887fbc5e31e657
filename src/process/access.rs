//! The access log of the process: on as the configuration says, another one after a reload.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tracing::warn;

use crate::config::model::{self, Log, LogFormat};
use crate::log::access::{AccessLog, Destination, Recorder};
use crate::state::counters::ProcessCounters;

/// The access log, and what a reload is about to do with it.
#[derive(Debug)]
pub(super) struct Access {
    counters: Arc<ProcessCounters>,
    /// What those who end connections look at.
    recorder: Arc<ArcSwapOption<Recorder>>,
    open: Option<AccessLog>,
    /// As it is configured.
    wanted: Wanted,
    next: Option<(Wanted, Option<AccessLog>)>,
}

/// Where to, and in which format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted(Option<(Destination, LogFormat)>);

/// The access log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("log.access: cannot open {target}: {error}")]
pub struct AccessError {
    target: String,
    #[source]
    error: io::Error,
}

impl Wanted {
    fn of(log: &Log) -> Self {
        let destination = match &log.access {
            None => return Self(None),
            Some(model::AccessLog::Stdout) => Destination::Stdout,
            Some(model::AccessLog::File(path)) => Destination::File(path.clone()),
        };
        Self(Some((destination, log.format)))
    }

    fn open(&self, counters: &Arc<ProcessCounters>) -> Result<Option<AccessLog>, AccessError> {
        let Some((destination, format)) = &self.0 else { return Ok(None) };
        let target = match destination {
            Destination::Stdout => Path::new("standard output"),
            Destination::File(path) => path,
        };
        let opened = AccessLog::start(destination.clone(), *format, Arc::clone(counters));
        let failed = |error| AccessError { target: target.display().to_string(), error };
        opened.map(Some).map_err(failed)
    }
}

impl Access {
    /// Opens it, if it is configured.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub(super) fn open(log: &Log, counters: Arc<ProcessCounters>) -> Result<Self, AccessError> {
        let wanted = Wanted::of(log);
        let open = wanted.open(&counters)?;
        let recorder = Arc::new(ArcSwapOption::default());
        let access = Self { counters, recorder, open, wanted, next: None };
        access.lead();
        Ok(access)
    }

    /// Where whoever ends a connection finds the way to the log, if there is one.
    pub(super) fn recorder(&self) -> Arc<ArcSwapOption<Recorder>> {
        Arc::clone(&self.recorder)
    }

    /// Opens the file again: it may have been renamed.
    pub(super) fn reopen(&self) {
        if let Some(open) = &self.open {
            open.reopen();
        }
    }

    /// Opens what `log` asks for, if it is another one; nothing is in force yet.
    pub(super) fn prepare(&mut self, log: &Log) -> Result<(), AccessError> {
        let wanted = Wanted::of(log);
        if wanted != self.wanted {
            let opened = wanted.open(&self.counters)?;
            self.next = Some((wanted, opened));
        }
        Ok(())
    }

    /// Puts in force what was prepared.
    pub(super) fn commit(&mut self) {
        let Some((wanted, opened)) = self.next.take() else { return };
        self.wanted = wanted;
        let before = std::mem::replace(&mut self.open, opened);
        self.lead();
        finish(before);
    }

    /// Lets go of what was prepared.
    pub(super) fn abandon(&mut self) {
        if let Some((_, opened)) = self.next.take() {
            finish(opened);
        }
    }

    /// Writes the last lines. Blocks, for two seconds at most.
    pub(super) fn end(&mut self) {
        self.recorder.store(None);
        self.open = None;
    }

    fn lead(&self) {
        self.recorder.store(self.open.as_ref().map(|open| Arc::new(open.recorder())));
    }
}

/// Ends a log whose last lines somebody else waits for.
fn finish(log: Option<AccessLog>) {
    let Some(log) = log else { return };
    let ended = std::thread::Builder::new().name("access-log-end".into()).spawn(|| drop(log));
    if let Err(error) = ended {
        warn!(%error, "the access log was ended at once");
    }
}
