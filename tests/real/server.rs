//! Programs from packages, started on free ports and ended with the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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
    /// Starts what `command` says for a port, and waits until it listens there.
    ///
    /// A port that was free may be taken by the time the server binds it: then another is tried.
    #[track_caller]
    pub(crate) fn start(command: impl Fn(u16) -> Command) -> Self {
        for _ in 0..5 {
            let address = free_address();
            let server = Self::spawn(command(address.port()), address);
            if let Some(server) = server.listening() {
                return server;
            }
        }
        panic!("the server did not start, see above");
    }

    /// Starts `command` on the address that this server had, which must have ended.
    ///
    /// Meanwhile a connection of another test may have been given the port: then it waits until that
    /// has ended.
    #[track_caller]
    pub(crate) fn start_again(self, command: impl Fn() -> Command) -> Self {
        let address = self.address;
        drop(self);
        for _ in 0..20 {
            if let Some(server) = Self::spawn(command(), address).listening() {
                return server;
            }
            pause(ms(200));
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
            let sockets = procfs::tcp_sockets(self.child.id(), None);
            if sockets.iter().any(|s| s.state == procfs::LISTEN && s.local == self.address) {
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

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
