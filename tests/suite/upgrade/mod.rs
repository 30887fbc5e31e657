//! Another process takes over on the same sockets.

mod counters;
mod failing;
mod sockets;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::support::admin::Admin;
use super::support::{PATIENCE, Peer, Proxy, Setup, TestBackend, eventually, procfs};

const ADMIN: &str = "admin: {bind: \"127.0.0.1:0\"}";

/// The process that has taken over; ended when dropped.
pub(crate) struct Successor(Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

impl Successor {
    /// The one after the upgrade of this number, from 1, of a program and its successors.
    #[track_caller]
    pub(crate) fn of(proxy: &Proxy, number: usize) -> Self {
        let mut pid = None;
        eventually(PATIENCE, "the new process serves", || {
            let lines = proxy.log().lines();
            let is_it = |line: &&_| said(line, "the new process serves");
            let line = lines.iter().filter(is_it).nth(number - 1);
            pid = line.and_then(|line| line.field("pid")).and_then(|pid| pid.parse().ok());
            pid.is_some()
        });
        Self(pid.and_then(Pid::from_raw).unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().cast_unsigned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).expect("a process that runs");
    }

    #[track_caller]
    pub(crate) fn expect_exit(&self, within: Duration) {
        eventually(within, "the successor ends", || !procfs::runs(self.pid()));
    }
}

/// Lets another process take over, and waits until this one has ended.
#[track_caller]
pub(crate) fn upgrade(proxy: &mut Proxy) -> Successor {
    proxy.signal(Signal::USR2);
    let successor = Successor::of(proxy, 1);
    proxy.expect_exit(PATIENCE);
    successor
}

fn said(line: &super::support::log::Line, words: &str) -> bool {
    line.text().contains(words)
}

/// Ends the load, also when the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Clients one after the other, each of which gets the backend's greeting, until told to stop; how
/// many there were.
fn clients(address: &str, stop: &AtomicBool, served: &AtomicUsize) {
    while !stop.load(Ordering::SeqCst) {
        let client = Peer::connect(address);
        client.expect("one");
        client.fin();
        client.expect_end(super::support::End::Fin);
        served.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn nobody_notices_an_upgrade() {
    let backend = TestBackend::named("one");
    let setup = Setup::to([backend.address()]).head(ADMIN);
    let mut proxy = setup.start();
    let admin = Admin::of(&proxy);
    let name = admin.get("/api/v1/status").ok()["pools"][0]["backends"][0]["name"].clone();
    let weight = format!("/api/v1/pools/app/backends/{}/weight", name.as_str().unwrap());
    admin.ask("PUT", &weight, "", "{\"weight\":7}").ok();
    let old = proxy.client();
    assert_eq!(old.receive(3), b"one");
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = proxy.address().to_owned();
    let successor = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| clients(&address, &stop, &served));
        }
        let end = Stop(&stop);
        eventually(PATIENCE, "load", || served.load(Ordering::SeqCst) > 50);
        proxy.signal(Signal::USR2);
        let successor = Successor::of(&proxy, 1);
        let before = served.load(Ordering::SeqCst);
        eventually(PATIENCE, "load after it", || served.load(Ordering::SeqCst) > before + 50);
        drop(end);
        successor
    });
    old.send("still");
    assert_eq!(old.receive(5), b"still");
    old.fin();
    proxy.expect_exit(PATIENCE);
    let status = admin.get("/api/v1/status").ok();
    assert_eq!(status["pools"][0]["backends"][0]["weight"], 7, "state is handed over: {status}");
    drop(successor);
}
