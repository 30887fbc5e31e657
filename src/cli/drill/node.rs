//! Worker nodes as processes of their own, and the door at which a restart is asked for.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::settings::PROGRAM;
use super::stage::Failure;
use crate::cli::demo::answer_all;
use crate::cli::{FAILED, complain, print};

/// How long a node may take to listen.
const START: Duration = Duration::from_secs(10);
/// How long whoever comes to the door may take to say what is wanted.
const MANNERS: Duration = Duration::from_secs(1);

/// What the hidden command `demo-node` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct NodeArguments {
    /// What it is called
    name: String,
    /// Where it listens
    address: SocketAddr,
    /// The process that it ends with
    parent: i32,
}

/// What the hidden command `demo-restart` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RestartArguments {
    /// The node
    name: String,
    /// The door of the drill: the name of an abstract unix socket
    door: String,
}

/// `demo-node`: is a worker node until it is killed or its parent ends.
///
/// # Errors
///
/// The exit code, when it cannot listen.
pub(in crate::cli) fn serve(arguments: NodeArguments) -> Result<(), u8> {
    let NodeArguments { name, address, parent } = arguments;
    let fail = |error: io::Error| {
        complain(&format!("tidegate: {name} cannot listen on {address}: {error}"));
        FAILED
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| fail(e.into()))?;
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        // It ended before we could ask to be told.
        return Err(FAILED);
    }
    let listener = TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(fail)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(fail)?;
        print(&format!("{address}\n"))?;
        answer_all(&name, &listener).await;
        Ok(())
    })
}

/// `demo-restart`: asks the drill to start a node again, and waits until it listens.
///
/// # Errors
///
/// The exit code, when the drill does not answer or the node does not start.
pub(in crate::cli) fn restart(arguments: &RestartArguments) -> Result<(), u8> {
    let RestartArguments { name, door } = arguments;
    let ask = || -> io::Result<String> {
        let mut stream = unix::UnixStream::connect_addr(&address_of(door)?)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(name.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let what = match ask() {
        Ok(answer) if answer == STARTED => return print(&format!("{name} {STARTED}\n")),
        Ok(answer) => answer,
        Err(error) => error.to_string(),
    };
    complain(&format!("tidegate: {name} is not started again: {what}"));
    Err(FAILED)
}

/// The answer when a node listens again.
const STARTED: &str = "started again";

/// Where restarts are asked for. In no file system: nothing is left behind, however this ends.
#[derive(Debug)]
pub(super) struct Door {
    name: String,
    listener: UnixListener,
}

impl Door {
    /// Opens it, under a name of its own.
    pub(super) fn open() -> io::Result<Self> {
        let name = format!("tidegate-drill-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let listener = unix::UnixListener::bind_addr(&address_of(&name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, name })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for somebody of this user. Cancel safe.
    pub(super) async fn knock(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if is_ours(&stream) => return stream,
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn address_of(door: &str) -> io::Result<unix::SocketAddr> {
    unix::SocketAddr::from_abstract_name(door)
}

fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::getuid().as_raw())
}

/// The worker nodes. Dropping them kills those that run, frozen ones too.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: BTreeMap<&'static str, Node>,
    order: Vec<&'static str>,
}

#[derive(Debug)]
struct Node {
    address: SocketAddr,
    /// `None` while it is dead.
    child: Option<Child>,
}

impl Nodes {
    /// Starts a node of each name, on a port that the kernel chooses.
    pub(super) async fn start(names: &[&'static str]) -> Result<Self, Failure> {
        let mut nodes = BTreeMap::new();
        for name in names {
            let (child, address) = spawn(name, ([127, 0, 0, 1], 0).into()).await?;
            nodes.insert(*name, Node { address, child: Some(child) });
        }
        Ok(Self { nodes, order: names.to_vec() })
    }

    /// Where they listen, in the order of their names at the start.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.order
            .iter()
            .filter_map(|name| Some(self.nodes.get(name)?.address.to_string()))
            .collect()
    }

    /// Kills a node, and waits until its port is closed.
    pub(super) async fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let Some(node) = self.nodes.get_mut(name) else { return Err(unknown(name)) };
        if let Some(mut child) = node.child.take() {
            child.kill().await.map_err(|error| failed(name, error))?;
        }
        Ok(())
    }

    /// Stops a node where it stands, or lets it go on.
    pub(super) fn signal(&self, name: &str, signal: Signal) -> Result<(), Failure> {
        let child = self.nodes.get(name).and_then(|node| node.child.as_ref());
        let pid = child.and_then(Child::id).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| unknown(name))?;
        kill_process(pid, signal).map_err(|error| failed(name, error.into()))
    }

    /// Starts a node that was killed, where it was. Not cancel safe: to be run to its end.
    pub(super) async fn start_again(&mut self, name: &str) -> Result<(), Failure> {
        let Some(node) = self.nodes.get_mut(name) else { return Err(unknown(name)) };
        if node.child.is_none() {
            node.child = Some(spawn(name, node.address).await?.0);
        }
        Ok(())
    }

    /// Does what somebody at the door wants: starts a node again, and answers when it listens.
    /// Not cancel safe: to be run to its end.
    pub(super) async fn serve(&mut self, mut visitor: UnixStream) {
        let mut name = String::new();
        let mut said = (&mut visitor).take(100);
        if !matches!(timeout(MANNERS, said.read_to_string(&mut name)).await, Ok(Ok(_))) {
            return;
        }
        let answer = match self.start_again(&name).await {
            Ok(()) => STARTED.to_owned(),
            Err(failure) => failure.to_string(),
        };
        // Whoever has gone meanwhile is told nothing.
        let _ = timeout(MANNERS, visitor.write_all(answer.as_bytes())).await;
    }
}

fn unknown(name: &str) -> Failure {
    failed(name, ErrorKind::NotFound.into())
}

fn failed(name: &str, error: io::Error) -> Failure {
    Failure::Node { name: name.to_owned(), error }
}

/// Starts a node and waits until it says where it listens.
///
/// A process group of its own, so that Ctrl-C is ours alone to hear.
async fn spawn(name: &str, address: SocketAddr) -> Result<(Child, SocketAddr), Failure> {
    let parent = std::process::id().to_string();
    let child = Command::new(PROGRAM)
        .args(["demo-node", name, &address.to_string(), &parent])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| failed(name, error))?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let line = timeout(START, output.read_line(&mut said)).await;
        line.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map_err(|e| failed(name, e))?;
    }
    match said.trim().parse() {
        Ok(address) => Ok((child, address)),
        // It has said why on standard error.
        Err(_) => Err(failed(name, io::Error::other("it did not start"))),
    }
}
