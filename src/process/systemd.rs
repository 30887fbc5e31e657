//! What systemd passes to a service, and what it wants to be told.

use std::os::fd::OwnedFd;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use crate::net::addr::Address;
use crate::net::listen::{address_of, inherited};

/// The first descriptor that is passed (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// The listening sockets that systemd has opened for this process, each with its address.
pub(super) fn listening() -> Vec<(Address, OwnedFd)> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    // Variables of a process above this one are none of ours.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = i32::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0).min(1024);
    let sockets = (FIRST..FIRST + count).filter_map(inherited);
    sockets.filter_map(|socket| Some((address_of(&socket)?, socket))).collect()
}

/// Tells systemd; nothing where it does not ask.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd cannot be told");
    }
}

/// This process serves; it is the one to watch.
pub(super) fn ready() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// Another process serves; it is the one to watch. Said by this one too: its end must not come first.
pub(super) fn handed_to(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// The configuration is being read again; [`ready`] follows.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// This process drains and ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often systemd wants a sign of life; `None`: not at all.
pub(super) fn watchdog() -> Option<Duration> {
    // Twice as often as it has to be.
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// A sign of life.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}
