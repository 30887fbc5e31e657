//! `demo`: three built-in worker nodes and a listener, with nothing to configure.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Builder;

use super::run::serve;
use super::{FAILED, complain, print};
use crate::balance::Registry;
use crate::config::one_shot;
use crate::process::Source;

/// Where the demo listens.
const LISTEN: &str = "127.0.0.1:9501";
/// The names of its worker nodes.
const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];

pub(super) fn run(registry: &Registry) -> Result<(), u8> {
    let mut addresses = Vec::new();
    for name in WORKERS {
        let address = start_worker(name).map_err(|error| {
            complain(&format!("tidegate: cannot start {name}: {error}"));
            FAILED
        })?;
        addresses.push(address.to_string());
    }
    let config =
        one_shot(&[LISTEN.to_owned()], &addresses, None, registry).map_err(|problems| {
            problems.iter().for_each(|problem| complain(&format!("tidegate: {problem}")));
            FAILED
        })?;
    let source = Source { path: None, registry: registry.clone() };
    serve(&config, source, || introduce(&addresses))
}

/// Says what is there and what to try.
fn introduce(addresses: &[String]) {
    let nodes: String =
        WORKERS.iter().zip(addresses).map(|(name, at)| format!("  {name}  {at}\n")).collect();
    // Serving goes on where nobody reads this.
    let _ = print(&format!(
        "tidegate demo: {LISTEN} balances over three worker nodes in this process:\n{nodes}\n\
         Try it; each answer names its worker:\n\n  curl http://{LISTEN}/\n\n\
         Stop it with Ctrl-C.\n\n"
    ));
}

/// Starts a worker node on a thread of its own, on a port that the kernel chooses.
fn start_worker(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.into()).spawn(move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => answer_all(name, &listener).await,
                Err(error) => complain(&format!("tidegate: {name} cannot listen: {error}")),
            }
        });
    })?;
    Ok(address)
}

async fn answer_all(name: &'static str, listener: &tokio::net::TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        #[expect(clippy::disallowed_methods, reason = "a toy: nothing waits for these tasks")]
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(name, request));
            let mut server = hyper::server::conn::http1::Builder::new();
            // A client that hangs up mid-request is none of the demo's business.
            let _ = server
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("{name} answers {} {}\n", request.method(), request.uri().path());
    Ok(Response::new(Full::new(Bytes::from(text))))
}
