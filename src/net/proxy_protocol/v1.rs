//! Version 1: one line of text (proxy-protocol.txt, section 2.1).

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Ends, Header, HeaderError, canonical};

/// What every line begins with.
const PREFIX: &[u8] = b"PROXY ";
/// The longest line, its end included.
const LONGEST_LINE: usize = 107;
/// A line that speaks for nobody.
pub(super) const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let known = bytes.len().min(PREFIX.len());
    if bytes[..known] != PREFIX[..known] {
        return Err(HeaderError::Missing);
    }
    let within = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = within.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        // Without the final LF there is room for a CR at most.
        let is_over = bytes.len() >= LONGEST_LINE;
        return if is_over { Err(HeaderError::TooLong) } else { Ok(None) };
    };
    match within[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if within.len() < LONGEST_LINE => return Ok(None),
        [b'\r'] => return Err(HeaderError::TooLong),
        _ => return Err(HeaderError::Line),
    }
    let ends = parse_line(&within[PREFIX.len()..end]).ok_or(HeaderError::Line)?;
    Ok(Some(Header { ends, authority: None, unique_id: None, length: end + 2 }))
}

/// What stands between `PROXY ` and the end of the line; `None` if it is wrong.
fn parse_line(line: &[u8]) -> Option<Option<Ends>> {
    // Whatever follows UNKNOWN is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(None);
    }
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ');
    let mut next = || words.next();
    let parse_ip: fn(&str) -> Option<IpAddr> = match next()? {
        "TCP4" => |word| word.parse::<Ipv4Addr>().ok().map(Into::into),
        "TCP6" => |word| word.parse::<Ipv6Addr>().ok().map(Into::into),
        _ => return None,
    };
    let (source, destination) = (parse_ip(next()?)?, parse_ip(next()?)?);
    let (from, to) = (parse_port(next()?)?, parse_port(next()?)?);
    if next().is_some() {
        return None;
    }
    Some(Some(Ends {
        source: canonical(SocketAddr::new(source, from)),
        destination: canonical(SocketAddr::new(destination, to)),
    }))
}

/// A decimal number without leading zeros.
fn parse_port(word: &str) -> Option<u16> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || (word.len() > 1 && word.starts_with('0')) {
        return None;
    }
    word.parse().ok()
}

/// Both ends are of one family.
pub(super) fn write(ends: Option<Ends>, out: &mut Vec<u8>) {
    let Some(Ends { source, destination }) = ends else {
        out.extend_from_slice(UNKNOWN);
        return;
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    let (source, destination) = (source.ip(), destination.ip());
    // Writing to a vector does not fail.
    let _ = write!(out, "PROXY {family} {source} {destination} {from} {to}\r\n");
}
