//! The connection of a check: the traffic's path there, and a reset at the end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{Outcome, Target};
use crate::net::dial::{ConnectError, Dial, DialOptions};
use crate::net::stream::Stream;

/// A connection of ours to a backend.
///
/// Dropping it resets it, whatever the check said: thousands of checks would otherwise leave
/// thousands of ports in TIME_WAIT here. What is still to be sent is lost with it.
#[derive(Debug)]
pub(super) struct Socket(Stream);

impl Socket {
    /// Connects, and sends the preface.
    ///
    /// # Errors
    ///
    /// What the check says then. Cancel safe: a connect under way is given up.
    pub(super) async fn connect(target: &Target, nodelay: bool) -> Result<Self, Outcome> {
        let address = &target.address;
        let options = DialOptions { nodelay, ports: target.ports };
        let mut dial = Dialling::start(Dial::start(address, target.source, options))?;
        // On this host it is there by now, and need not be waited for.
        let early = dial.get()?.try_first_write(&target.preface, address);
        let sent = match early.map_err(outcome)? {
            Some(sent) => sent,
            None => {
                poll_fn(|cx| dial.poll_connected(target, cx)).await?;
                0
            }
        };
        let mut socket = Self(dial.take()?.into_stream());
        let rest = target.preface.get(sent..).unwrap_or_default();
        if !rest.is_empty() {
            socket.write_all(rest).await.map_err(|error| Outcome::Fail(ended(&error)))?;
        }
        Ok(socket)
    }
}

/// A connect under way; dropping it gives it up.
struct Dialling(Option<Dial>);

impl Dialling {
    fn start(dial: Result<Dial, ConnectError>) -> Result<Self, Outcome> {
        dial.map(|dial| Self(Some(dial))).map_err(outcome)
    }

    fn get(&mut self) -> Result<&mut Dial, Outcome> {
        self.0.as_mut().ok_or_else(|| Outcome::Unjudged("the connect is over".to_owned()))
    }

    fn take(&mut self) -> Result<Dial, Outcome> {
        self.0.take().ok_or_else(|| Outcome::Unjudged("the connect is over".to_owned()))
    }

    fn poll_connected(
        &mut self,
        target: &Target,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Outcome>> {
        self.get()?.poll_connected(&target.address, cx).map_err(outcome)
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(dial) = self.0.take() {
            dial.abandon();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.reset_when_closed();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        if space.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.0.poll_read(cx, space).map_ok(|count| buf.advance(count))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// No FIN: should the peer's come before the reset, the connection would end in TIME_WAIT.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a failed connect says.
fn outcome(error: ConnectError) -> Outcome {
    match error {
        ConnectError::Refused => Outcome::Refused,
        ConnectError::Timeout => Outcome::Fail("timed out while connecting".to_owned()),
        ConnectError::Unreachable => Outcome::Fail("unreachable".to_owned()),
        ConnectError::Reset => Outcome::Fail("reset while connecting".to_owned()),
        ConnectError::Other(errno) => Outcome::Fail(format!("cannot connect: {errno}")),
        ConnectError::Local(errno) => Outcome::Unjudged(format!("cannot connect: {errno}")),
    }
}

/// What happened to a connection that ended with an error before the check was through.
pub(super) fn ended(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNRESET | Errno::PIPE) => "reset by the peer".to_owned(),
        Some(Errno::TIMEDOUT) => "given up by the kernel: no acknowledgement".to_owned(),
        Some(errno) => format!("the connection broke: {errno}"),
        None => error.to_string(),
    }
}
