//! Sends an HTTP/1.1 request and looks at the status of the answer, and at its body if told to.
//!
//! The request says `Connection: close`; the connection is reset as soon as the answer is known.
//! Redirects are not followed: a 302 is a 302.

use std::error::Error as _;
use std::io;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;

use super::socket::{Socket, ended};
use super::text::{find, quoted};
use super::{Built, Entry, Outcome, Probe, Progress, Roots, Running, Target};
use crate::config::model;
use crate::net::addr::Address;

pub(super) const ENTRY: Entry =
    Entry { name: "http", summary: "an HTTP request is answered as it should be", build };

/// How much of a body is looked at, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// Most bytes of a status line and headers.
const LONGEST_HEAD: usize = 64 * 1024;

#[derive(Debug)]
struct Http {
    method: Method,
    path: Uri,
    host: Option<String>,
    expect_status: Vec<model::StatusRange>,
    expect_body: Option<Box<[u8]>>,
}

fn build(options: &model::Probe, _: &Roots) -> Option<Built> {
    let model::Probe::Http(options) = options else { return None };
    Some(Http::new(options).map(|probe| Box::new(probe) as Box<dyn Probe>))
}

impl Probe for Http {
    fn run<'a>(&'a self, target: &'a Target, progress: &'a Progress) -> Running<'a> {
        Box::pin(
            async move { self.ask(target, progress).await.map_or_else(|o| o, |()| Outcome::Pass) },
        )
    }
}

impl Http {
    fn new(options: &model::HttpProbe) -> Result<Self, String> {
        let model::HttpProbe { path, host, method, expect_status, expect_body } = options;
        Ok(Self {
            method: method.parse().map_err(|_| format!("method: no such method as {method:?}"))?,
            path: path.parse().map_err(|_| format!("path: no path of a request: {path:?}"))?,
            host: host.clone(),
            expect_status: expect_status.clone(),
            expect_body: expect_body.as_ref().map(|text| text.as_bytes().into()),
        })
    }

    async fn ask(&self, target: &Target, progress: &Progress) -> Result<(), Outcome> {
        let request = self.request(target)?;
        let socket = Socket::connect(target, true).await?;
        progress.set("waiting for the answer");
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| Outcome::Fail(words(&error)))?;
        let answer = async {
            let answer = sender.send_request(request).await;
            let answer = answer.map_err(|error| Outcome::Fail(words(&error)))?;
            self.judge_status(answer.status().as_u16())?;
            self.judge_body(answer.into_body(), progress).await
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            judged = &mut answer => judged,
            // It says how it ended to whoever waits for the answer.
            _ = connection => answer.await,
        }
    }

    fn request(&self, target: &Target) -> Result<Request<Empty<Bytes>>, Outcome> {
        let host = match (&self.host, &target.address) {
            (Some(host), _) => host.clone(),
            (None, Address::Tcp(to)) => to.to_string(),
            (None, Address::Unix(_)) => "localhost".to_owned(),
        };
        Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| Outcome::Fail(format!("no request can be made: {error}")))
    }

    fn judge_status(&self, status: u16) -> Result<(), Outcome> {
        if self.expect_status.iter().any(|range| range.holds(status)) {
            return Ok(());
        }
        let ranges = self.expect_status.iter().map(|range| match range.first == range.last {
            true => range.first.to_string(),
            false => format!("{}-{}", range.first, range.last),
        });
        let expected = ranges.collect::<Vec<_>>().join(", ");
        Err(Outcome::Fail(format!("status {status}, expected {expected}")))
    }

    async fn judge_body(&self, mut body: Incoming, progress: &Progress) -> Result<(), Outcome> {
        let Some(expect) = &self.expect_body else { return Ok(()) };
        let mut text = Vec::new();
        let wanted = quoted(expect);
        while text.len() < LONGEST_BODY {
            progress.set(format!("waiting for {wanted} in the body, so far {}", quoted(&text)));
            match body.frame().await {
                None => break,
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let from = text.len().saturating_sub(expect.len());
                    text.extend_from_slice(&data[..data.len().min(LONGEST_BODY - text.len())]);
                    if find(&text[from..], expect).is_some() {
                        return Ok(());
                    }
                }
                Some(Err(error)) => return Err(Outcome::Fail(words(&error))),
            }
        }
        let shown = match text.as_slice() {
            [] => "an empty body".to_owned(),
            text => format!("the body {}", quoted(text)),
        };
        Err(Outcome::Fail(format!("{shown} where {wanted} was expected")))
    }
}

/// What went wrong between request and answer, in words.
#[must_use]
pub fn words(error: &hyper::Error) -> String {
    let broke = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match broke {
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            format!("{} before the answer was complete", ended(error))
        }
        _ if error.is_parse_too_large() => {
            format!("the head of the answer is over {} KiB", LONGEST_HEAD / 1024)
        }
        _ if error.is_parse() => "answered with something that is no HTTP/1".to_owned(),
        _ => "closed by the peer before the answer was complete".to_owned(),
    }
}

#[cfg(test)]
mod tests;
