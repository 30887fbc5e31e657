//! Another process takes over: the binary is started anew on the same listening sockets.
//!
//! ```text
//! old                                      new
//! starts it, a unix socket as its stdin ─► finds the socket, and that its parent is at the other end
//! offer: doors, state; then the sockets ─► reads its configuration, starts on what it can use
//! leaves its doors, drains, exits       ◄─ answer: what it has taken, it serves
//! ```
//!
//! Both accept from the same sockets for a moment, so that nothing is lost. If the new one exits,
//! hangs or refuses its configuration, the old one goes on as if nothing had been.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::Saved;
use crate::net::addr::Address;
use crate::net::pass;

/// Tells a process that its standard input is the socket to take over from.
const VARIABLE: &str = "TIDEGATE_UPGRADE";
/// How long the new process may take to serve.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that has given up may take to say why and end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What marks an offer as ours.
const FORMAT: &str = "tidegate-upgrade";
/// The version that is spoken.
const VERSION: u32 = 1;
/// Largest message, in bytes.
const MAX_BYTES: u32 = 256 << 20;

/// What the old process offers; the sockets follow it, door by door.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    format: String,
    version: u32,
    doors: Vec<OfferedDoor>,
    /// Whether the socket of the admin endpoint comes last, and where it is bound.
    admin: Option<String>,
    state: Saved,
}

#[derive(Debug, Serialize, Deserialize)]
struct OfferedDoor {
    listener: String,
    /// As its configuration has it.
    wanted: String,
    /// As it is bound.
    address: String,
    sockets: usize,
}

/// What the new process answers once it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// The doors it accepts at, by their place in the offer.
    taken: Vec<usize>,
}

/// A door to be passed on.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) listener: String,
    pub(super) wanted: Address,
    pub(super) address: Address,
    pub(super) sockets: Vec<Arc<OwnedFd>>,
}

/// All that is passed on.
#[derive(Debug)]
pub(super) struct Estate {
    pub(super) doors: Vec<Passed>,
    pub(super) admin: Option<(String, Arc<OwnedFd>)>,
    pub(super) state: Saved,
}

/// Why another process did not take over. This one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The binary could not be started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// The new process has ended before it served.
    #[error("the new process has ended before it served{0}; what it said is in the log above")]
    Ended(String),
    /// It did not serve in time, and was ended.
    #[error("the new process did not serve within {}s, and was ended", PATIENCE.as_secs())]
    TimedOut,
    /// Talking to it failed.
    #[error("the new process could not be talked to: {0}")]
    Talk(io::Error),
    /// This process is being ended.
    #[error("this process is about to end")]
    Ending,
}

/// The new process, which serves: the doors it accepts at, by their place among those passed on.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) pid: u32,
    pub(super) taken: Vec<usize>,
}

/// Starts the binary anew and waits until it serves. Blocks, for [`PATIENCE`] at most.
pub(super) fn start_successor(estate: &Estate) -> Result<Successor, UpgradeError> {
    let program = std::env::current_exe()
        .map_err(|error| UpgradeError::Start { program: "this program".to_owned(), error })?;
    // A binary that was replaced is shown with this mark; the new one is at the same path.
    let path = program.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let (near, far) = UnixStream::pair().map_err(UpgradeError::Talk)?;
    let child = Command::new(&path)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn();
    let child = child.map_err(|error| UpgradeError::Start { program: path, error })?;
    let mut child = Started(Some(child));
    match negotiate(near, estate) {
        Ok(answer) => Ok(Successor { pid: child.keep(), taken: answer.taken }),
        Err(error) if is_timeout(&error) => Err(UpgradeError::TimedOut),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || is_broken(&error) => {
            Err(UpgradeError::Ended(child.how_it_ended()))
        }
        Err(error) => Err(UpgradeError::Talk(error)),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A process that was started; unless it is kept, it ends with this.
struct Started(Option<Child>);

impl Started {
    /// Lets it live; its number.
    fn keep(&mut self) -> u32 {
        self.0.take().map_or(0, |child| child.id())
    }

    fn how_it_ended(&mut self) -> String {
        let status = self.0.as_mut().and_then(|child| {
            // It has closed its end, so it is about to end: once it has said why.
            for _ in 0..LAST_WORDS.as_millis() / 10 {
                if let Ok(Some(status)) = child.try_wait() {
                    return Some(status);
                }
                pause();
            }
            let _ = child.kill();
            child.wait().ok()
        });
        status.map_or_else(String::new, |status| format!(" ({status})"))
    }
}

#[expect(clippy::disallowed_methods, reason = "on a thread that blocks anyhow")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn negotiate(mut near: UnixStream, estate: &Estate) -> io::Result<Answer> {
    near.set_read_timeout(Some(PATIENCE))?;
    near.set_write_timeout(Some(PATIENCE))?;
    let door = |door: &Passed| OfferedDoor {
        listener: door.listener.clone(),
        wanted: door.wanted.to_string(),
        address: door.address.to_string(),
        sockets: door.sockets.len(),
    };
    let offer = Offer {
        format: FORMAT.into(),
        version: VERSION,
        doors: estate.doors.iter().map(door).collect(),
        admin: estate.admin.as_ref().map(|(address, _)| address.clone()),
        state: estate.state.clone(),
    };
    write_message(&mut near, &offer)?;
    let sockets = estate.doors.iter().flat_map(|door| &door.sockets);
    let admin = estate.admin.iter().map(|(_, socket)| socket);
    let all: Vec<BorrowedFd<'_>> = sockets.chain(admin).map(|socket| socket.as_fd()).collect();
    pass::send(&near, &all)?;
    read_message(&mut near)
}

fn write_message(to: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)
}

fn read_message<T: for<'de> Deserialize<'de>>(from: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = Vec::new();
    from.take(length.into()).read_to_end(&mut text)?;
    if text.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

/// What another process passes on to this one: sockets that are bound already, and the state.
#[derive(Debug, Default)]
pub struct Inheritance {
    doors: Vec<Inherited>,
    /// The socket of the admin endpoint, and where it is bound.
    pub(super) admin: Option<(String, OwnedFd)>,
    /// What is known from before.
    pub(super) state: Option<Saved>,
    /// Where the answer goes.
    channel: Option<UnixStream>,
}

/// A door that came from another process.
#[derive(Debug)]
struct Inherited {
    /// Its place in the offer; none where nobody waits for an answer.
    place: Option<usize>,
    listener: Option<String>,
    wanted: Address,
    address: Address,
    sockets: Option<VecDeque<OwnedFd>>,
}

impl Inheritance {
    /// What this process was started with: by an old process that it takes over from, by systemd, or
    /// nothing.
    ///
    /// # Errors
    ///
    /// What was passed on is not to be understood.
    pub fn find() -> io::Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(parent) => {
                let stdin = io::stdin().as_fd().try_clone_to_owned()?;
                match is_from(&stdin, &parent) {
                    true => Self::receive(UnixStream::from(stdin)),
                    // The variable of a process above this one.
                    false => Ok(Self::activated()),
                }
            }
            Err(_) => Ok(Self::activated()),
        }
    }

    /// Sockets that systemd has opened (sd_listen_fds(3)).
    fn activated() -> Self {
        let doors = super::systemd::listening().into_iter().map(|(address, socket)| Inherited {
            place: None,
            listener: None,
            wanted: address.clone(),
            address,
            sockets: Some(VecDeque::from([socket])),
        });
        Self { doors: doors.collect(), ..Self::default() }
    }

    fn receive(mut channel: UnixStream) -> io::Result<Self> {
        // From here on standard input is what a service has.
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        channel.set_read_timeout(Some(PATIENCE))?;
        channel.set_write_timeout(Some(PATIENCE))?;
        let offer: Offer = read_message(&mut channel)?;
        if offer.format != FORMAT || offer.version != VERSION {
            return Err(io::Error::other(format!(
                "the old process speaks version {} of {:?}, this one version {VERSION} of {FORMAT:?}: \
                 restart it instead",
                offer.version, offer.format
            )));
        }
        let count = offer.doors.iter().map(|door| door.sockets).sum::<usize>();
        let all = pass::receive(&channel, count + usize::from(offer.admin.is_some()))?;
        let mut all = all.into_iter();
        let mut doors = Vec::new();
        for (place, door) in offer.doors.into_iter().enumerate() {
            let (wanted, bound) = (address(&door.wanted)?, address(&door.address)?);
            doors.push(Inherited {
                place: Some(place),
                listener: Some(door.listener),
                wanted,
                address: bound,
                sockets: Some(all.by_ref().take(door.sockets).collect()),
            });
        }
        let admin = offer.admin.zip(all.next());
        Ok(Self { doors, admin, state: Some(offer.state), channel: Some(channel) })
    }

    /// Whether another process is taken over from.
    pub(super) fn is_upgrade(&self) -> bool {
        self.channel.is_some()
    }

    /// The sockets at `wanted` of `listener`, and where they are bound.
    pub(super) fn take(
        &mut self,
        listener: &str,
        wanted: &Address,
    ) -> Option<(Address, Vec<OwnedFd>)> {
        let is_chosen = matches!(wanted, Address::Tcp(tcp) if tcp.port() == 0);
        let is_it = |door: &&mut Inherited| {
            let is_same = door.listener.as_deref() == Some(listener);
            door.sockets.is_some() && door.wanted == *wanted && (is_same || !is_chosen)
        };
        let door = self.doors.iter_mut().find(is_it)?;
        Some((door.address.clone(), door.sockets.take()?.into()))
    }

    /// Says that this process serves, and what it has taken.
    ///
    /// # Errors
    ///
    /// The old process has given up: it goes on serving, and this one must end.
    pub(super) fn answer(mut self) -> io::Result<()> {
        let Some(mut channel) = self.channel.take() else { return Ok(()) };
        let taken = self.doors.iter().filter(|door| door.sockets.is_none());
        let taken = taken.filter_map(|door| door.place).collect();
        write_message(&mut channel, &Answer { taken })
    }
}

/// An address as it was written; its port may be 0, for one that the kernel chooses.
fn address(text: &str) -> io::Result<Address> {
    let tcp = text.parse().map(Address::Tcp);
    tcp.or_else(|_| Address::parse(text)).map_err(io::Error::other)
}

/// Whether the other end of `stdin` is this process's parent, of the same user.
fn is_from(stdin: &OwnedFd, parent: &str) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stdin) else { return false };
    let is_parent = rustix::process::getppid() == Some(peer.pid);
    is_parent
        && parent == peer.pid.as_raw_nonzero().to_string()
        && peer.uid == rustix::process::getuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estate(doors: usize, each: usize) -> Estate {
        let (one, _) = UnixStream::pair().unwrap();
        let socket: Arc<OwnedFd> = Arc::new(one.into());
        let door = |index: usize| Passed {
            listener: format!("l{index}"),
            wanted: Address::Tcp(([127, 0, 0, 1], u16::try_from(index).unwrap()).into()),
            address: Address::Tcp(([127, 0, 0, 1], u16::try_from(index + 1).unwrap()).into()),
            sockets: vec![Arc::clone(&socket); each],
        };
        Estate { doors: (0..doors).map(door).collect(), admin: None, state: Saved::new(7) }
    }

    #[test]
    fn three_hundred_doors_change_hands() {
        let estate = estate(300, 2);
        let (near, far) = UnixStream::pair().unwrap();
        let answer = std::thread::scope(|scope| {
            let new = scope.spawn(move || {
                let offer: Offer = read_message(&mut far.try_clone().unwrap()).unwrap();
                let count = offer.doors.iter().map(|door| door.sockets).sum();
                assert_eq!(pass::receive(&far, count).unwrap().len(), 600);
                let taken = vec![0, offer.doors.len() - 1];
                write_message(&mut far.try_clone().unwrap(), &Answer { taken }).unwrap();
            });
            let answer = negotiate(near, &estate).unwrap();
            new.join().unwrap();
            answer
        });
        assert_eq!(answer.taken, [0, 299]);
    }

    #[test]
    fn garbage_and_silence_are_errors() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let refused = read_message::<Answer>(&mut far.try_clone().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        near.write_all(&4_u32.to_le_bytes()).unwrap();
        near.write_all(b"nope").unwrap();
        assert!(read_message::<Answer>(&mut far.try_clone().unwrap()).is_err());
        drop(near);
        let ended = read_message::<Answer>(&mut far.try_clone().unwrap()).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn addresses_are_read_as_they_were_written() {
        for text in ["127.0.0.1:0", "[::1]:80", "0.0.0.0:9501", "unix:/run/a.sock"] {
            assert_eq!(address(text).unwrap().to_string(), text);
        }
        assert!(address("nowhere").is_err());
    }

    #[test]
    fn a_door_is_taken_once() {
        let (one, _) = UnixStream::pair().unwrap();
        let wanted = Address::parse("127.0.0.1:80").unwrap();
        let mut inheritance = Inheritance {
            doors: vec![Inherited {
                place: Some(0),
                listener: Some("web".into()),
                wanted: wanted.clone(),
                address: wanted.clone(),
                sockets: Some(VecDeque::from([one.into()])),
            }],
            ..Inheritance::default()
        };
        assert_eq!(inheritance.take("other", &wanted).unwrap().1.len(), 1);
        assert!(inheritance.take("web", &wanted).is_none());
    }
}
