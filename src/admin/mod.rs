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
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::socket::Connection;
use crate::control::handle::Handle;

pub use auth::{Options, Token};
pub use socket::{Socket, bind};

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

/// Serves for ever. Dropping the future ends the connections; the socket goes with it.
pub async fn serve(socket: Socket, handle: Handle, options: Options) {
    let options = Arc::new(options);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((connection, is_local)) => {
                    let kept = if is_local { 0 } else { KEPT_FOR_LOCAL };
                    if connections.len() + kept >= MAX_CONNECTIONS {
                        debug!(is_local, "admin: too many connections, this one is closed");
                        continue;
                    }
                    connections.spawn(answer_all(connection, handle.clone(), Arc::clone(&options)));
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
}

/// Whether it is only that the client has gone again.
fn is_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn answer_all(connection: Connection, handle: Handle, options: Arc<Options>) {
    let service = service_fn(|request| {
        let (handle, options) = (handle.clone(), Arc::clone(&options));
        async move { Ok::<_, Infallible>(api::answer(request, &handle, &options).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        // Without a timer the timeout would never fire.
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(false)
        .serve_connection(TokioIo::new(connection), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "admin: a connection has ended");
    }
}

#[cfg(test)]
pub(crate) mod tests;
