//! Sends some bytes and waits for others.
//!
//! Passes as soon as the answer holds what is expected, wherever that stands in its first 16 KiB:
//! so read HAProxy's users `tcp-check expect string`, and so a banner before the answer does no
//! harm. What else comes is no failure by itself, for the rest may follow; the end of the answer is,
//! and so is the end of the time.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::socket::{Socket, ended};
use super::text::{find, quoted};
use super::{Built, Entry, Outcome, Probe, Progress, Roots, Running, Target};
use crate::config::model;

pub(super) const ENTRY: Entry =
    Entry { name: "send_expect", summary: "bytes are sent and others come back", build };

/// How much of an answer is looked at, in bytes.
const LONGEST: usize = 16 * 1024;

#[derive(Debug)]
struct SendExpect {
    send: Box<[u8]>,
    expect: Box<[u8]>,
}

fn build(options: &model::Probe, _: &Roots) -> Option<Built> {
    let model::Probe::SendExpect(options) = options else { return None };
    let probe = SendExpect {
        send: options.send.as_bytes().into(),
        expect: options.expect.as_bytes().into(),
    };
    Some(Ok(Box::new(probe)))
}

impl Probe for SendExpect {
    fn run<'a>(&'a self, target: &'a Target, progress: &'a Progress) -> Running<'a> {
        Box::pin(
            async move { self.ask(target, progress).await.map_or_else(|o| o, |()| Outcome::Pass) },
        )
    }
}

impl SendExpect {
    async fn ask(&self, target: &Target, progress: &Progress) -> Result<(), Outcome> {
        let mut socket = Socket::connect(target, true).await?;
        progress.set("sending");
        let broke = |answer: &[u8], how: String| match answer {
            [] => Outcome::Fail(format!("{how} before an answer")),
            _ => Outcome::Fail(format!("{}, then {how}", self.unlike(answer))),
        };
        socket.write_all(&self.send).await.map_err(|error| broke(&[], ended(&error)))?;
        progress.set("waiting for the answer");
        let mut answer = Vec::with_capacity(512);
        loop {
            let room = LONGEST - answer.len();
            match (&mut socket).take(room as u64).read_buf(&mut answer).await {
                Ok(0) => return Err(broke(&answer, "closed by the peer".to_owned())),
                Ok(count) => {
                    if self.is_in(&answer, count) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(broke(&answer, ended(&error))),
            }
            if answer.len() == LONGEST {
                let text = self.unlike(&answer);
                return Err(Outcome::Fail(format!("{text}, in the first {LONGEST} bytes")));
            }
            let (got, wanted) = (quoted(&answer), quoted(&self.expect));
            progress.set(format!("waiting for {wanted} in the answer, so far {got}"));
        }
    }

    /// Whether the answer holds what is expected, now that its last `count` bytes have come.
    fn is_in(&self, answer: &[u8], count: usize) -> bool {
        let old = answer.len() - count;
        find(&answer[old.saturating_sub(self.expect.len())..], &self.expect).is_some()
    }

    fn unlike(&self, answer: &[u8]) -> String {
        format!("answered {} where {} was expected", quoted(answer), quoted(&self.expect))
    }
}

#[cfg(test)]
mod tests;
