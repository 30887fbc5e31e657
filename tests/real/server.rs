//! Programs from packages, started on addresses of their own and ended with the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Instant;

use crate::support::log::Log;
use crate::support::{PATIENCE, ms, pause, procfs, skipped};

/// A server that runs; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    log: Log,
}

impl Server {
    /// Starts what `command` says for an address, which nobody else has, and waits until it listens there.
    #[track_caller]
    pub(crate) fn start(command: impl FnOnce(SocketAddr) -> Command) -> Self {
        let address = own_address();
        let server = Self::spawn(command(address), address).listening();
        server.unwrap_or_else(|| panic!("the server did not start, see above"))
    }

    /// Starts `command` on the address that this server had, which must have ended. Children of it may
    /// take a moment to follow it: until then the address is theirs.
    #[track_caller]
    pub(crate) fn start_again(self, command: impl Fn(SocketAddr) -> Command) -> Self {
        let address = self.address;
        drop(self);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(server) = Self::spawn(command(address), address).listening() {
                return server;
            }
            pause(ms(50));
        }
        panic!("the server did not start again, see above");
    }

    fn spawn(mut command: Command, address: SocketAddr) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let log = Log::default();
        log.collect(child.stdout.take().unwrap());
        log.collect(child.stderr.take().unwrap());
        Self { child, address, log }
    }

    fn listening(mut self) -> Option<Self> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE && self.child.try_wait().unwrap().is_none() {
            let sockets = procfs::tcp_sockets(self.child.id(), Some(procfs::LISTEN));
            if sockets.iter().any(|socket| socket.local == self.address) {
                return Some(self);
            }
            pause(ms(5));
        }
        eprintln!("{}", self.log.tail());
        None
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the last lines of the server:\n{}", self.log.tail());
        }
    }
}

/// The path of a program of `package`. Without it, the test is to return at once.
#[track_caller]
pub(crate) fn program(name: &str, package: &str) -> Option<PathBuf> {
    let found = search_path().map(|directory| directory.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let reason = format!("{name} is not installed (package {package})");
        assert!(std::env::var_os("TIDEGATE_REQUIRE_REAL").is_none(), "{reason}");
        skipped(&reason);
    }
    found
}

/// `PATH`, and where Debian keeps servers.
fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    directories.extend(versions.map(|version| version.path().join("bin")));
    directories.into_iter()
}

/// Runs a command to its end and gives what it wrote; it must succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{text}{errors}");
    text
}

/// The SHA-256 of a file, or of what `feed` writes.
pub(crate) fn sha256(file: &Path) -> String {
    run(Command::new("sha256sum").stdin(std::fs::File::open(file).unwrap()))
}

/// A loopback address that no other server of a test has, in this process or another, with a port that
/// the kernel gives to nobody who asks for any: it stays this server's while that is down.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, SeqCst);
    (Ipv4Addr::new(127, high | 0x80, low, next), 9501).into()
}
