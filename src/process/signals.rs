//! Serving until a signal says to stop.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::server::Server;
use super::systemd;
use super::upgrade::{Attempt, Successor, UpgradeError};
use crate::metrics::Tally;

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
            server.end_telling();
            true
        })
    }
}

/// How long open connections are waited for; `None` for ever.
type Grace = Option<Duration>;

/// Serves until it is to stop; `None`: the server has ended by itself.
async fn until_stop(server: &mut Server, stop: &mut Stop, other: &mut Other) -> Option<Grace> {
    let mut watchdog = systemd::watchdog().map(tokio::time::interval);
    let mut upgrade: Option<Upgrade> = None;
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
                if let Some(upgrade) = upgrade {
                    warn!(signal = name, "the upgrade is given up: the new process ends too");
                    upgrade.attempt.abandon().await;
                }
                info!(
                    signal = name,
                    connections = server.connections(),
                    grace = grace.map(tracing::field::debug),
                    "stopping: no new connections, open ones go on"
                );
                return Some(grace);
            }
            name = other.next() => match (name, &mut upgrade) {
                ("SIGHUP", None) => reload(server),
                ("SIGHUP", Some(upgrade)) => upgrade.is_followed_by_reload = true,
                ("SIGUSR2", None) => upgrade = begin_upgrade(server).await,
                ("SIGUSR2", Some(_)) => warn!("an upgrade is under way: this is no second one"),
                _ => warn!(signal = name, "nothing happens on this signal"),
            },
            done = served(&mut upgrade) => {
                let Some(Upgrade { counted, is_followed_by_reload, .. }) = upgrade.take() else {
                    continue;
                };
                match done {
                    Ok(successor) => {
                        let grace = server.grace();
                        leave_to(server, successor, &counted, is_followed_by_reload).await;
                        return Some(grace);
                    }
                    Err(error) => {
                        error!(%error, "not upgraded: this process goes on");
                        server.go_on().await;
                        if is_followed_by_reload {
                            reload(server);
                        }
                    }
                }
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

/// An upgrade under way.
struct Upgrade {
    attempt: Attempt,
    /// What the new process was told is counted.
    counted: Tally,
    /// Whether somebody wants the configuration read again after it.
    is_followed_by_reload: bool,
}

/// Waits until the new process serves or does not; for ever where there is none.
async fn served(upgrade: &mut Option<Upgrade>) -> Result<Successor, UpgradeError> {
    match upgrade {
        Some(upgrade) => upgrade.attempt.done().await,
        None => std::future::pending().await,
    }
}

/// Lets another process begin to take over.
async fn begin_upgrade(server: &Server) -> Option<Upgrade> {
    info!("upgrading: the binary is started anew on the same sockets");
    match server.begin_upgrade().await {
        Ok((attempt, counted)) => Some(Upgrade { attempt, counted, is_followed_by_reload: false }),
        Err(error) => {
            error!(%error, "not upgraded: this process goes on");
            server.go_on().await;
            None
        }
    }
}

/// Another process serves: leaves everything to it.
async fn leave_to(server: &mut Server, new: Successor, counted: &Tally, is_to_reload: bool) {
    let pid = new.pid;
    systemd::handed_to(pid);
    server.leave_to(new, counted).await;
    info!(pid, connections = server.connections(), "the new process serves: draining");
    // It may have read the file before it was another one.
    if let Some(pid) = Pid::from_raw(pid.cast_signed()).filter(|_| is_to_reload) {
        let _ = kill_process(pid, rustix::process::Signal::HUP);
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
