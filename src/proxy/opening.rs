//! What must be known of a connection before it has a pool: who it is, whether it may come, where to.
//!
//! A PROXY header of whom one is required, then `deny` and `allow` and the limits of its source, then
//! the first route that matches, for which a ClientHello may have to be seen. Nothing is waited for
//! where nothing of that is asked. One deadline, from accept, for all that is waited for: bytes that
//! come do not put it off.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;

use super::connection::{Connection, Extra};
use super::worker::Worker;
use crate::net::client_hello::{self, ClientHello, Peeked};
use crate::net::clock::Deadline;
use crate::net::proxy_protocol::{self, Header};
use crate::net::stream::Stream;
use crate::state::Ending;
use crate::state::route::{Caller, Early};
use crate::state::sources::Refused;

/// Most bytes that are read before it is known where they go.
const MOST_BYTES: usize = proxy_protocol::LONGEST + client_hello::LONGEST_RAW;

/// Lets a connection in, or says how it ends. What was read of its payload comes back, counted.
pub(super) async fn pass(
    worker: &Worker,
    connection: &Connection,
    client: &mut Stream,
) -> Result<Vec<u8>, Ending> {
    let listener = &connection.listener;
    let mut opening = Opening { worker, connection, bytes: Vec::new(), has_ended: false };
    let is_proxy =
        listener.proxies.as_ref().is_some_and(|proxies| proxies.contains(connection.ip()));
    if is_proxy {
        let header = opening.header(client).await?;
        opening.apply(header);
    }
    admit(worker, connection)?;
    if listener.has_conditions {
        let route = opening.route(client).await?;
        connection.set_route(route);
    } else {
        connection.set_route(0);
    }
    connection.meter.add_in(opening.bytes.len());
    Ok(opening.bytes)
}

/// Whether the client may come: `deny`, `allow`, and the limits of its source.
fn admit(worker: &Worker, connection: &Connection) -> Result<(), Ending> {
    let listener = &connection.listener;
    let ip = connection.ip();
    if listener.deny.as_ref().is_some_and(|deny| deny.contains(ip))
        || listener.allow.as_ref().is_some_and(|allow| !allow.contains(ip))
    {
        return Err(Ending::Denied);
    }
    let Some(ip) = ip else { return Ok(()) };
    let now = worker.engine.clock.now();
    let admitted = listener.sources.admit(ip, listener.source_limits, now);
    let from_source = admitted.map_err(|refused| match refused {
        Refused::Limit => Ending::SourceLimit,
        Refused::Rate => Ending::SourceRate,
    })?;
    if from_source.is_some() {
        connection.with_extra(|extra| extra.from_source = from_source);
    }
    Ok(())
}

/// A connection whose first bytes are looked at.
struct Opening<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
    /// What has come and is payload, or may be.
    bytes: Vec<u8>,
    /// The client has sent its FIN.
    has_ended: bool,
}

impl Opening<'_> {
    /// Reads a PROXY header, which has to come.
    async fn header(&mut self, client: &mut Stream) -> Result<Header, Ending> {
        loop {
            match proxy_protocol::parse(&self.bytes) {
                Ok(Some(header)) => {
                    self.bytes.drain(..header.length);
                    return Ok(header);
                }
                Ok(None) if !self.has_ended => self.more(client).await?,
                Ok(None) | Err(_) => return Err(Ending::BadProxyHeader),
            }
        }
    }

    /// From here on the connection is whose the header says.
    fn apply(&self, header: Header) {
        let Header { ends, authority, unique_id, .. } = header;
        let peer = self.connection.source.get();
        if let Some(ends) = ends {
            let canonical =
                |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            self.connection.source.set(Some(canonical(ends.source)));
            self.connection.with_extra(|extra| {
                extra.peer = peer;
                extra.destination = Some(canonical(ends.destination));
            });
        }
        if authority.is_some() || unique_id.is_some() {
            self.connection.with_extra(|extra: &mut Extra| {
                extra.name = authority;
                extra.unique_id = unique_id;
            });
        }
    }

    /// The first route that matches.
    async fn route(&mut self, client: &mut Stream) -> Result<usize, Ending> {
        let routes = &self.connection.listener.routes;
        let (source, port) = (self.connection.ip(), self.connection.port(client));
        match routes.before_peek(source, port) {
            Early::Decided(route) => route.ok_or(Ending::NoRoute),
            Early::NeedsHello => {
                let hello = self.hello(client).await?;
                let caller = Caller { source, port, hello: hello.as_ref() };
                let route = routes.first_match(&caller).ok_or(Ending::NoRoute);
                if let Some(name) = hello.and_then(|hello| hello.sni) {
                    let name = String::from(name).into_bytes().into();
                    self.connection.with_extra(|extra| extra.name = Some(name));
                }
                route
            }
        }
    }

    /// Reads a ClientHello; `None` when the bytes are none.
    async fn hello(&mut self, client: &mut Stream) -> Result<Option<ClientHello>, Ending> {
        let mut reader = client_hello::Reader::default();
        loop {
            match reader.read(&self.bytes) {
                Peeked::Hello(hello) => return Ok(Some(hello)),
                Peeked::NotTls => return Ok(None),
                Peeked::NeedMore if self.has_ended => return Ok(None),
                Peeked::NeedMore => self.more(client).await?,
            }
        }
    }

    /// Waits for more bytes, or for the end of them.
    async fn more(&mut self, client: &mut Stream) -> Result<(), Ending> {
        let (worker, connection) = (self.worker, self.connection);
        let at = connection.start + connection.listener.peek;
        let mut deadline: Option<Deadline> = None;
        let room = MOST_BYTES.saturating_sub(self.bytes.len()).max(1);
        let bytes = &mut self.bytes;
        let read = poll_fn(|cx| {
            if connection.meter.poll_stopped(cx).is_ready() {
                return Poll::Ready(Err(connection.told()));
            }
            if worker.engine.clock.now() >= at {
                return Poll::Ready(Err(Ending::PeekTimeout));
            }
            let read = worker.engine.with_scratch(|scratch| {
                let room = room.min(scratch.len());
                let read = client.poll_read(cx, &mut scratch[..room]);
                if let Poll::Ready(Ok(count)) = read {
                    bytes.extend_from_slice(&scratch[..count]);
                }
                read
            });
            match read {
                Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
                Poll::Ready(Err(_)) => Poll::Ready(Err(Ending::ClientReset)),
                Poll::Pending => {
                    deadline = Some(worker.engine.deadlines.set(at, cx.waker().clone()));
                    Poll::Pending
                }
            }
        });
        self.has_ended = read.await? == 0;
        Ok(())
    }
}

impl Connection {
    /// The address that its limits, routes and hashes are about.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.source.get().map(|source| source.ip())
    }

    /// Where the client connected to; `None` over a unix socket.
    pub(super) fn destination(&self, client: &Stream) -> Option<SocketAddr> {
        self.extra(|extra| extra.destination).or_else(|| client.local())
    }

    fn port(&self, client: &Stream) -> Option<u16> {
        self.destination(client).map(|destination| destination.port())
    }
}
