//! Addresses as values: no I/O.
//!
//! The error of a parser is a hint: what to do about the text, to be put behind
//! "expected …, found …"; empty when there is none.

mod target;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub use target::Target;

/// The longest path of a unix socket, in bytes: `sun_path` less its final NUL (`unix(7)`).
pub const MAX_UNIX_PATH: usize = 107;

/// Where a backend or a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Its port; a unix socket has none.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(tcp) => Some(tcp.port()),
            Self::Unix(_) => None,
        }
    }

    /// Reads an address to connect to: `10.0.0.11:9501`, `[2001:db8::1]:9501`, `unix:/run/app.sock`.
    ///
    /// # Errors
    ///
    /// A hint, when the text is no such address or its port is 0.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return parse_unix(path).map(Self::Unix);
        }
        let (host, ports) = parse_host_and_ports(text, Use::Connect)?;
        if *ports.start() == 0 {
            return Err("nothing can be reached at port 0".to_owned());
        }
        Ok(Self::Tcp(host.at(*ports.start())))
    }
}

/// Where to listen, as written: one address, or the same address with a range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A host and its ports; port 0 lets the kernel choose.
    Tcp(Host, RangeInclusive<u16>),
    /// The path of a unix stream socket.
    Unix(PathBuf),
}

impl Bind {
    /// Reads an address to listen on: what [`Address::parse`] reads, or `0.0.0.0:9501-9504`; port 0
    /// is allowed on its own.
    ///
    /// # Errors
    ///
    /// A hint, when the text is no such address.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return parse_unix(path).map(Self::Unix);
        }
        let (host, ports) = parse_host_and_ports(text, Use::Listen)?;
        if let Host(IpAddr::V6(ip), _) = host
            && let Some(mapped) = ip.to_ipv4_mapped()
        {
            return Err(format!("write the IPv4 address as it is: {mapped}"));
        }
        if ports.start() != ports.end() && *ports.start() == 0 {
            return Err("a range of ports starts at 1 or more".to_owned());
        }
        Ok(Self::Tcp(host, ports))
    }

    /// How many addresses it stands for.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Tcp(_, ports) => ports.len(),
            Self::Unix(_) => 1,
        }
    }

    /// Every address, ranges expanded; up to 65,535.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        match self {
            Self::Tcp(host, ports) => {
                ports.clone().map(|port| Address::Tcp(host.at(port))).collect()
            }
            Self::Unix(path) => vec![Address::Unix(path.clone())],
        }
    }
}

/// An IP address with its scope (the interface of a link-local IPv6 address; else 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Host(
    /// The IP address.
    pub IpAddr,
    /// The scope id.
    pub u32,
);

impl Host {
    /// The address of `port` on this host.
    #[must_use]
    pub fn at(self, port: u16) -> SocketAddr {
        match self.0 {
            IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), port),
            IpAddr::V6(ip) => std::net::SocketAddrV6::new(ip, port, 0, self.1).into(),
        }
    }
}

/// Reads a local address to connect from: an IP address without a port.
///
/// # Errors
///
/// A hint, when the text is none.
pub fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = text.parse() {
        return Ok(ip);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(Ok(ip)) = bare.map(str::parse::<Ipv6Addr>) {
        return Err(format!("without brackets: {ip}"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Err(format!("without a port: {}", address.ip()));
    }
    Err(String::new())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Connect,
    Listen,
}

fn parse_unix(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("the path is missing".to_owned());
    }
    if !path.starts_with('/') {
        return Err("the path must be absolute, as in unix:/run/app.sock".to_owned());
    }
    if path.len() > MAX_UNIX_PATH {
        let length = path.len();
        return Err(format!("a path of {length} bytes; unix sockets allow {MAX_UNIX_PATH}"));
    }
    if path.contains('\0') {
        return Err("a path has no NUL".to_owned());
    }
    if path.ends_with('/') {
        return Err("that is a directory; name a file in it, as in unix:/run/app.sock".to_owned());
    }
    Ok(PathBuf::from(path))
}

fn parse_host_and_ports(text: &str, wanted: Use) -> Result<(Host, RangeInclusive<u16>), String> {
    let Some((host, port)) = split_port(text) else {
        return Err(without_port(text, wanted));
    };
    let host = parse_host(host, port, wanted)?;
    let ports = parse_ports(port, wanted)?;
    Ok((host, ports))
}

/// Splits at the last colon that is not within brackets or part of a bare IPv6 address.
fn split_port(text: &str) -> Option<(&str, &str)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return None;
    }
    let (host, port) = text.rsplit_once(':')?;
    if host.contains(':') && !host.ends_with(']') {
        return None;
    }
    Some((host, port))
}

fn without_port(text: &str, wanted: Use) -> String {
    if text.contains("://") {
        return NO_SCHEME.to_owned();
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
    {
        return format!("an IPv6 address stands in brackets: \"[{host}]:{port}\"");
    }
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = inner.parse::<IpAddr>() {
        let example = Host(ip, 0).at(9501);
        return format!("the port is missing; write {example} for port 9501");
    }
    if wanted == Use::Listen && text.parse::<u16>().is_ok() {
        return format!("did you mean \"0.0.0.0:{text}\"?");
    }
    if text.starts_with('/') {
        return format!("did you mean \"unix:{text}\"?");
    }
    if is_name(text) {
        return NO_NAMES.to_owned();
    }
    String::new()
}

const NO_SCHEME: &str = "without a scheme: what is forwarded is bytes";
const NO_NAMES: &str = "write an IP address and a port, such as 10.0.0.11:9501";

fn parse_host(host: &str, port: &str, wanted: Use) -> Result<Host, String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // The scope is left to the standard library, which reads it only next to a port.
        return match format!("[{inner}]:1").parse() {
            Ok(SocketAddr::V6(v6)) => Ok(Host(IpAddr::V6(*v6.ip()), v6.scope_id())),
            _ if inner.parse::<std::net::Ipv4Addr>().is_ok() => {
                Err(format!("without brackets: {inner}:{port}"))
            }
            _ => Err("what stands in brackets is no IPv6 address".to_owned()),
        };
    }
    if let Ok(ip) = host.parse::<std::net::Ipv4Addr>() {
        return Ok(Host(IpAddr::V4(ip), 0));
    }
    Err(match (host, wanted) {
        ("" | "*", Use::Listen) => format!("did you mean \"0.0.0.0:{port}\"?"),
        ("localhost", _) | ("", Use::Connect) => format!("did you mean \"127.0.0.1:{port}\"?"),
        _ if host.contains("//") => NO_SCHEME.to_owned(),
        _ if host.chars().all(|c| c.is_ascii_digit() || c == '.') => {
            "an IPv4 address is four numbers from 0 to 255 without leading zeros".to_owned()
        }
        _ if is_name(host) => NO_NAMES.to_owned(),
        _ => String::new(),
    })
}

fn is_name(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

fn parse_ports(text: &str, wanted: Use) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (parse_port(first)?, parse_port(last)?),
        None => {
            let port = parse_port(text)?;
            (port, port)
        }
    };
    if text.contains('-') && wanted == Use::Connect {
        return Err("a backend has one port; write one backend for each port".to_owned());
    }
    if first > last {
        return Err(format!("the range goes down; did you mean {last}-{first}?"));
    }
    Ok(first..=last)
}

fn parse_port(text: &str) -> Result<u16, String> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let (true, Ok(port)) = (is_number, text.parse()) {
        return Ok(port);
    }
    Err(if text.is_empty() {
        "the port is missing".to_owned()
    } else {
        "a port is a whole number from 1 to 65535".to_owned()
    })
}

#[cfg(test)]
mod tests;
