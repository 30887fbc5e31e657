//! The admin endpoint: HTTP for operators, monitoring and the dashboard.
//!
//! A face of [`control::handle`](crate::control::handle): it knows no pool and decides nothing. A
//! request passes, in this order: `Host`, token, path, method, `Origin`, body. `GET` changes
//! nothing. Runs on the control thread, in whatever single-threaded runtime polls [`serve`].

mod answer;
mod api;
mod auth;
mod dashboard;
mod events;
mod socket;

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use self::socket::Connection;
use crate::control::handle::Handle;
use crate::net::addr::Address;

pub use auth::{Options, Token};
pub use socket::{Socket, bind, take_over};

/// Connections at one time, and so descriptors, besides that of the listening socket.
pub const MAX_CONNECTIONS: usize = 64;
/// How many of them are kept for clients on this host.
const KEPT_FOR_LOCAL: usize = 1;
/// How long the head of a request may take, from the end of the one before.
const HEAD: Duration = Duration::from_secs(5);
/// Bytes of the head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Pause when nothing can be accepted.
const PAUSE: Duration = Duration::from_millis(500);
/// How long answers under way may take once nothing is served any more, or elsewhere.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What is served, as the configuration in force has it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The listening socket.
    pub socket: Arc<OwnedFd>,
    /// Where it is bound.
    pub address: Address,
    /// Who may ask.
    pub options: Arc<Options>,
}

/// Serves what `told` has, until its sender is dropped. Other options are in force for connections
/// that are open already; when the socket is another one, or none, what is being answered is
/// finished, for half a second at most, and the rest is closed.
///
/// Dropping the future ends all connections.
pub async fn serve_as_told(mut told: watch::Receiver<Option<Endpoint>>, handle: Handle) {
    let mut ending = JoinSet::new();
    loop {
        let Some(endpoint) = told.borrow_and_update().clone() else {
            tokio::select! {
                changed = told.changed() => if changed.is_err() { break },
                Some(_) = ending.join_next() => {}
            }
            continue;
        };
        let options = Arc::new(ArcSwap::new(Arc::clone(&endpoint.options)));
        let (leave, leaving) = watch::channel(false);
        let socket = match Socket::new(&endpoint.socket, &endpoint.address) {
            Ok(socket) => socket,
            Err(error) => {
                error!(address = %endpoint.address, %error, "the admin endpoint cannot be served");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let serving = accept_all(socket, handle.clone(), Arc::clone(&options), leaving);
        ending.spawn(serving);
        let is_same = |next: &Option<Endpoint>| {
            next.as_ref().is_some_and(|next| Arc::ptr_eq(&next.socket, &endpoint.socket))
        };
        while told.changed().await.is_ok() && is_same(&told.borrow_and_update()) {
            if let Some(next) = &*told.borrow() {
                options.store(Arc::clone(&next.options));
            }
        }
        leave.send_replace(true);
        if told.has_changed().is_err() {
            break;
        }
    }
    while ending.join_next().await.is_some() {}
}

/// Serves for ever. Dropping the future ends the connections; the socket goes with it.
pub async fn serve(socket: Socket, handle: Handle, options: Options) {
    let (_stay, leaving) = watch::channel(false);
    accept_all(socket, handle, Arc::new(ArcSwap::from_pointee(options)), leaving).await;
}

/// Serves until it is to leave.
async fn accept_all(
    socket: Socket,
    handle: Handle,
    options: Arc<ArcSwap<Options>>,
    mut leaving: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let leave = leaving.clone();
        tokio::select! {
            // Its sender is kept for as long as this is to serve.
            _ = leaving.changed() => break,
            accepted = socket.accept() => match accepted {
                Ok((connection, is_local)) => {
                    let kept = if is_local { 0 } else { KEPT_FOR_LOCAL };
                    if connections.len() + kept >= MAX_CONNECTIONS {
                        debug!(is_local, "admin: too many connections, this one is closed");
                        continue;
                    }
                    let options = Arc::clone(&options);
                    connections.spawn(answer_all(connection, handle.clone(), options, leave));
                }
                Err(error) if is_clients(&error) => {}
                Err(error) => {
                    warn!(%error, "admin: cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(socket);
    let finished = async { while connections.join_next().await.is_some() {} };
    // The rest is closed with the set.
    let _ = tokio::time::timeout(LAST_ANSWERS, finished).await;
}

/// Whether it is only that the client has gone again.
fn is_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn answer_all(
    connection: Connection,
    handle: Handle,
    options: Arc<ArcSwap<Options>>,
    mut leaving: watch::Receiver<bool>,
) {
    let service = service_fn(|request| {
        let (handle, options) = (handle.clone(), options.load_full());
        async move { Ok::<_, Infallible>(api::answer(request, &handle, &options).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        // Without a timer the timeout would never fire.
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(false)
        .serve_connection(TokioIo::new(connection), service);
    let mut serving = pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = async { drop(leaving.wait_for(|leaving| *leaving).await) } => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "admin: a connection has ended");
    }
}

#[cfg(test)]
pub(crate) mod tests;
