//! The PROXY protocol, versions 1 and 2: who a proxy says that its client is. Pure.
//!
//! Source: HAProxy's proxy-protocol.txt, "The PROXY protocol, versions 1 & 2". Reading is for peers
//! of whom a header is required; whether one is, and of whom it is believed, is not decided here.
//!
//! What has no TCP addresses (LOCAL, UNKNOWN, UNSPEC, and the datagram and unix families of version
//! 2, which this program cannot have forwarded) stands for the peer's own address.

mod crc32c;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

/// The longest header that is read, in bytes: version 1 has 107, and version 2 is cut here.
pub const LONGEST: usize = 4096;

/// The version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of the connection that is spoken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The ends; `None` for those of the connection that the header came over.
    pub ends: Option<Ends>,
    /// The host name that the client asked for (`PP2_TYPE_AUTHORITY`), as it came: at most 255
    /// bytes, of which nothing else is known.
    pub authority: Option<Box<[u8]>>,
    /// What the proxy calls the connection (`PP2_TYPE_UNIQUE_ID`), as it came: at most 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
    /// Its bytes. What follows them is payload, a second header included.
    pub length: usize,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// They begin like neither version.
    #[error("no PROXY header")]
    Missing,
    /// A line of version 1 that does not end within 107 bytes, or a version 2 over 4 KiB.
    #[error("too long")]
    TooLong,
    /// A line of version 1 that says nothing that the protocol knows.
    #[error("malformed line")]
    Line,
    /// A version, command, family or transport that version 2 does not have.
    #[error("unknown version, command or family")]
    Unknown,
    /// Addresses or a TLV that do not fit where they stand.
    #[error("a part is longer than the whole")]
    Bounds,
    /// The checksum is another one.
    #[error("wrong CRC32c")]
    Checksum,
}

/// Reads a header at the beginning of `bytes`; `None` when more are needed.
///
/// Bytes that cannot become a header are refused as soon as that is known. Costs time in the length
/// of a header, whatever follows it; allocates for authority and unique id alone. Called again for
/// each segment it looks at no more than 4 KiB.
///
/// # Errors
///
/// See [`HeaderError`]: the connection is of no use then.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

/// Puts a header behind what is in `out`; without ends one that speaks for nobody: UNKNOWN or UNSPEC.
pub fn write(version: Version, ends: Option<Ends>, out: &mut Vec<u8>) {
    let ends = ends.map(Ends::canonical);
    match version {
        Version::V1 => v1::write(ends, out),
        Version::V2 => v2::write(ends, out),
    }
}

/// The header of a connection that the proxy makes for itself, such as a health check: LOCAL, for
/// which version 1 has only UNKNOWN.
#[must_use]
pub fn local(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => v1::UNKNOWN,
        Version::V2 => v2::LOCAL,
    }
}

impl Ends {
    /// Both ends of one family: IPv4 where both are or are mapped, else IPv6.
    fn canonical(self) -> Self {
        let (source, destination) = (canonical(self.source), canonical(self.destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Self { source, destination };
        }
        Self { source: as_v6(source), destination: as_v6(destination) }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn as_v6(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddr::new(IpAddr::V6(ip), address.port())
}

#[cfg(test)]
mod tests;
