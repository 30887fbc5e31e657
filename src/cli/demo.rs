//! `demo`: three built-in worker nodes and a listener, with nothing to configure.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Builder;

use super::run::serve;
use super::{FAILED, complain, drill, print};
use crate::balance::Registry;
use crate::config::load;
use crate::process::Source;

/// Where the demo listens.
const LISTEN: &str = "127.0.0.1:9501";
/// The names of its worker nodes.
const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];

/// Where the dashboard is, or on one of the ports after it.
const DASHBOARD: (&str, u16) = ("127.0.0.1", 9900);
/// How many ports are tried for it.
const DASHBOARD_PORTS: u16 = 20;

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Kill, freeze and restart worker nodes, and show what users saw of it; ends by itself
    #[arg(long)]
    drill: bool,
    #[command(flatten)]
    options: drill::Options,
}

pub(super) fn run(arguments: &Arguments, registry: &Registry) -> Result<(), u8> {
    if arguments.drill {
        return drill::run(&arguments.options, registry);
    }
    let mut addresses = Vec::new();
    for name in WORKERS {
        let address = start_worker(name).map_err(|error| {
            complain(&format!("tidegate: cannot start {name}: {error}"));
            FAILED
        })?;
        addresses.push(address.to_string());
    }
    let text = settings(&addresses, &dashboard_address());
    let config = load(&text, &|_| None, registry).map_err(|problems| {
        problems.iter().for_each(|problem| complain(&format!("tidegate: {problem}")));
        FAILED
    })?;
    let source = Source { path: None, registry: registry.clone() };
    serve(&config, source, |server| {
        introduce(&addresses, server.admin_address().map(|at| at.to_string()));
    })
}

/// The configuration: a file as a user writes it.
fn settings(addresses: &[String], dashboard: &str) -> String {
    let backend = |(name, at): (&&str, &String)| format!("{{address: \"{at}\", name: {name}}}");
    let backends: Vec<_> = WORKERS.iter().zip(addresses).map(backend).collect();
    format!(
        "admin: {{bind: \"{dashboard}\"}}\n\
         listeners: {{main: {{bind: \"{LISTEN}\", pool: main}}}}\n\
         pools: {{main: {{backends: [{}]}}}}\n",
        backends.join(", ")
    )
}

/// The first place for the dashboard that is free, or the first one of all, so that an error names it.
pub(super) fn dashboard_address() -> String {
    let (host, first) = DASHBOARD;
    let mut ports = first..first + DASHBOARD_PORTS;
    let free = ports.find(|port| TcpListener::bind((host, *port)).is_ok());
    format!("{host}:{}", free.unwrap_or(first))
}

/// Says what is there and what to try.
fn introduce(addresses: &[String], admin: Option<String>) {
    let nodes: String =
        WORKERS.iter().zip(addresses).map(|(name, at)| format!("  {name}  {at}\n")).collect();
    let dashboard = admin.map_or_else(String::new, |at| {
        format!("Watch it, in a browser or with `tidegate top`:\n\n  http://{at}/\n\n")
    });
    // Serving goes on where nobody reads this.
    let _ = print(&format!(
        "tidegate demo: {LISTEN} balances over three worker nodes in this process:\n{nodes}\n\
         Try it; each answer names its worker:\n\n  curl http://{LISTEN}/\n\n{dashboard}\
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

/// Answers every request with the name, for ever.
pub(super) async fn answer_all(name: &str, listener: &tokio::net::TcpListener) {
    let name: Arc<str> = name.into();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let name = Arc::clone(&name);
        #[expect(clippy::disallowed_methods, reason = "a toy: nothing waits for these tasks")]
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(Arc::clone(&name), request));
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
    name: Arc<str>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("{name} answers {} {}\n", request.method(), request.uri().path());
    Ok(Response::new(Full::new(Bytes::from(text))))
}
