//! Serving until a signal says to stop.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::server::Server;

/// Serves until `SIGTERM` or `SIGINT`, then drains for `grace`; a second signal ends that at once.
///
/// Returns whether the server ended because it was told to.
///
/// # Errors
///
/// When the runtime or the signal handlers cannot be set up.
pub fn run(mut server: Server, grace: Option<Duration>) -> io::Result<bool> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            name = signals.next() => info!(
                signal = name,
                connections = server.connections(),
                grace = grace.map(tracing::field::debug),
                "stopping: no new connections, open ones go on"
            ),
            () = server.ended() => {
                error!("all worker threads have ended");
                return Ok(false);
            }
        }
        tokio::select! {
            name = signals.next() => warn!(
                signal = name,
                connections = server.connections(),
                "stopping at once"
            ),
            () = server.stop(grace) => info!("stopped"),
        }
        Ok(true)
    })
}

/// The signals that say stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
