//! Taking connections in: fair, never spinning, never deaf. Row RX-1 and all forms of `bind`.

use std::time::{Duration, Instant};

use crate::support::proxy::free_ports;
use crate::support::setup::Scratch;
use crate::support::{
    Peer, Proxy, SLACK, Setup, TestBackend, eventually, ms, pause, procfs, skipped,
};

#[test]
fn out_of_descriptors_it_pauses_without_spinning_and_resumes() {
    let backend = TestBackend::echo();
    let proxy = Proxy::before(&backend);
    let mut inside: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    inside.iter().for_each(|client| client.expect_echo("hello"));
    proxy.leave_descriptors(0);
    let mut waiting: Vec<_> = (0..40).map(|_| proxy.client()).collect();
    waiting.iter().for_each(|client| client.send("x"));
    let lines = proxy.log().len();
    let share = proxy.processor_share(Duration::from_secs(2));
    assert!(share < 0.1, "uses {share} of a core while it can do nothing");
    let lines = proxy.log().len() - lines;
    assert!(lines <= 4, "{lines} lines in two seconds");
    assert_eq!(backend.accepted(), 10);
    inside.iter().for_each(|client| client.expect_echo("goes on"));
    // Places are free again: some that waited get them.
    inside.truncate(5);
    eventually(Duration::from_secs(1) + SLACK, "it resumes", || backend.accepted() > 10);
    proxy.leave_all_descriptors();
    eventually(Duration::from_secs(1) + SLACK, "nobody is left waiting", || {
        waiting.retain(|client| !has_answer(client));
        waiting.is_empty()
    });
    proxy.client().expect_echo("all is well again");
}

/// Whether the answer to one byte, or the end, has come.
fn has_answer(client: &Peer) -> bool {
    client.socket().set_read_timeout(Some(ms(1))).unwrap();
    let came = client.try_read(&mut [0; 8]);
    client.socket().set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    came.is_ok() || came.is_err_and(|e| crate::support::peer::is_reset(&e))
}

#[test]
fn errors_of_accept_are_survived() {
    let backend = TestBackend::echo();
    let proxy = Proxy::before(&backend);
    for error in ["ECONNABORTED", "ENFILE", "ENOMEM"] {
        let Some(_tracer) = Strace::inject(&proxy, &format!("accept4:error={error}:when=1..2"))
        else {
            skipped("strace cannot trace here");
            return;
        };
        let start = Instant::now();
        proxy.client().expect_echo("hello");
        assert!(start.elapsed() < Duration::from_secs(5), "{error}: took {:?}", start.elapsed());
    }
    proxy.client().expect_echo("and without the tracer");
}

/// A tracer that makes system calls of the program fail.
struct Strace(std::process::Child);

impl Strace {
    fn inject(proxy: &Proxy, what: &str) -> Option<Self> {
        use std::process::{Command, Stdio};
        let call = what.split(':').next()?;
        let mut child = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={call}"), "-e", &format!("inject={what}")])
            .args(["-o", "/dev/null", "-p", &proxy.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let start = Instant::now();
        while !all_traced(proxy.pid()) {
            if child.try_wait().ok()?.is_some() || start.elapsed() > Duration::from_secs(3) {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            pause(ms(5));
        }
        Some(Self(child))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

fn all_traced(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0")
    })
}

#[test]
fn long_connections_are_spread_over_the_threads() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).threads(4).start();
    // One after the other, each when nothing else is to be done: the case in which one thread may
    // easily get them all.
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let client = proxy.client();
            client.expect_echo("hello");
            client
        })
        .collect();
    let before = procfs::thread_times(proxy.pid());
    for _ in 0..100 {
        clients.iter().for_each(|client| client.expect_echo("x"));
    }
    let after = procfs::thread_times(proxy.pid());
    let mut work: Vec<_> = after.iter().map(|(id, time)| *time - before[id]).collect();
    work.sort_unstable();
    work.reverse();
    assert!(work[3] * 4 > work[0], "work of the threads: {work:?}");
}

#[test]
fn the_limit_of_descriptors_is_raised_at_start() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).descriptors(64, 512).start();
    assert_eq!(procfs::descriptor_limits(proxy.pid()), (512, 512));
    let clients: Vec<_> = (0..60).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| client.expect_echo("x"));
}

#[test]
fn an_automatic_limit_keeps_within_the_descriptors() {
    // More clients than descriptors: those in are whole connections, the others wait for a place.
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).descriptors(256, 256).start();
    let clients: Vec<_> = (0..100).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| client.send("x"));
    let mut waiting = clients;
    eventually(Duration::from_secs(20), "all are served in turn", || {
        // Each one leaves when it is served, which makes room.
        waiting.retain(|client| !has_answer(client));
        waiting.is_empty()
    });
    eventually(SLACK, "all end well", || proxy.ended().len() == 100);
    proxy.expect_ends(&["client_closed"; 100]);
}

#[test]
fn all_forms_of_bind_are_listened_on() {
    let backend = TestBackend::echo();
    let scratch = Scratch::new();
    let socket = scratch.path().join("front.sock");
    let ports = free_ports(3);
    let text = format!(
        "listeners:\n  one: {{bind: \"127.0.0.1:0\", pool: app}}\n  \
         two: {{bind: [\"127.0.0.1:0\", \"[::1]:0\"], pool: app}}\n  \
         range: {{bind: \"127.0.0.1:{}-{}\", pool: app}}\n  \
         path: {{bind: \"unix:{}\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        ports.start(),
        ports.end(),
        socket.display(),
        backend.address()
    );
    let proxy = Setup::yaml(text).listening(7).start();
    for (listener, count) in [("one", 1), ("two", 2), ("range", 3), ("path", 1)] {
        let addresses = proxy.addresses_of(listener);
        assert_eq!(addresses.len(), count, "{listener}: {addresses:?}");
        for address in addresses {
            Peer::connect(address).expect_echo("hello");
        }
    }
    let listeners: Vec<_> = proxy.addresses_of("range");
    let expected: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    assert_eq!(listeners, expected);
    proxy.expect_ends(&["client_closed"; 7]);
}

#[test]
fn an_ipv6_listener_takes_no_ipv4() {
    let backend = TestBackend::echo();
    let text = format!(
        "listeners:\n  six: {{bind: \"[::]:0\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        backend.address()
    );
    let proxy = Setup::yaml(text).start();
    let port = proxy.address().rsplit(':').next().unwrap();
    Peer::connect(&format!("[::1]:{port}")).expect_echo("hello");
    let four = format!("127.0.0.1:{port}");
    assert!(Peer::connect_with(&four, crate::support::peer::Options::default()).is_err());
}

#[test]
fn a_second_instance_on_the_same_address_does_not_start() {
    // Sockets that several threads share must not let another process in by mistake.
    let backend = TestBackend::named("first");
    let proxy = Proxy::before(&backend);
    let listen = ["run", "--listen", proxy.address(), "--backend", "127.0.0.1:9"];
    let outcome = crate::support::cli::tidegate(&listen);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains(proxy.address()), "{}", outcome.stderr);
    proxy.client().expect("first");
}

#[test]
fn a_unix_socket_left_behind_does_not_prevent_a_start() {
    let backend = TestBackend::echo();
    let scratch = Scratch::new();
    let text = format!(
        "listeners:\n  web: {{bind: \"unix:{}\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        scratch.path().join("front.sock").display(),
        backend.address()
    );
    // Killed, it cannot clean up after itself.
    drop(Setup::yaml(&text).start());
    let proxy = Setup::yaml(&text).start();
    proxy.client().expect_echo("hello");
}

#[test]
fn a_unix_socket_in_use_is_not_taken_from_another_instance() {
    let backend = TestBackend::named("first");
    let scratch = Scratch::new();
    let path = format!("unix:{}", scratch.path().join("front.sock").display());
    let listen = format!("listeners:\n  web: {{bind: \"{path}\", pool: app}}\n");
    let pool = format!("pools:\n  app: {{backends: [\"{}\"]}}\n", backend.address());
    let proxy = Setup::yaml(listen + &pool).start();
    let outcome =
        crate::support::cli::tidegate(&["run", "--listen", &path, "--backend", "127.0.0.1:9"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    proxy.client().expect("first");
}

#[test]
fn connections_pass_with_every_option_of_tcp_turned() {
    let backend = TestBackend::echo();
    for options in [
        "nodelay: false, keepalive: off, user_timeout: off, backlog: 1",
        "nodelay: true, keepalive: 5s, user_timeout: 5s, backlog: 65535",
        "defer_accept: 1s, fast_open: true",
    ] {
        let proxy = Setup::to([backend.address()]).listener(&format!("tcp: {{{options}}}")).start();
        let clients: Vec<_> = (0..5).map(|_| proxy.client()).collect();
        clients.iter().for_each(|client| client.expect_echo("hello"));
    }
}

#[test]
fn deferred_accept_waits_for_the_clients_first_bytes() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).listener("tcp: {defer_accept: 5s}").start();
    let client = proxy.client();
    pause(ms(150));
    assert_eq!(backend.accepted(), 0);
    client.expect_echo("now");
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn the_number_of_threads_is_as_configured() {
    let backend = TestBackend::echo();
    let threads = |count| {
        let proxy = Setup::to([backend.address()]).threads(count).start();
        proxy.client().expect_echo("hello");
        procfs::thread_times(proxy.pid()).len()
    };
    assert_eq!(threads(5) - threads(2), 3);
}
