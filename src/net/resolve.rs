//! Names to addresses, again and again: A and AAAA, and SRV for services.
//!
//! For the control side alone: nothing on a connect path waits for a name. [`Known`] decides, with no
//! clock of its own, what an answer changes and when to ask again; [`Watch`] asks. The questions
//! themselves are hickory-resolver's: servers, retries, TCP where an answer was cut short, aliases.

mod known;
mod runtime;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::Hosts;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query as DnsQuery, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

pub use self::known::{Bounds, Change, Known};
use self::runtime::Here;

/// The most addresses of a name in each family. Of more the lowest are kept, so that the same ones stay.
pub const MOST_ADDRESSES: usize = 1024;
/// The most targets of a service that are looked up.
const MOST_TARGETS: usize = 256;

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Query {
    /// The addresses of a host; the port is given.
    Host(Box<str>, u16),
    /// The hosts and ports of a service, by the SRV records of its name (RFC 2782).
    Service(Box<str>),
}

/// One address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Found {
    /// Where it is.
    pub address: SocketAddr,
    /// What its SRV record says; `None` for a host.
    pub service: Option<Service>,
}

/// The share and the rank that an SRV record gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Lower ones are used first.
    pub priority: u16,
    /// The share among those of one priority; 0 where there is nothing to choose.
    pub weight: u16,
}

/// What a look-up has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// IPv4 addresses, or why they could not be had. Of a service all addresses.
    pub v4: Result<Vec<Found>, LookupError>,
    /// IPv6 addresses. Of a service none.
    pub v6: Result<Vec<Found>, LookupError>,
    /// How long the answer may be kept: the shortest that was said; `None` if nothing was said.
    pub ttl: Option<Duration>,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name is not there (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name is there, and has no address.
    #[error("the name has no address")]
    Empty,
    /// No server has answered in time.
    #[error("no answer in time")]
    Timeout,
    /// A server has said that it cannot answer.
    #[error("the server answers {0}")]
    Refused(Box<str>),
    /// Anything else.
    #[error("{0}")]
    Failed(Box<str>),
}

impl LookupError {
    /// Whether the server knows for certain that there is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::Empty)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name, port) => write!(f, "{name}:{port}"),
            Self::Service(name) => write!(f, "srv+{name}"),
        }
    }
}

/// Asks servers.
pub struct Resolver {
    dns: hickory_resolver::Resolver<Here>,
    hosts: Hosts,
    timeout: Duration,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that asks `servers`, or the system's (`/etc/resolv.conf`, and `/etc/hosts` first)
    /// where there are none, and takes at most `timeout` for a look-up.
    ///
    /// Within the runtime that looks up.
    ///
    /// # Errors
    ///
    /// What is wrong with the system's configuration.
    pub fn new(servers: &[SocketAddr], timeout: Duration) -> Result<Self, String> {
        let say = |error: NetError| error.to_string();
        let (mut builder, hosts) = if servers.is_empty() {
            let hosts = Hosts::from_system().map_err(|e| format!("/etc/hosts: {e}"))?;
            (hickory_resolver::Resolver::builder(Here::default()).map_err(say)?, hosts)
        } else {
            let servers = servers.iter().map(|server| name_server(*server)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            let builder = hickory_resolver::Resolver::builder_with_config(config, Here::default());
            (builder, Hosts::default())
        };
        set_options(builder.options_mut(), timeout);
        Ok(Self { dns: builder.build().map_err(say)?, hosts, timeout })
    }

    /// Looks a name up. Cancel safe.
    pub async fn look_up(&self, query: &Query) -> Answer {
        let within = tokio::time::timeout(self.timeout, async {
            match query {
                Query::Host(name, port) => self.look_up_host(name, *port).await,
                Query::Service(name) => self.look_up_service(name).await,
            }
        });
        within.await.unwrap_or_else(|_| Answer::failed(LookupError::Timeout, None))
    }

    async fn look_up_host(&self, name: &str, port: u16) -> Answer {
        let found = |ip| Found { address: SocketAddr::new(ip, port), service: None };
        // Both within the time of one, so that a server that keeps silent about AAAA alone does not
        // take the IPv4 addresses with it.
        let slightly_less = self.timeout - self.timeout / 10;
        let (v4, v6) = tokio::join!(
            self.look_up_ips(name, RecordType::A, slightly_less),
            self.look_up_ips(name, RecordType::AAAA, slightly_less)
        );
        let ttl = [&v4, &v6].into_iter().filter_map(|part| part.ttl).min();
        let family = |part: Part<IpAddr>| Ok(part.records?.into_iter().map(found).collect());
        Answer { v4: family(v4), v6: family(v6), ttl }
    }

    async fn look_up_service(&self, name: &str) -> Answer {
        let records = self.ask(name, RecordType::SRV, self.timeout).await;
        let mut ttl = records.ttl;
        let mut services: Vec<_> = match records.records {
            Err(error) => return Answer::failed(error, ttl),
            Ok(records) => records.into_iter().filter_map(service_of).collect(),
        };
        // The target "." says that there is no such service (RFC 2782).
        services.retain(|(target, ..)| !target.is_empty());
        services.sort_unstable();
        services.truncate(MOST_TARGETS);
        let mut found = Vec::new();
        for (target, port, service) in services {
            let answer = self.look_up_host(&target, port).await;
            ttl = ttl.into_iter().chain(answer.ttl).min();
            for part in [answer.v4, answer.v6] {
                match part {
                    Ok(part) => {
                        let is_of = |one: Found| Found { service: Some(service), ..one };
                        found.extend(part.into_iter().map(is_of));
                    }
                    Err(error) if error.is_nothing() => {}
                    // A service that is known in part is not known.
                    Err(error) => return Answer::failed(error, None),
                }
            }
        }
        if found.is_empty() {
            return Answer::failed(LookupError::Empty, ttl);
        }
        Answer { v4: Ok(found), v6: Err(LookupError::Empty), ttl }
    }

    async fn look_up_ips(&self, name: &str, kind: RecordType, timeout: Duration) -> Part<IpAddr> {
        let Part { records, ttl } = self.ask(name, kind, timeout).await;
        let ip = |record: RData| match record {
            RData::A(v4) => Some(IpAddr::V4(v4.0)),
            RData::AAAA(v6) => Some(IpAddr::V6(v6.0).to_canonical()),
            _ => None,
        };
        Part { records: records.map(|r| r.into_iter().filter_map(ip).collect()), ttl }
    }

    async fn ask(&self, name: &str, kind: RecordType, timeout: Duration) -> Part<RData> {
        let Ok(parsed) = Name::from_utf8(name) else {
            return Part { records: Err(LookupError::NoSuchName), ttl: None };
        };
        if let Some(known) = self.hosts.lookup_static_host(&DnsQuery::query(parsed.clone(), kind)) {
            let records = known.answers().iter().map(|record| record.data.clone()).collect();
            return Part { records: Ok(records), ttl: None };
        }
        match tokio::time::timeout(timeout, self.dns.lookup(parsed, kind)).await {
            Err(_) => Part { records: Err(LookupError::Timeout), ttl: None },
            Ok(Err(error)) => {
                let ttl = negative_ttl(&error);
                Part { records: Err(sort_out(&error)), ttl }
            }
            Ok(Ok(lookup)) => {
                let left =
                    lookup.valid_until().saturating_duration_since(std::time::Instant::now());
                let records = lookup.answers().iter().map(|record| record.data.clone()).collect();
                // Whole seconds, of which a little has passed.
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                Part { records: Ok(records), ttl: Some(Duration::from_secs(seconds)) }
            }
        }
    }
}

/// What a question for one kind of record has brought.
struct Part<T> {
    records: Result<Vec<T>, LookupError>,
    ttl: Option<Duration>,
}

impl Answer {
    fn failed(error: LookupError, ttl: Option<Duration>) -> Self {
        Self { v4: Err(error.clone()), v6: Err(error), ttl }
    }
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    NameServerConfig::new(server.ip(), true, connections)
}

fn set_options(options: &mut ResolverOpts, timeout: Duration) {
    // Asked twice within the time, so that a lost packet is no failure.
    options.timeout = (timeout * 2 / 5).max(Duration::from_millis(1));
    options.attempts = 1;
    // The time to live is looked after here, and /etc/hosts is asked before.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
}

fn service_of(record: RData) -> Option<(String, u16, Service)> {
    let RData::SRV(srv) = record else { return None };
    let target = srv.target.to_utf8();
    let target = target.trim_end_matches('.').to_owned();
    Some((target, srv.port, Service { priority: srv.priority, weight: srv.weight }))
}

fn negative_ttl(error: &NetError) -> Option<Duration> {
    let NetError::Dns(DnsError::NoRecordsFound(NoRecords { negative_ttl, .. })) = error else {
        return None;
    };
    negative_ttl.map(|seconds| Duration::from_secs(seconds.into()))
}

fn sort_out(error: &NetError) -> LookupError {
    match error {
        NetError::Timeout => LookupError::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => LookupError::NoSuchName,
            ResponseCode::NoError => LookupError::Empty,
            code => LookupError::Refused(code.to_string().into()),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => {
            LookupError::Refused(code.to_string().into())
        }
        other => LookupError::Failed(other.to_string().into()),
    }
}

/// A name that is looked up again and again.
#[derive(Debug)]
pub struct Watch {
    resolver: Rc<Resolver>,
    query: Query,
    bounds: Bounds,
    known: Known,
    due: Instant,
}

impl Watch {
    /// A name of which `known` is known, to be looked up at once.
    #[must_use]
    pub fn new(resolver: Rc<Resolver>, query: Query, bounds: Bounds, known: Known) -> Self {
        Self { resolver, query, bounds, known, due: Instant::now() }
    }

    /// Waits until it is time, looks the name up, and says what has changed; nothing has if the
    /// answer was the same, or was none.
    ///
    /// Cancel safe: a look-up that was given up is made again.
    pub async fn next(&mut self) -> Change {
        tokio::time::sleep_until(self.due).await;
        let answer = self.resolver.look_up(&self.query).await;
        let change = self.known.learn(answer, self.bounds);
        self.due = Instant::now() + change.next_in;
        change
    }

    /// What is known, to be carried over to another watch of the same name.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }
}

#[cfg(test)]
mod tests;
