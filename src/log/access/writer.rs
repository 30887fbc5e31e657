//! The thread that writes the access log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{Destination, Message, Record, Signs, json, text};
use crate::config::model::LogFormat;
use crate::net::file::{self, Wanted};
use crate::state::counters::ProcessCounters;

/// How long records gather before they are written together. While the thread sleeps nobody has to
/// wake it, which is most of what a record would cost.
const GATHER: Duration = Duration::from_millis(20);
/// Bytes that are written at once.
const FULL: usize = 256 * 1024;
/// Failures are told this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is written to.
pub(super) enum Sink {
    Stdout,
    File(Destination, File),
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

impl Sink {
    pub(super) fn open(destination: Destination) -> io::Result<Self> {
        match &destination {
            Destination::Stdout => Ok(Self::Stdout),
            Destination::File(path) => {
                let mut options = OpenOptions::new();
                options.append(true).create(true);
                let file = file::open(path, &mut options, Wanted::Sink);
                file.map(|file| Self::File(destination, file))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
            Self::File(_, file) => file.write_all(bytes),
            #[cfg(test)]
            Self::Test(sink) => sink.write_all(bytes),
        }
    }

    fn reopen(&mut self) {
        let Self::File(destination, _) = self else { return };
        match Self::open(destination.clone()) {
            Ok(opened) => {
                *self = opened;
                info!("the access log is open anew");
            }
            Err(error) => error!(%error, "cannot open the access log anew; the old file is kept"),
        }
    }
}

pub(super) struct Writer {
    sink: Sink,
    format: LogFormat,
    counters: Arc<ProcessCounters>,
    signs: Arc<Signs>,
    buffer: Vec<u8>,
    lines: u64,
    told: Option<Instant>,
    dropped_told: u64,
}

impl Writer {
    pub(super) fn new(
        sink: Sink,
        format: LogFormat,
        counters: Arc<ProcessCounters>,
        signs: Arc<Signs>,
    ) -> Self {
        let buffer = Vec::with_capacity(FULL + 4096);
        Self { sink, format, counters, signs, buffer, lines: 0, told: None, dropped_told: 0 }
    }

    /// Writes until the log ends.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        // Ends with the last recorder, or when told to; then what has come is still written.
        while let Ok(first) = inbox.recv() {
            self.take(first);
            if !self.signs.end.load(Relaxed) {
                gather();
            }
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
            self.flush();
            if self.signs.reopen.swap(false, Relaxed) {
                self.sink.reopen();
            }
            if self.signs.end.load(Relaxed) {
                break;
            }
        }
        while let Ok(message) = inbox.try_recv() {
            self.take(message);
        }
        self.flush();
    }

    fn take(&mut self, message: Message) {
        let Message::Record(record) = message else { return };
        self.add(&record);
        if self.buffer.len() >= FULL {
            self.flush();
        }
    }

    fn add(&mut self, record: &Record) {
        match self.format {
            LogFormat::Json => json(record, &mut self.buffer),
            LogFormat::Text => text(record, &mut self.buffer),
        }
        self.lines += 1;
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty()
            && let Err(error) = self.sink.write(&self.buffer)
        {
            (0..self.lines).for_each(|_| self.counters.access_lines_dropped.add());
            self.tell(|lost| warn!(%error, lost, "lines of the access log are lost"));
        } else if self.counters.access_lines_dropped.get() > self.dropped_told {
            self.tell(|lost| {
                warn!(
                    lost,
                    "lines of the access log were dropped: they are not written fast enough"
                );
            });
        }
        self.buffer.clear();
        self.lines = 0;
    }

    /// Says how many lines were lost since it was said last, at most every ten seconds.
    fn tell(&mut self, say: impl FnOnce(u64)) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= TELL_EVERY) {
            self.told = Some(now);
            let all = self.counters.access_lines_dropped.get();
            say(all - self.dropped_told);
            self.dropped_told = all;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the log's own thread, which serves nobody else")]
fn gather() {
    std::thread::sleep(GATHER);
}
