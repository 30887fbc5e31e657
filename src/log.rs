//! The program's own log: one line an event on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::model::{Log, LogFormat, LogLevel};

/// Lines held while standard error does not take them; further ones are dropped. A log that nobody
/// reads must not stop connections.
const HELD_LINES: usize = 10_000;

/// Starts logging for the whole process; the log is complete once the guard is dropped.
///
/// Does nothing when logging was started already, as within an embedder's program.
#[must_use = "the last lines are lost when the guard is dropped too early"]
pub fn start(log: &Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(HELD_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let (level, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(level);
    let started = match log.format {
        LogFormat::Text => {
            let is_colored =
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let lines = fmt::layer().with_writer(writer).with_target(false).with_ansi(is_colored);
            registry.with(lines).try_init()
        }
        LogFormat::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(writer);
            registry.with(lines.with_target(false).with_current_span(false)).try_init()
        }
    };
    // Somebody else may log already, and goes on doing so.
    if started.is_ok() {
        let _ = LEVEL.set(handle);
    }
    guard
}

/// The level of the log that was started here: it is one for the process, as the log is.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Sets another level. Does nothing where somebody else logs.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // It fails only once nobody logs any more.
        let _ = handle.reload(filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
