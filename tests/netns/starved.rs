//! [RX-7] The program gets hardly any processor time: nobody is evicted for that.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::has;
use crate::support::netns::run;
use crate::support::{Node, PATIENCE, Setup, TestBackend, eventually, ms, pause};

/// Processes that use up one core.
struct Hogs(Vec<Child>);

impl Hogs {
    fn on(core: &str, count: usize) -> Self {
        let hog = |_| {
            let mut command = Command::new("taskset");
            command.args(["-c", core, "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..count).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// All threads of the program run on one core, and there only when nobody else wants to.
fn starve(pid: u32, core: &str) {
    let pid = pid.to_string();
    run("taskset", &["-a", "-c", "-p", core, &pid]);
    run("chrt", &["-a", "-i", "-p", "0", &pid]);
}

fn feed(pid: u32) {
    run("chrt", &["-a", "-o", "-p", "0", &pid.to_string()]);
}

/// A core that this process may use.
fn core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().to_owned()
}

/// Answers that take a while, within a timeout that a process in want of time notices too late.
#[test]
fn checks_of_a_program_that_is_starved_evict_nobody() {
    if !has("taskset", "-V") || !has("chrt", "-V") {
        return;
    }
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let answers = TestBackend::serving(&any.into(), |peer| {
        let _ = peer.try_read(&mut [0; 8]);
        pause(ms(20));
        let _ = peer.try_send("fine");
    });
    let port = answers.address().rsplit(':').next().unwrap();
    let addresses = (1..=20).map(|number| format!("127.0.1.{number}:{port}"));
    let check = "health_check: {probe: {send_expect: {send: \"?\", expect: fine}}, interval: 300ms, \
                 fast_interval: 100ms, timeout: 150ms, fall: 1}, outlier_detection: off";
    let dead = Node::named("dead");
    let tcp = "health_check: {interval: 300ms, fast_interval: 100ms, timeout: 150ms, fall: 2}";
    let proxy = Setup::to(addresses).pool(check).start();
    let other = Setup::to([dead.entry("")]).pool(tcp).start();
    eventually(PATIENCE, "all are checked", || answers.accepted() >= 40);
    eventually(PATIENCE, "and the other one", || dead.accepted() >= 2);
    let core = core();
    starve(proxy.pid(), &core);
    starve(other.pid(), &core);
    let hogs = Hogs::on(&core, 3);
    let before = (answers.accepted(), proxy.cpu_time());
    pause(Duration::from_secs(5));
    let (checks, used) = (answers.accepted() - before.0, proxy.cpu_time() - before.1);
    // Of 20 backends every 300 ms there would be over 300; that it was starved is shown, not assumed.
    assert!(checks < 200, "it was not starved: {checks} checks in 5 s, {used:?} of processor time");
    assert!(proxy.events().is_empty(), "{:?}", proxy.events());
    // A refusal is the backend's word, however late it is heard.
    dead.kill();
    eventually(4 * PATIENCE, "a dead one is noticed all the same", || {
        !other.told("evicted", "dead").is_empty()
    });
    drop(hogs);
    feed(proxy.pid());
    feed(other.pid());
    let before = answers.accepted();
    eventually(PATIENCE, "checks go on", || answers.accepted() >= before + 40);
    assert!(proxy.events().is_empty(), "{:?}", proxy.events());
}
