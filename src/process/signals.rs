//! Serving until a signal says to stop.

use std::io;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::server::Server;

/// The signals of this process, and the runtime that waits for them.
///
/// Made before anything is served, so that no signal finds nobody listening.
#[derive(Debug)]
pub struct Signals {
    runtime: LocalRuntime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: [Signal; 2],
}

impl Signals {
    /// Takes over `SIGTERM`, `SIGINT`, `SIGHUP`, `SIGUSR1` and `SIGUSR2`.
    ///
    /// # Errors
    ///
    /// When the runtime or the handlers cannot be set up.
    pub fn take_over() -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let within = runtime.enter();
        let signals = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let [terminate, interrupt, hangup, first, second] = signals.map(signal);
        let (terminate, interrupt, hangup) = (terminate?, interrupt?, hangup?);
        let user = [first?, second?];
        drop(within);
        Ok(Self { runtime, terminate, interrupt, hangup, user })
    }

    /// Serves until `SIGTERM` or `SIGINT`, then drains; a second signal ends that at
    /// once. Returns whether the server ended because it was told to.
    #[must_use]
    pub fn serve(self, mut server: Server) -> bool {
        let Self { runtime, terminate, interrupt, hangup, user } = self;
        let mut stop = Stop { terminate, interrupt };
        let mut other = Other { hangup, user };
        runtime.block_on(async {
            let grace;
            loop {
                tokio::select! {
                    name = stop.next() => {
                        grace = server.grace();
                        info!(
                            signal = name,
                            connections = server.connections(),
                            grace = grace.map(tracing::field::debug),
                            "stopping: no new connections, open ones go on"
                        );
                        break;
                    }
                    name = other.next() => match name {
                        "SIGHUP" => reload(&server),
                        name => warn!(
                            signal = name,
                            "nothing happens: this version cannot upgrade itself"
                        ),
                    },
                    () = server.ended() => {
                        error!("all worker threads have ended");
                        return false;
                    }
                }
            }
            tokio::select! {
                name = stop.next() => warn!(
                    signal = name,
                    connections = server.connections(),
                    "stopping at once"
                ),
                () = server.stop(grace) => info!("stopped"),
            }
            true
        })
    }
}

/// Has the configuration read again. What comes of it is told by the control plane, as an event.
fn reload(server: &Server) {
    if let Some(control) = server.control().cloned() {
        tokio::task::spawn_local(async move {
            let _ = control.reload().await;
        });
    }
}

/// The signals that say stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The signals that would end a process that has not taken them over.
struct Other {
    hangup: Signal,
    user: [Signal; 2],
}

impl Other {
    async fn next(&mut self) -> &'static str {
        let [first, second] = &mut self.user;
        tokio::select! {
            _ = self.hangup.recv() => "SIGHUP",
            _ = first.recv() => "SIGUSR1",
            _ = second.recv() => "SIGUSR2",
        }
    }
}
