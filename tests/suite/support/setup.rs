//! How the program under test is to be started.

use std::fmt::{Display, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::Socket;

use super::Proxy;

/// A configuration and what else belongs to a start of the program.
#[derive(Clone)]
pub(crate) struct Setup {
    text: Option<String>,
    listener: String,
    pool: String,
    runtime: String,
    head: String,
    log: String,
    pub(super) backends: Vec<String>,
    threads: u32,
    pub(super) listening: usize,
    descriptors: Option<(u32, u32)>,
    is_replaceable: bool,
    environment: Vec<(&'static str, String)>,
    activation: Option<(Arc<Socket>, Arc<Socket>, &'static str)>,
}

impl Setup {
    /// One listener `web` on a free port of 127.0.0.1 and one pool `app` of these backends, each an
    /// address or a mapping as text: `{address: …, weight: 3}`.
    pub(crate) fn to(backends: impl IntoIterator<Item: Display>) -> Self {
        let backends = backends.into_iter().map(|backend| match backend.to_string() {
            mapping if mapping.starts_with('{') => mapping,
            address => format!("\"{address}\""),
        });
        let backends = backends.collect();
        Self { backends, text: None, ..Self::yaml("") }
    }

    /// The sections `listeners` and `pools` of a file. `runtime` and `log` are added.
    pub(crate) fn yaml(text: impl Into<String>) -> Self {
        Self {
            text: Some(text.into()),
            listener: String::new(),
            pool: String::new(),
            runtime: String::new(),
            head: String::new(),
            log: String::new(),
            backends: Vec::new(),
            threads: std::env::var("TIDEGATE_TEST_THREADS")
                .map_or(4, |threads| threads.parse().expect("TIDEGATE_TEST_THREADS is a number")),
            listening: 1,
            descriptors: None,
            is_replaceable: false,
            environment: Vec::new(),
            activation: None,
        }
    }

    /// Keys of the listener, as in a flow mapping: `max_connections: 3, over_limit: close`.
    pub(crate) fn listener(mut self, keys: &str) -> Self {
        let _ = write!(self.listener, ", {keys}");
        self
    }

    /// Keys of the pool.
    pub(crate) fn pool(mut self, keys: &str) -> Self {
        let _ = write!(self.pool, ", {keys}");
        self
    }

    /// Keys of `runtime`.
    pub(crate) fn runtime(mut self, keys: &str) -> Self {
        let _ = write!(self.runtime, ", {keys}");
        self
    }

    /// A line at the top of the file: a section that no other word is for.
    pub(crate) fn head(mut self, line: &str) -> Self {
        self.head.push_str(line);
        self.head.push('\n');
        self
    }

    /// Further keys of `log`, each after a comma.
    pub(crate) fn with_log(mut self, keys: &str) -> Self {
        self.log.push_str(keys);
        self
    }

    /// Worker threads, where the test depends on their number; else `TIDEGATE_TEST_THREADS` or 4.
    pub(crate) fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// How many addresses will be listened on; 1 unless said.
    pub(crate) fn listening(mut self, addresses: usize) -> Self {
        self.listening = addresses;
        self
    }

    /// The limits of open descriptors, set before the program starts.
    pub(crate) fn descriptors(mut self, soft: u32, hard: u32) -> Self {
        self.descriptors = Some((soft, hard));
        self
    }

    /// Runs the program from a file in its directory, which [`Proxy::replace_binary`] replaces.
    pub(crate) fn replaceable(mut self) -> Self {
        self.is_replaceable = true;
        self
    }

    /// Sets a variable of the program's environment.
    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Starts it as a service manager does that has opened these two sockets, for the process whose
    /// number the shell makes of `pid`: `$$` is the program's own.
    pub(crate) fn activated(
        mut self,
        one: &Arc<Socket>,
        two: &Arc<Socket>,
        pid: &'static str,
    ) -> Self {
        self.activation = Some((Arc::clone(one), Arc::clone(two), pid));
        self
    }

    /// Starts the program and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        Proxy::start(self)
    }

    /// The whole configuration file.
    pub(crate) fn file(&self) -> String {
        let head = format!(
            "runtime: {{threads: {}{}}}\nlog: {{format: json, level: debug{}}}\n",
            self.threads, self.runtime, self.log
        );
        let body = self.text.clone().unwrap_or_else(|| {
            format!(
                "listeners:\n  web: {{bind: \"127.0.0.1:0\", pool: app{}}}\n\
                 pools:\n  app: {{backends: [{}]{}}}\n",
                self.listener,
                self.backends.join(", "),
                self.pool
            )
        });
        head + &self.head + &body
    }

    /// The command that runs the program on this configuration, written to `directory`.
    pub(super) fn command(&self, directory: &Path) -> Command {
        let file = directory.join("tidegate.yaml");
        std::fs::write(&file, self.file()).unwrap();
        let binary = match self.is_replaceable {
            false => PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
            true => own_binary(directory),
        };
        let mut command = match self.descriptors {
            None if self.activation.is_some() => {
                let pid = self.activation.as_ref().map_or("", |(_, _, pid)| pid);
                let mut shell = Command::new("sh");
                let variables = format!("LISTEN_PID={pid} LISTEN_FDS=2 LISTEN_FDNAMES=one:two");
                let passed = "exec 3<&0 4>&1 </dev/null >&2";
                shell.args(["-c", &format!("{passed}; {variables} exec \"$0\" \"$@\"")]);
                shell.arg(&binary);
                shell
            }
            None => Command::new(&binary),
            Some((soft, hard)) => {
                let mut shell = Command::new("sh");
                let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard}");
                shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]).arg(&binary);
                shell
            }
        };
        command.args(["run", "-c"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some((one, two, _)) = &self.activation {
            let passed = |socket: &Socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
            command.stdin(passed(one)).stdout(passed(two));
        }
        command.current_dir(directory).env_remove("TIDEGATE_CONFIG").env_remove("RUST_LOG");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The program under another name in `directory`. Nothing is opened for writing here: what another
/// thread starts meanwhile would hold it open, and a file that is open for writing cannot be run.
fn own_binary(directory: &Path) -> PathBuf {
    let (program, own) = (env!("CARGO_BIN_EXE_tidegate"), directory.join("tidegate"));
    if std::fs::hard_link(program, &own).is_err() {
        let done = Command::new("cp").arg(program).arg(&own).status().unwrap();
        assert!(done.success());
    }
    own
}

/// A directory of its own, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty directory.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-suite-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
