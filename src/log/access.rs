//! The access log: one line for every accepted connection, when it has ended.
//!
//! Whoever ends a connection puts a [`Record`] into a bounded channel and goes on; a thread of the
//! log's own makes lines of them and writes them. When it cannot keep up, records are dropped and
//! counted: a disk that is full must not stop a connection.

mod line;
mod writer;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use crate::config::model::LogFormat;
use crate::net::addr::Address;
use crate::state::Ending;
use crate::state::counters::ProcessCounters;

pub use line::{json, text};

/// Records that may wait to be written: two seconds of 8,000 connections each.
const WAITING: usize = 16_384;
/// How long the last lines may take when the log ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file: appended to, made if it is not there, opened again on request.
    File(PathBuf),
}

/// A connection that has ended. Milliseconds are from accept, but for `connect_ms`.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it ended.
    pub time: SystemTime,
    /// Its listener.
    pub listener: Arc<str>,
    /// Where it was accepted.
    pub local: Option<Place>,
    /// The client, after a PROXY header; `None` over a unix socket.
    pub source: Option<SocketAddr>,
    /// Who had connected, where a PROXY header named another source.
    pub peer: Option<SocketAddr>,
    /// The pool it was routed to.
    pub pool: Option<Arc<str>>,
    /// The backend it was connected to.
    pub backend: Option<Arc<str>>,
    /// Where that backend is.
    pub backend_address: Option<Place>,
    /// The backends that failed it.
    pub tried: Vec<Tried>,
    /// How long the connect took that succeeded.
    pub connect_ms: Option<u64>,
    /// When the backend's first byte came.
    pub first_byte_ms: Option<u64>,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes from the backend.
    pub bytes_out: u64,
    /// How long it lasted.
    pub duration_ms: u64,
    /// How it ended.
    pub end: Ending,
    /// The server's name as the client asked for it: from the wire, so it may be anything.
    pub sni: Option<Box<[u8]>>,
}

/// An address that costs nothing to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An IP address and a port.
    Ip(IpAddr, u16),
    /// Another one, shared.
    Named(Arc<Address>),
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address.ip(), address.port())
    }
}

impl From<&Address> for Place {
    fn from(address: &Address) -> Self {
        match address {
            Address::Tcp(address) => (*address).into(),
            Address::Unix(_) => Self::Named(Arc::new(address.clone())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip, port) => SocketAddr::new(*ip, *port).fmt(f),
            Self::Named(address) => address.fmt(f),
        }
    }
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The backend.
    pub backend: Arc<str>,
    /// Why: one word.
    pub error: &'static str,
    /// How long it took.
    pub ms: u64,
}

/// What the thread is sent.
enum Message {
    // Boxed: a channel of large slots would be large.
    Record(Box<Record>),
    /// Something to look at, besides the channel.
    Wake,
}

/// The way to the log. Cheap to clone; the log ends when the [`AccessLog`] is dropped.
#[derive(Clone)]
pub struct Recorder {
    to: SyncSender<Message>,
    counters: Arc<ProcessCounters>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    /// Hands a record over. Never waits: what cannot be taken is dropped and counted.
    pub fn record(&self, record: Box<Record>) {
        if self.to.try_send(Message::Record(record)).is_err() {
            self.counters.access_lines_dropped.add();
        }
    }
}

/// The access log and its thread. Dropping it writes what is there, for at most two seconds.
pub struct AccessLog {
    recorder: Recorder,
    signs: Arc<Signs>,
    ended: Receiver<std::convert::Infallible>,
}

/// What the thread is told besides records.
#[derive(Debug, Default)]
struct Signs {
    reopen: AtomicBool,
    end: AtomicBool,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLog")
    }
}

impl AccessLog {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or the thread not be started.
    pub fn start(
        destination: Destination,
        format: LogFormat,
        counters: Arc<ProcessCounters>,
    ) -> io::Result<Self> {
        let sink = writer::Sink::open(destination)?;
        Self::with(sink, format, counters, WAITING)
    }

    fn with(
        sink: writer::Sink,
        format: LogFormat,
        counters: Arc<ProcessCounters>,
        waiting: usize,
    ) -> io::Result<Self> {
        let (to, inbox) = sync_channel(waiting);
        let (alive, ended) = sync_channel(0);
        let signs = Arc::new(Signs::default());
        let writer = writer::Writer::new(sink, format, Arc::clone(&counters), Arc::clone(&signs));
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let _alive = alive;
            writer.run(&inbox);
        })?;
        Ok(Self { recorder: Recorder { to, counters }, signs, ended })
    }

    /// A way to the log.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Opens the file again, before the next line: it may have been renamed.
    pub fn reopen(&self) {
        self.signs.reopen.store(true, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // If the channel is full the thread is awake, and looks at the signs anyhow.
        let _ = self.recorder.to.try_send(Message::Wake);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.signs.end.store(true, Relaxed);
        self.wake();
        // The sender is dropped when the thread has ended.
        let _: Result<_, RecvTimeoutError> = self.ended.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests;
