//! Serving until a signal says to stop.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::server::Server;
use super::systemd;

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
    /// Takes over `SIGTERM`, `SIGINT`, `SIGHUP`, `SIGUSR1` and `SIGUSR2`; and the process with them: what
    /// descriptors it was born with, no program that it starts gets.
    ///
    /// # Errors
    ///
    /// When the runtime or the handlers cannot be set up.
    pub fn take_over() -> io::Result<Self> {
        // An older kernel does not know how; then they are handed down, as they were to us.
        let _ = crate::net::child::inherit_nothing();
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

    /// Serves until `SIGTERM` or `SIGINT`, or until another process has taken over on `SIGUSR2`; then
    /// drains, which a second signal ends at once. `SIGHUP` has the configuration read again. Returns
    /// whether the server ended because it was told to.
    #[must_use]
    pub fn serve(self, mut server: Server) -> bool {
        let Self { runtime, terminate, interrupt, hangup, user } = self;
        let mut stop = Stop { terminate, interrupt };
        let mut other = Other { hangup, user };
        runtime.block_on(async {
            systemd::ready();
            let Some(grace) = until_stop(&mut server, &mut stop, &mut other).await else {
                error!("all worker threads have ended");
                return false;
            };
            if server.control().is_some() {
                // Else another process goes on, and the service with it.
                systemd::stopping();
            }
            tokio::select! {
                name = stop.next() => warn!(
                    signal = name,
                    connections = server.connections(),
                    "stopping at once"
                ),
                () = server.stop(grace) => info!("stopped"),
            }
            // Where it was stopped at once too.
            server.end_access_log();
            true
        })
    }
}

/// How long open connections are waited for; `None` for ever.
type Grace = Option<Duration>;

/// Serves until it is to stop; `None`: the server has ended by itself.
async fn until_stop(server: &mut Server, stop: &mut Stop, other: &mut Other) -> Option<Grace> {
    let mut watchdog = systemd::watchdog().map(tokio::time::interval);
    loop {
        let sign_of_life = async {
            match &mut watchdog {
                Some(ticks) => ticks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            name = stop.next() => {
                let grace = server.grace();
                info!(
                    signal = name,
                    connections = server.connections(),
                    grace = grace.map(tracing::field::debug),
                    "stopping: no new connections, open ones go on"
                );
                return Some(grace);
            }
            name = other.next() => match name {
                "SIGHUP" => reload(server),
                "SIGUSR2" => {
                    let grace = server.grace();
                    if upgrade(server).await {
                        return Some(grace);
                    }
                }
                name => warn!(signal = name, "nothing happens on this signal"),
            },
            _ = sign_of_life => {
                // A control plane that does not answer is what the watchdog is for.
                if let Some(control) = server.control()
                    && control.unready().await.is_ok()
                {
                    systemd::alive();
                }
            }
            () = server.ended() => return None,
        }
    }
}

/// Has the configuration read and the access log opened again. What comes of it is told by the control plane, as an event.
fn reload(server: &Server) {
    server.reopen_access_log();
    if let Some(control) = server.control().cloned() {
        tokio::task::spawn_local(async move {
            systemd::reloading();
            let _ = control.reload().await;
            systemd::ready();
        });
    }
}

/// Lets another process take over; whether it has.
async fn upgrade(server: &mut Server) -> bool {
    info!("upgrading: the binary is started anew on the same sockets");
    match server.upgrade().await {
        Ok(pid) => {
            info!(pid, connections = server.connections(), "the new process serves: draining");
            true
        }
        Err(error) => {
            error!(%error, "not upgraded: this process goes on");
            false
        }
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
