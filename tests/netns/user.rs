//! [RX-4] As an ordinary user, whom the kernel gives few and small pipes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::log::Log;
use crate::support::setup::Scratch;
use crate::support::{
    End, PATIENCE, Pattern, Peer, TestBackend, at_once, eventually, ms, pause, procfs,
};
use crate::{has, refuse};

const SESSIONS: usize = 2_000;
const BYTES: u64 = 256 * 1024;
/// How long a session may wait for its next byte: all of them share two cores with their peers.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const THREADS: usize = 2;
/// The most pipes of a thread, each two descriptors.
const PIPES: usize = 256;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program before `backend`; as `nobody` when this is root.
fn start_as_nobody(scratch: &Scratch, backend: &str) -> (Program, Log, String) {
    let binary = scratch.path().join("tidegate");
    std::fs::copy(Path::new(env!("CARGO_BIN_EXE_tidegate")), &binary).unwrap();
    let text = format!(
        "runtime: {{threads: {THREADS}}}\nlog: {{format: json}}\n\
         listeners: {{web: {{bind: \"127.0.0.1:0\", pool: app}}}}\n\
         pools: {{app: {{backends: [\"{backend}\"]}}}}\n"
    );
    let file = scratch.write("tidegate.yaml", text);
    let mut command = Command::new(&binary);
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&binary);
    }
    command.args(["run", "-c", &file]).env_remove("RUST_LOG").stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Log::default();
    log.collect(child.stdout.take().unwrap());
    log.collect(child.stderr.take().unwrap());
    let program = Program(child);
    let mut address = None;
    eventually(PATIENCE, "it listens", || {
        let lines = log.lines();
        let line = lines.iter().find(|line| line.text().contains("listening"));
        address = line.and_then(|line| line.field("address"));
        address.is_some()
    });
    (program, log, address.unwrap())
}

fn patient(peer: &Peer) -> &Peer {
    peer.socket().set_read_timeout(Some(LONGEST_WAIT)).unwrap();
    peer.socket().set_write_timeout(Some(LONGEST_WAIT)).unwrap();
    peer
}

fn pipes(pid: u32) -> usize {
    procfs::descriptors(pid).values().filter(|what| what.starts_with("pipe:")).count()
}

#[test]
fn two_thousand_bulk_sessions_of_an_ordinary_user_share_its_pipes() {
    if !has("setpriv", "--version") {
        return;
    }
    let limit = getrlimit(Resource::Nofile).maximum;
    if limit.is_some_and(|limit| limit < 3 * SESSIONS as u64) {
        refuse("too few descriptors are allowed (ulimit -Hn)");
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let backend = TestBackend::scripted(|peer| {
        patient(&peer).expect("go");
        Pattern::new(3).send(&peer, BYTES);
        peer.fin();
        peer.expect_end(End::Fin);
    });
    let scratch = Scratch::new();
    let (program, log, address) = start_as_nobody(&scratch, backend.address());
    let (all_open, done, most) = (Barrier::new(SESSIONS), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(SeqCst) < SESSIONS {
                most.fetch_max(pipes(program.0.id()), SeqCst);
                pause(ms(20));
            }
        });
        at_once(SESSIONS, |_| {
            let counted = Counted(&done);
            let client = Peer::connect(&address);
            all_open.wait();
            patient(&client).send("go");
            // Compares every byte.
            assert_eq!(Pattern::new(3).receive_all(&client), (BYTES, End::Fin));
            drop(counted);
        });
    });
    // The standard outputs and the runtime's own are no pipes of a connection's.
    let most = most.load(SeqCst);
    assert!(most > 4 && most <= 2 * PIPES * THREADS + 16, "{most} ends of pipes");
    let bad = |level: &str| log.lines().iter().any(|line| line.level() == level);
    assert!(!bad("ERROR") && !bad("WARN"), "{}", log.tail());
    eventually(PATIENCE, "all sockets are closed", || procfs::socket_count(program.0.id()) < 20);
}

/// Counts up when dropped, also by a panic.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}
