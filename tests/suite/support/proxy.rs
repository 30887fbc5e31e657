//! The program under test, running.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::log::{Ended, Line, Log, Told};
use super::setup::Scratch;
use super::{PATIENCE, Peer, Setup, TestBackend, eventually, ms, pause, procfs};

/// A running tidegate. When dropped it is looked over for leaks (see [`Proxy::leaks`]), then killed.
///
/// Declare it after its backends and before its clients: then the clients are gone when it is
/// looked over.
///
/// `TIDEGATE_TEST_RELAY` puts another relay in its place, to try the tests themselves: `direct`
/// is no relay at all; else it is a command that gets a port to listen on and the backends.
/// Checks of log, descriptors and processor time are then left out.
pub(crate) struct Proxy {
    child: Option<Child>,
    log: Log,
    /// Names of listeners and the addresses they are bound to, in the order they were logged.
    addresses: Vec<(String, String)>,
    sockets_at_start: usize,
    checked: bool,
    scratch: Scratch,
}

impl Proxy {
    /// A relay to one backend, with everything else at its default.
    #[track_caller]
    pub(crate) fn before(backend: &TestBackend) -> Self {
        Setup::to([backend.address()]).start()
    }

    #[track_caller]
    pub(super) fn start(setup: Setup) -> Self {
        let scratch = Scratch::new();
        let relay = std::env::var("TIDEGATE_TEST_RELAY").ok();
        let mut proxy = Self {
            child: None,
            log: Log::default(),
            addresses: Vec::new(),
            sockets_at_start: 0,
            checked: relay.is_none(),
            scratch,
        };
        match relay.as_deref() {
            Some("direct") => proxy.stand_aside(&setup),
            Some(command) => proxy.run_other(&setup, command),
            None => proxy.run_tidegate(&setup),
        }
        proxy
    }

    #[track_caller]
    fn run_tidegate(&mut self, setup: &Setup) {
        let mut command = setup.command(self.scratch.path());
        let mut child = command.spawn().unwrap();
        // A test may have put a socket there.
        child.stdout.take().into_iter().for_each(|output| self.log.collect(output));
        self.log.collect(child.stderr.take().unwrap());
        self.child = Some(child);
        let start = Instant::now();
        while self.addresses.len() < setup.listening {
            let over = start.elapsed() > PATIENCE || self.exit_status().is_some();
            assert!(!over, "does not listen:\n{}{}", setup.file(), self.log.tail());
            pause(ms(2));
            self.addresses = self.log.lines().iter().filter_map(listening).collect();
        }
        self.sockets_at_start = self.steady_socket_count();
    }

    fn run_other(&mut self, setup: &Setup, command: &str) {
        let port = TestBackend::manual().address().parse::<SocketAddr>().unwrap().port();
        let backends = setup.backends.iter().map(|backend| backend.trim_matches('"'));
        let child = Command::new(command)
            .arg(port.to_string())
            .args(backends)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.child = Some(child);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        eventually(PATIENCE, "the relay listens", || {
            let sockets = procfs::tcp_sockets(pid, Some(procfs::LISTEN));
            sockets.iter().any(|socket| socket.local.port() == port)
        });
        self.addresses.push(("web".into(), address.to_string()));
    }

    fn stand_aside(&mut self, setup: &Setup) {
        let address = setup.backends[0].trim_matches('"').to_owned();
        self.addresses.push(("web".into(), address));
    }

    /// The number of sockets once it has not changed for a moment.
    fn steady_socket_count(&self) -> usize {
        let mut count = procfs::socket_count(self.pid());
        loop {
            pause(ms(10));
            let again = procfs::socket_count(self.pid());
            if again == count {
                return count;
            }
            count = again;
        }
    }

    /// Whether it is tidegate that runs.
    pub(crate) fn is_tidegate(&self) -> bool {
        std::env::var_os("TIDEGATE_TEST_RELAY").is_none()
    }

    /// The first address it listens on.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[0].1
    }

    /// The addresses of one listener.
    pub(crate) fn addresses_of(&self, listener: &str) -> Vec<&str> {
        let of = self.addresses.iter().filter(|(name, _)| name == listener);
        of.map(|(_, address)| address.as_str()).collect()
    }

    /// A new client of the first address.
    #[track_caller]
    pub(crate) fn client(&self) -> Peer {
        Peer::connect(self.address())
    }

    /// Where its configuration is, and what it has written.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Puts a shell script in the place of the binary, as an upgrade that goes wrong. See
    /// [`Setup::replaceable`].
    #[track_caller]
    pub(crate) fn replace_binary(&self, script: &str) {
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > new && chmod 755 new && mv new tidegate";
        let mut shell = Command::new("sh");
        shell.args(["-c", write, "sh", script]).current_dir(self.directory());
        assert!(shell.status().unwrap().success());
    }

    /// Errors in its log belong to the scenario.
    pub(crate) fn allow_errors(mut self) {
        self.checked = false;
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a process").id()
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The sockets it has above those it had at start.
    pub(crate) fn extra_sockets(&self) -> usize {
        procfs::socket_count(self.pid()).saturating_sub(self.sockets_at_start)
    }

    /// Processor time used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        procfs::cpu_time(self.pid())
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        procfs::resident(self.pid())
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<Told> {
        self.log.events()
    }

    /// The events of this kind about this backend so far.
    pub(crate) fn told(&self, kind: &str, backend: &str) -> Vec<Told> {
        let mut events = self.events();
        events.retain(|event| event.kind == kind && event.backend == backend);
        events
    }

    /// Waits for the first event of this kind about this backend.
    #[track_caller]
    pub(crate) fn expect_told(&self, kind: &str, backend: &str) -> Told {
        self.expect_told_again(kind, backend, 1)
    }

    /// Waits until there are so many, and gives the last one.
    #[track_caller]
    pub(crate) fn expect_told_again(&self, kind: &str, backend: &str, count: usize) -> Told {
        let what = format!("{count} times {kind} {backend}");
        eventually(PATIENCE, &what, || self.told(kind, backend).len() >= count);
        self.told(kind, backend).swap_remove(count - 1)
    }

    /// Waits for a line of the log with these words.
    #[track_caller]
    pub(crate) fn expect_line(&self, words: &str) {
        eventually(PATIENCE, words, || self.log.lines().iter().any(|l| l.text().contains(words)));
    }

    /// The connections that ended, as logged.
    pub(crate) fn ended(&self) -> Vec<Ended> {
        self.log.ended()
    }

    /// The connections that have ended so far, all of them, ended for these reasons, in any order.
    #[track_caller]
    pub(crate) fn expect_ends(&self, reasons: &[&str]) {
        if !self.is_tidegate() {
            return;
        }
        let start = Instant::now();
        let mut expected = reasons.to_vec();
        expected.sort_unstable();
        loop {
            let mut ends: Vec<_> = self.ended().into_iter().map(|end| end.reason).collect();
            ends.sort_unstable();
            if ends == expected {
                return;
            }
            let over = ends.len() > expected.len() || start.elapsed() > PATIENCE;
            assert!(!over, "connections should have ended with {expected:?}, not with {ends:?}");
            pause(ms(3));
        }
    }

    /// How many connections ended for which reason.
    pub(crate) fn reasons(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        self.ended().into_iter().for_each(|end| *count.entry(end.reason).or_default() += 1);
        count
    }

    /// So many connections have ended, each because both sides were done.
    #[track_caller]
    pub(crate) fn expect_orderly_ends(&self, count: usize) {
        if self.is_tidegate() {
            eventually(PATIENCE, "all connections end", || self.ended().len() >= count);
            let orderly = ["client_closed", "backend_closed"];
            let ends = self.ended();
            let all = ends.iter().all(|end| orderly.contains(&end.reason.as_str()));
            assert!(all && ends.len() == count, "{:?}", self.reasons());
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.kernel_pid(), signal).expect("a process that runs");
    }

    /// Leaves room for `count` more descriptors, whatever holes there are among the open ones.
    pub(crate) fn leave_descriptors(&self, count: usize) {
        let open = procfs::descriptors(self.pid());
        let free = (0..).filter(|number| !open.contains_key(number));
        let limit = free.take(count + 1).last().unwrap();
        self.limit_descriptors(limit.into());
    }

    /// Lets it open as many descriptors again as it may.
    pub(crate) fn leave_all_descriptors(&self) {
        self.limit_descriptors(procfs::descriptor_limits(self.pid()).1);
    }

    fn limit_descriptors(&self, soft: u64) {
        // The hard limit stays: without privileges it could not be raised again.
        let hard = procfs::descriptor_limits(self.pid()).1;
        let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
        prlimit(Some(self.kernel_pid()), Resource::Nofile, limit).expect("a process of ours");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn expect_exit(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(start.elapsed() < within, "still runs after {within:?}:\n{}", self.log.tail());
            pause(ms(3));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// What a program that has nothing to do should not show: open connections after two seconds,
    /// use of the processor, a panic or an error in its log. `None` when all is well.
    pub(crate) fn leaks(&self) -> Option<String> {
        let start = Instant::now();
        while self.extra_sockets() > 0 {
            if start.elapsed() > Duration::from_secs(2) {
                let mut sockets = procfs::tcp_sockets(self.pid(), None);
                sockets.retain(|socket| socket.state != procfs::LISTEN);
                let waiting = |socket: &&procfs::Tcp| socket.state == procfs::CLOSE_WAIT;
                return Some(format!(
                    "{} sockets too many, {} of them in CLOSE-WAIT: {sockets:#?}",
                    self.extra_sockets(),
                    sockets.iter().filter(waiting).count()
                ));
            }
            pause(ms(5));
        }
        // Frequent checks, unoptimised, take a few percent; a loop that never rests takes a whole core.
        if !(0..40).any(|_| self.processor_share(ms(50)) < 0.15) {
            return Some("uses the processor though nothing is to be done".to_owned());
        }
        let lines = self.log.lines();
        let bad = |line: &&Line| line.level() == "ERROR" || line.text().contains("panicked at");
        lines.iter().find(bad).map(|line| format!("logged {:?}", line.text()))
    }

    /// The share of one core it uses during the next `time`.
    pub(crate) fn processor_share(&self, time: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.cpu_time());
        pause(time);
        (self.cpu_time().saturating_sub(before)).as_secs_f64() / start.elapsed().as_secs_f64()
    }

    fn kernel_pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("a process"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let running = self.child.is_some() && self.exit_status().is_none();
        let failing = std::thread::panicking();
        let leaks = if running && self.checked && !failing { self.leaks() } else { None };
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if failing {
            eprintln!("the last lines of the log:\n{}", self.log.tail());
        }
        if let Some(leaks) = leaks {
            panic!("{leaks}\n{}", self.log.tail());
        }
    }
}

fn listening(line: &Line) -> Option<(String, String)> {
    let says_so = line.text().contains("listening");
    Some((line.field("listener")?, line.field("address")?)).filter(|_| says_so)
}

/// Consecutive ports of 127.0.0.1 that nobody uses at the moment, outside the range that port 0 is
/// taken from.
pub(crate) fn free_ports(count: u16) -> RangeInclusive<u16> {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    loop {
        let first = fastrand::u16(10_000..30_000);
        let ports = first..=first + count - 1;
        if ports.clone().all(free) {
            return ports;
        }
    }
}
