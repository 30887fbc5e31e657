//! [RX-1, RX-2] System calls that fail for want of descriptors or memory, by fault injection.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::setup::Scratch;
use crate::support::{End, Exchange, PATIENCE, Proxy, SLACK, Setup, TestBackend, ms, pause};
use crate::{has, refuse};

/// strace, attached to the program: a system call of it fails until this is dropped.
struct Fault {
    strace: Child,
    calls: PathBuf,
    _scratch: Scratch,
}

impl Fault {
    /// Makes `call` fail with `error`, which may go on as `EMFILE:when=1..3`. `None` where strace
    /// may not attach.
    fn inject(proxy: &Proxy, call: &str, error: &str) -> Option<Self> {
        let scratch = Scratch::new();
        let calls = scratch.path().join("calls");
        let mut strace = Command::new("strace")
            .args(["-f", "-p", &proxy.pid().to_string(), "-o"])
            .arg(&calls)
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(strace.stderr.take().unwrap()).read_line(&mut first).unwrap();
        let fault = Self { strace, calls, _scratch: scratch };
        if first.contains("attached") {
            return Some(fault);
        }
        refuse(&format!("strace may not attach here: {}", first.trim()));
        None
    }

    /// How often the call was made meanwhile.
    fn calls(&self) -> usize {
        let text = std::fs::read_to_string(&self.calls).unwrap_or_default();
        text.lines().filter(|line| line.contains("INJECTED")).count()
    }
}

impl Drop for Fault {
    /// Detaches; the call works again.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.strace), Signal::INT);
        let _ = self.strace.wait();
    }
}

fn warnings(proxy: &Proxy) -> usize {
    proxy.log().lines().iter().filter(|line| line.level() == "WARN").count()
}

#[test]
fn accepting_pauses_while_it_cannot_and_resumes_within_a_second() {
    if !has("strace", "-V") {
        return;
    }
    for error in ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"] {
        let backend = TestBackend::echo();
        let proxy = Setup::to([backend.address()]).start();
        let old = proxy.client();
        old.expect_echo("before");
        let Some(fault) = Fault::inject(&proxy, "accept4", error) else { return };
        let new = proxy.client();
        new.send("x");
        let start = Instant::now();
        let share = proxy.processor_share(ms(1500));
        assert!(share < 0.1, "{error}: it uses {share:.2} of a core");
        old.expect_echo("meanwhile");
        let (calls, seconds) = (fault.calls(), start.elapsed().as_secs_f64());
        assert!(calls >= 1, "{error}: it did try");
        assert!((calls as f64) < 20.0 * seconds, "{error}: {calls} calls in {seconds:.1} s");
        drop(fault);
        let start = Instant::now();
        new.expect("x");
        assert!(start.elapsed() < ms(1000) + SLACK, "{error}: {:?}", start.elapsed());
        assert!((1..=2).contains(&warnings(&proxy)), "{error}: says so, and not again and again");
    }
}

#[test]
fn a_connection_aborted_before_it_is_accepted_stops_nobody() {
    if !has("strace", "-V") {
        return;
    }
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).threads(1).start();
    let Some(fault) = Fault::inject(&proxy, "accept4", "ECONNABORTED:when=1..5") else { return };
    proxy.client().expect_echo("served all the same");
    assert_eq!(fault.calls(), 5);
}

#[test]
fn bulk_data_is_copied_where_no_pipe_can_be_had() {
    if !has("strace", "-V") {
        return;
    }
    let backend = Exchange::backend();
    let proxy = Setup::to([backend.address()]).start();
    let Some(fault) = Fault::inject(&proxy, "pipe2", "EMFILE") else { return };
    let exchange = Exchange { seed: 1, up: 16 << 20, down: 16 << 20 };
    exchange.run_as_client(&proxy.client());
    assert!(fault.calls() >= 1, "it did try");
    drop(fault);
    exchange.run_as_client(&proxy.client());
    backend.expect_finished();
}

/// As a container's seccomp profile or an old kernel does it.
#[test]
fn bulk_data_is_copied_where_splicing_is_denied() {
    if !has("strace", "-V") {
        return;
    }
    for error in ["EPERM", "ENOSYS", "EINVAL"] {
        let backend = Exchange::backend();
        let proxy = Setup::to([backend.address()]).start();
        let Some(fault) = Fault::inject(&proxy, "splice", error) else { return };
        Exchange { seed: 1, up: 16 << 20, down: 16 << 20 }.run_as_client(&proxy.client());
        backend.expect_finished();
        assert!(fault.calls() > 0, "{error}: nothing was spliced");
        assert!(fault.calls() < 200, "{error}: it was tried {} times", fault.calls());
    }
}

#[test]
fn a_client_for_whom_no_socket_can_be_had_is_reset_and_blames_no_backend() {
    if !has("strace", "-V") {
        return;
    }
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).start();
    let Some(fault) = Fault::inject(&proxy, "socket", "EMFILE") else { return };
    for _ in 0..5 {
        let waited = proxy.client().time_to_end(End::Reset);
        assert!(waited < ms(100) + SLACK, "{waited:?}");
    }
    drop(fault);
    proxy.expect_ends(&["local_error"; 5]);
    assert!(!proxy.log().lines().iter().any(|line| line.text().contains("connect failed")));
    let start = Instant::now();
    proxy.client().expect_echo("again");
    assert!(start.elapsed() < PATIENCE);
    pause(ms(1));
}

/// [BF-6] What the kernel says of this host, while it is asked to connect to a backend. `EACCES` is not
/// among them: injected, it looks like a route that prohibits the backend, to the question for that too.
#[test]
fn what_a_connect_lacks_on_this_host_evicts_nobody() {
    if !has("strace", "-V") {
        return;
    }
    for error in ["ENOBUFS", "ENOMEM", "EADDRNOTAVAIL", "EAGAIN", "EPERM"] {
        let backends = [TestBackend::echo(), TestBackend::echo()];
        let keys = "outlier_detection: {consecutive_failures: 1, max_ejected_percent: 100}, \
                    health_check: {interval: 100ms, fast_interval: 50ms, timeout: 100ms, fall: 1}";
        let setup = Setup::to(backends.iter().map(TestBackend::address)).pool(keys);
        let proxy = setup.start();
        proxy.client().expect_echo("before");
        let Some(fault) = Fault::inject(&proxy, "connect", error) else { return };
        for _ in 0..5 {
            proxy.client().expect_end(End::Reset);
        }
        // Several checks of each, besides.
        crate::support::eventually(PATIENCE, "it did try", || fault.calls() >= 15);
        drop(fault);
        assert!(proxy.events().is_empty(), "{error}: {:?}", proxy.events());
        assert_eq!(proxy.reasons().get("local_error"), Some(&5), "{error}: {:?}", proxy.reasons());
        proxy.client().expect_echo("after");
    }
}
