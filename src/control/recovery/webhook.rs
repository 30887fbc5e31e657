//! One attempt of an action that is an HTTP request.

use std::io;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ActionResult, Occasion, late};
use crate::config::model::WebhookAction;
use crate::probe::{Progress, Roots, client_config, http_words, tls_words};

/// Whose certificates are believed.
#[derive(Debug)]
pub(super) enum Trust {
    /// Those of this host's authorities, which are read for each attempt: they may change.
    System,
    /// As in this configuration.
    #[cfg(test)]
    As(Arc<ClientConfig>),
}

/// Sends the request once and looks at the status of the answer. Redirects are not followed.
///
/// Names are looked up by the system, not on this thread. Cancel safe: the connection is closed.
pub(super) async fn attempt(
    hook: &WebhookAction,
    occasion: &Occasion,
    trust: &Trust,
) -> (ActionResult, String) {
    let progress = Progress::default();
    let sent = Box::pin(send(&hook.url, body(occasion), trust, &progress));
    match tokio::time::timeout(hook.timeout, sent).await {
        Err(_) => (ActionResult::Timeout, late(hook.timeout, &format!(" while {progress}"))),
        Ok(Ok(status @ 200..=299)) => (ActionResult::Success, format!("status {status}")),
        Ok(Ok(status @ 300..=399)) => {
            (ActionResult::Failure, format!("status {status}; redirects are not followed"))
        }
        Ok(Ok(status)) => (ActionResult::Failure, format!("status {status}")),
        Ok(Err(how)) => (ActionResult::Failure, how),
    }
}

fn body(occasion: &Occasion) -> String {
    let Occasion { event, pool, backend, address, cause, evidence, time } = occasion;
    json!({
        "event": event.as_str(),
        "pool": **pool,
        "backend": **backend,
        "address": address.to_string(),
        "cause": **cause,
        "evidence": evidence,
        "time": time,
    })
    .to_string()
}

/// The status of the answer.
async fn send(url: &Uri, body: String, trust: &Trust, progress: &Progress) -> Result<u16, String> {
    let host = url.host().ok_or("the URL has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let request = request(url, body).map_err(|error| format!("no request: {error}"))?;
    let stream = connect(host, port, progress).await?;
    if !is_tls {
        return exchange(stream, request, progress).await;
    }
    progress.set("making the TLS handshake");
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host} is no name that a certificate can have"))?;
    let connector = TlsConnector::from(trust.config().await?);
    let connected = connector.connect(name.clone(), stream).await;
    let stream = connected.map_err(|error| tls_words(&error, &name))?;
    exchange(stream, request, progress).await
}

fn request(url: &Uri, body: String) -> hyper::http::Result<Request<Full<Bytes>>> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    Request::post(path)
        .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::from(body))
}

/// Connects to the first of the host's addresses that accepts.
async fn connect(host: &str, port: u16, progress: &Progress) -> Result<TcpStream, String> {
    progress.set(format!("looking {host} up"));
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| format!("cannot look {host} up: {error}"))?;
    let mut failed = None;
    for address in addresses {
        progress.set(format!("connecting to {address}"));
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Some((address, error)),
        }
    }
    Err(match failed {
        None => format!("{host} has no address"),
        Some((address, error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("refused by {address}")
        }
        Some((address, error)) => format!("cannot connect to {address}: {error}"),
    })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    progress: &Progress,
) -> Result<u16, String> {
    progress.set("waiting for the answer");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| http_words(&error))?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It says how it ended to whoever waits for the answer.
        _ = connection => answer.await,
    };
    answer.map(|answer| answer.status().as_u16()).map_err(|error| http_words(&error))
}

impl Trust {
    async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        match self {
            Self::System => {
                // Files are read: not on this thread.
                let read = || client_config(true, &Roots::default());
                let config = tokio::task::spawn_blocking(read).await;
                config.map_err(|error| format!("cannot read certificates: {error}"))?
            }
            #[cfg(test)]
            Self::As(config) => Ok(Arc::clone(config)),
        }
    }
}
