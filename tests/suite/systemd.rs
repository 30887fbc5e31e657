//! What a service manager passes to the program, and what it is told (sd_notify(3), sd_listen_fds(3)).

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use super::support::setup::Scratch;
use super::support::{End, PATIENCE, Peer, Setup, TestBackend, eventually, ms, procfs};
use super::upgrade::Successor;

/// A service manager's end of the notification socket.
struct Manager {
    socket: UnixDatagram,
    folder: Scratch,
}

impl Manager {
    fn new() -> Self {
        let folder = Scratch::new();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { socket, folder }
    }

    /// The next message, within this time.
    fn next(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..count].to_vec()).unwrap())
    }

    /// The next message that is no sign of life.
    #[track_caller]
    fn expect(&self) -> Vec<String> {
        self.expect_without_a_gap(PATIENCE)
    }

    /// The same; until then signs of life come without a gap of `limit`.
    #[track_caller]
    fn expect_without_a_gap(&self, limit: Duration) -> Vec<String> {
        loop {
            let message = self.next(limit).expect("a message in time");
            if message.trim() != "WATCHDOG=1" {
                return message.trim().lines().map(str::to_owned).collect();
            }
        }
    }

    /// Signs of life come for `time` without a gap of `limit`, and nothing else does.
    #[track_caller]
    fn expect_signs_of_life(&self, time: Duration, limit: Duration) {
        let start = Instant::now();
        let mut last = start;
        while start.elapsed() < time {
            let message = self.next(PATIENCE).expect("a sign of life");
            assert_eq!(message.trim(), "WATCHDOG=1");
            assert!(last.elapsed() < limit, "silent for {:?}", last.elapsed());
            last = Instant::now();
        }
    }

    fn setup(&self, backend: &TestBackend) -> Setup {
        let path = self.folder.path().join("notify");
        Setup::to([backend.address()]).variable("NOTIFY_SOCKET", path.to_str().unwrap())
    }
}

#[test]
fn systemd_is_told_of_start_reload_and_stop() {
    let (backend, manager) = (TestBackend::named("one"), Manager::new());
    let mut proxy = manager.setup(&backend).start();
    let main = format!("MAINPID={}", proxy.pid());
    assert_eq!(manager.expect(), [&main, "READY=1"]);
    proxy.client().expect("one");
    proxy.signal(Signal::HUP);
    let reloading = manager.expect();
    assert_eq!(reloading[0], "RELOADING=1");
    // Type=notify-reload wants to know when, by the clock of CLOCK_MONOTONIC.
    let at: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000;
    assert!(at > now - 10_000_000 && at < now + 2_000_000, "{at}, now {now}");
    assert_eq!(manager.expect(), [&main, "READY=1"]);
    // A reload that is refused ends as well: else systemd would wait for it.
    std::fs::write(proxy.directory().join("tidegate.yaml"), "nonsense: 1\n").unwrap();
    proxy.signal(Signal::HUP);
    assert_eq!(manager.expect()[0], "RELOADING=1");
    assert_eq!(manager.expect(), [&main, "READY=1"]);
    proxy.signal(Signal::TERM);
    assert_eq!(manager.expect(), ["STOPPING=1"]);
    assert!(proxy.expect_exit(PATIENCE).success());
    assert_eq!(manager.next(ms(50)), None);
}

#[test]
fn after_an_upgrade_the_new_process_is_the_main_one_and_gives_the_signs_of_life() {
    const LIMIT: Duration = ms(1500);
    let (backend, manager) = (TestBackend::named("one"), Manager::new());
    let mut proxy = manager
        .setup(&backend)
        .variable("WATCHDOG_USEC", LIMIT.as_micros().to_string())
        .replaceable()
        .start();
    assert_eq!(manager.expect(), [&format!("MAINPID={}", proxy.pid()), "READY=1"]);
    manager.expect_signs_of_life(LIMIT * 2, LIMIT);
    let old = proxy.client();
    old.expect("one");
    // Slower to start than the watchdog is patient.
    proxy.replace_binary(&format!("sleep 2; exec {} \"$@\"", env!("CARGO_BIN_EXE_tidegate")));
    proxy.signal(Signal::USR2);
    // Both say so; which one comes first is chance.
    let mut told = [manager.expect_without_a_gap(LIMIT), manager.expect_without_a_gap(LIMIT)];
    let successor = Successor::of(&proxy, 1);
    let main = format!("MAINPID={}", successor.pid());
    told.sort();
    assert_eq!(told, [vec![main.clone()], vec![main, "READY=1".to_owned()]]);
    manager.expect_signs_of_life(LIMIT, LIMIT);
    old.fin();
    old.expect_end(End::Fin);
    assert!(proxy.expect_exit(PATIENCE).success());
    // Its end was no end of the service.
    manager.expect_signs_of_life(LIMIT * 2, LIMIT);
    successor.signal(Signal::TERM);
    assert_eq!(manager.expect(), ["STOPPING=1"]);
    successor.expect_exit(PATIENCE);
}

/// A listening TCP socket and a unix one, as a service manager opens them.
fn opened(path: &Path) -> (Arc<Socket>, Arc<Socket>, String) {
    let tcp = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    tcp.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    unix.bind(&SockAddr::unix(path).unwrap()).unwrap();
    [&tcp, &unix].iter().for_each(|socket| socket.listen(128).unwrap());
    let address = tcp.local_addr().unwrap().as_socket().unwrap().to_string();
    (Arc::new(tcp), Arc::new(unix), address)
}

fn text(backend: &TestBackend, tcp: &str, unix: &str) -> String {
    format!(
        "listeners:\n  web: {{bind: \"{tcp}\", pool: app}}\n  local: {{bind: \"{unix}\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        backend.address()
    )
}

/// Whether this process holds the socket at the other end of ours: listening sockets by their inodes.
fn holds(pid: u32, socket: &Socket) -> bool {
    let inode = rustix::fs::fstat(socket).unwrap().st_ino;
    procfs::descriptors(pid).values().any(|what| *what == format!("socket:[{inode}]"))
}

#[test]
fn sockets_that_a_service_manager_has_opened_are_used_and_outlive_the_program() {
    let (backend, folder) = (TestBackend::named("one"), Scratch::new());
    let path = folder.path().join("tidegate.sock");
    let (tcp, unix, address) = opened(&path);
    let unix_address = format!("unix:{}", path.display());
    let setup = Setup::yaml(text(&backend, &address, &unix_address)).listening(2);
    let setup = setup.activated(&tcp, &unix, "$$");
    let serves = || {
        for address in [&address, &unix_address] {
            let client = Peer::connect(address);
            client.expect("one");
            client.fin();
            client.expect_end(End::Fin);
        }
    };
    let mut proxy = setup.clone().start();
    assert!(holds(proxy.pid(), &tcp) && holds(proxy.pid(), &unix));
    serves();
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&proxy, 1);
    proxy.expect_exit(PATIENCE);
    assert!(holds(successor.pid(), &tcp) && holds(successor.pid(), &unix));
    serves();
    successor.signal(Signal::TERM);
    successor.expect_exit(PATIENCE);
    // The manager has them still: who comes meanwhile is served by the next one.
    assert!(path.exists());
    let waiting: Vec<_> = (0..40)
        .flat_map(|_| [&address, &unix_address])
        .map(|address| Peer::connect(address))
        .collect();
    let _proxy = setup.start();
    for client in waiting {
        client.expect("one");
        client.fin();
    }
}

#[test]
fn a_socket_that_is_for_nobody_is_named_and_those_of_another_process_are_not_touched() {
    let (backend, folder) = (TestBackend::named("one"), Scratch::new());
    let path = folder.path().join("tidegate.sock");
    let (tcp, unix, _) = opened(&path);
    let other = Setup::to([backend.address()]);
    let proxy = other.clone().activated(&tcp, &unix, "$$").start();
    let named = |word: &str| {
        let lines = proxy.log().lines();
        lines.iter().any(|line| {
            line.text().contains("no listener has its address") && line.text().contains(word)
        })
    };
    eventually(PATIENCE, "both are named", || named("127.0.0.1:") && named("tidegate.sock"));
    proxy.client().expect("one");
    assert!(!holds(proxy.pid(), &tcp) && !holds(proxy.pid(), &unix));
    let proxy = other.activated(&tcp, &unix, "1").start();
    proxy.client().expect("one");
    assert!(holds(proxy.pid(), &tcp), "descriptors that are not said to be for it are left alone");
}
