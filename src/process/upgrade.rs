//! Another process takes over: the binary is started anew on the same listening sockets.
//!
//! ```text
//! old                                      new
//! starts it, a unix socket as its stdin ─► finds the socket, and who is at its other end
//! offer: doors, state, what was counted;
//! then the sockets                      ─► reads its configuration, starts on what it can use
//! leaves its doors                      ◄─ answer: what it has taken, it serves
//! drains, and tells what it counts      ─► adds that to its own; opens the admin endpoint after the first
//! ends                                     hears the end
//! ```
//!
//! Both accept from the same sockets for a moment, so that nothing is lost. If the new one exits,
//! hangs or refuses its configuration, the old one goes on as if nothing had been. What it has heard
//! from still older ones it lets the new one hear: their sockets go with the others.

mod books;
mod inheritance;
mod successor;

#[cfg(test)]
mod tests;

pub use inheritance::Inheritance;
pub use successor::UpgradeError;

pub(super) use books::{Elders, Telling};
pub(super) use inheritance::Taken;
pub(super) use successor::{Attempt, Estate, Passed, Successor};

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::Saved;
use crate::metrics::Tally;

/// Tells a process that its standard input is the socket to take over from.
const VARIABLE: &str = "TIDEGATE_UPGRADE";
/// How long the new process may take to serve, and either to write what the other reads.
const PATIENCE: Duration = Duration::from_secs(5);
/// What marks an offer as ours.
const FORMAT: &str = "tidegate-upgrade";
/// The version that is spoken.
const VERSION: u32 = 2;
/// Largest message, in bytes.
const MAX_BYTES: u32 = 256 << 20;

/// How an offer begins, in every version.
#[derive(Debug, Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// What the old process offers; the sockets follow it, door by door.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    format: String,
    version: u32,
    doors: Vec<OfferedDoor>,
    /// Whether the socket of the admin endpoint comes after them, and where it is bound.
    admin: Option<String>,
    /// How many sockets come last that older processes tell by what they still count.
    elders: usize,
    state: Saved,
    /// What was counted so far, here and before.
    counted: Tally,
}

#[derive(Debug, Serialize, Deserialize)]
struct OfferedDoor {
    listener: String,
    /// As its configuration has it.
    wanted: String,
    /// As it is bound.
    address: String,
    sockets: usize,
    /// Whether whoever opened it keeps it.
    is_lent: bool,
}

/// What the new process answers once it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// The doors it accepts at, by their place in the offer.
    taken: Vec<usize>,
}

fn write_message(mut to: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)
}

fn read_message<T: for<'de> Deserialize<'de>>(from: &UnixStream) -> io::Result<T> {
    Ok(serde_json::from_slice(&read_text(from)?)?)
}

fn read_text(mut from: &UnixStream) -> io::Result<Vec<u8>> {
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
    Ok(text)
}
