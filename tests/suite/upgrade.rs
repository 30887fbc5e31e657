//! Another process takes over on the same sockets.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::support::admin::Admin;
use super::support::{PATIENCE, Peer, Proxy, Setup, TestBackend, eventually};

/// Ends the process that has taken over.
struct Successor(Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Ends the load, also when the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[track_caller]
fn upgraded(proxy: &Proxy) -> Successor {
    let mut pid = None;
    eventually(PATIENCE, "the new process serves", || {
        let lines = proxy.log().lines();
        let line = lines.iter().find(|line| line.text().contains("the new process serves"));
        pid = line.and_then(|line| line.field("pid")).and_then(|pid| pid.parse().ok());
        pid.is_some()
    });
    Successor(pid.and_then(Pid::from_raw).unwrap())
}

#[test]
fn nobody_notices_an_upgrade() {
    let backend = TestBackend::named("one");
    let setup = Setup::to([backend.address()]).head("admin: {bind: \"127.0.0.1:0\"}");
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
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let client = Peer::connect(&address);
                    assert_eq!(client.receive(3), b"one");
                    client.fin();
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let end = Stop(&stop);
        eventually(PATIENCE, "load", || served.load(Ordering::SeqCst) > 50);
        proxy.signal(Signal::USR2);
        let successor = upgraded(&proxy);
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

#[test]
fn a_configuration_that_is_refused_leaves_the_old_process_serving() {
    let backend = TestBackend::named("one");
    let proxy = Setup::to([backend.address()]).head("admin: {bind: \"127.0.0.1:0\"}").start();
    let admin = Admin::of(&proxy);
    std::fs::write(proxy.directory().join("tidegate.yaml"), "nonsense: 1\n").unwrap();
    proxy.signal(Signal::USR2);
    proxy.expect_line("this process goes on");
    assert_eq!(proxy.client().receive(3), b"one");
    assert_eq!(admin.get("/livez").code, 200);
    proxy.allow_errors();
}
