//! The new process's side: what it was started with.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use tracing::warn;

use super::{Answer, FORMAT, Head, Offer, PATIENCE, VARIABLE, VERSION, read_text, write_message};
use crate::health::Saved;
use crate::metrics::Tally;
use crate::net::addr::Address;
use crate::net::pass;
use crate::process::systemd;

/// What another process passes on to this one: sockets that are bound already, and the state.
#[derive(Debug, Default)]
pub struct Inheritance {
    doors: Vec<Inherited>,
    /// The socket of the admin endpoint, and where it is bound.
    pub(in crate::process) admin: Option<(String, OwnedFd)>,
    /// What is known from before.
    pub(in crate::process) state: Option<Saved>,
    /// What was counted before.
    pub(in crate::process) counted: Tally,
    /// Where processes tell what they still count that are older than the old one.
    elders: Vec<UnixStream>,
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
    sockets: Option<Vec<OwnedFd>>,
    is_lent: bool,
}

/// What is taken over of a door.
#[derive(Debug)]
pub(in crate::process) struct Taken {
    /// Where it is bound.
    pub(in crate::process) address: Address,
    pub(in crate::process) sockets: Vec<OwnedFd>,
    /// Whether a service manager keeps it: it is open when this process has ended.
    pub(in crate::process) is_lent: bool,
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
            Ok(old) => {
                let stdin = io::stdin().as_fd().try_clone_to_owned()?;
                match is_from(&stdin, &old) {
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
        let doors = systemd::listening().into_iter().map(|(address, socket)| Inherited {
            place: None,
            listener: None,
            wanted: address.clone(),
            address,
            sockets: Some(vec![socket]),
            is_lent: true,
        });
        Self { doors: doors.collect(), ..Self::default() }
    }

    fn receive(channel: UnixStream) -> io::Result<Self> {
        // From here on standard input is what a service has.
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        channel.set_read_timeout(Some(PATIENCE))?;
        channel.set_write_timeout(Some(PATIENCE))?;
        let text = read_text(&channel)?;
        let Head { format, version } = serde_json::from_slice(&text)?;
        if format != FORMAT || version != VERSION {
            return Err(io::Error::other(format!(
                "the old process speaks version {version} of {format:?}, this one version {VERSION} \
                 of {FORMAT:?}: restart it instead"
            )));
        }
        let offer: Offer = serde_json::from_slice(&text)?;
        let count = offer.doors.iter().map(|door| door.sockets).sum::<usize>();
        let count = count + usize::from(offer.admin.is_some()) + offer.elders;
        let all = pass::receive(&channel, count)?;
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
                is_lent: door.is_lent,
            });
        }
        let admin = offer.admin.zip(all.next());
        let elders = all.map(UnixStream::from).collect();
        let (state, counted) = (Some(offer.state), offer.counted);
        Ok(Self { doors, admin, state, counted, elders, channel: Some(channel) })
    }

    /// Whether another process is taken over from.
    pub(in crate::process) fn is_upgrade(&self) -> bool {
        self.channel.is_some()
    }

    /// The sockets at `wanted` of `listener`.
    pub(in crate::process) fn take(&mut self, listener: &str, wanted: &Address) -> Option<Taken> {
        let is_chosen = matches!(wanted, Address::Tcp(tcp) if tcp.port() == 0);
        let is_it = |door: &&mut Inherited| {
            let is_same = door.listener.as_deref() == Some(listener);
            door.sockets.is_some() && door.wanted == *wanted && (is_same || !is_chosen)
        };
        let door = self.doors.iter_mut().find(is_it)?;
        let (address, is_lent) = (door.address.clone(), door.is_lent);
        Some(Taken { address, sockets: door.sockets.take()?, is_lent })
    }

    /// Says which sockets of a service manager are for nobody.
    pub(in crate::process) fn warn_of_rest(&self) {
        for door in self.doors.iter().filter(|door| door.place.is_none() && door.sockets.is_some())
        {
            warn!(
                address = %door.address,
                "a socket that the service manager has opened is closed: no listener has its address in bind"
            );
        }
    }

    /// Says that this process serves, and what it has taken. Gives where the old process tells what it
    /// still counts, and after that those before it.
    ///
    /// # Errors
    ///
    /// The old process has given up: it goes on serving, and this one must end.
    pub(in crate::process) fn answer(mut self) -> io::Result<Vec<UnixStream>> {
        let Some(channel) = self.channel.take() else { return Ok(Vec::new()) };
        let taken = self.doors.iter().filter(|door| door.sockets.is_none());
        let taken = taken.filter_map(|door| door.place).collect();
        write_message(&channel, &Answer { taken })?;
        Ok(std::iter::once(channel).chain(self.elders).collect())
    }
}

/// An address as it was written; its port may be 0, for one that the kernel chooses.
fn address(text: &str) -> io::Result<Address> {
    let tcp = text.parse().map(Address::Tcp);
    tcp.or_else(|_| Address::parse(text)).map_err(io::Error::other)
}

/// Whether the other end of `stdin` is, or was, the process of this number, of the same user. If it has
/// died meanwhile, this process must not begin on its own: whoever restarts it would meet it.
fn is_from(stdin: &OwnedFd, old: &str) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stdin) else { return false };
    old == peer.pid.as_raw_nonzero().to_string() && peer.uid == rustix::process::getuid()
}

#[cfg(test)]
mod tests {
    use super::*;

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
                sockets: Some(vec![one.into()]),
                is_lent: false,
            }],
            ..Inheritance::default()
        };
        assert_eq!(inheritance.take("other", &wanted).unwrap().sockets.len(), 1);
        assert!(inheritance.take("web", &wanted).is_none());
    }
}
