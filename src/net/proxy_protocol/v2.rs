//! Version 2: binary (proxy-protocol.txt, section 2.2).
//!
//! Sixteen bytes, then as many as the last two of them say: addresses, then TLVs. Families and
//! transports without TCP addresses are accepted as HAProxy accepts them; those that the protocol
//! does not have must be refused, which HAProxy does not do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::checksum;
use super::{Ends, Header, HeaderError, LONGEST, canonical};

/// Twelve bytes that begin every header, and no other protocol.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, length.
const FIXED: usize = 16;
/// A header for the proxy itself.
pub(super) const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// A header that speaks for nobody.
const UNSPEC: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";

const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
/// The longest authority, as HAProxy has it; the protocol names no bound.
const LONGEST_AUTHORITY: usize = 255;
/// The longest unique id (section 2.2.5).
const LONGEST_UNIQUE_ID: usize = 128;

/// Where addresses of a family are, and how long they are.
const V4_BYTES: usize = 12;
const V6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(HeaderError::Missing);
    }
    let Some(command) = bytes.get(12) else { return Ok(None) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Unknown),
    };
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + length > LONGEST {
        return Err(HeaderError::TooLong);
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    let mut header =
        Header { ends: None, authority: None, unique_id: None, length: FIXED + length };
    if is_local {
        // The block is to be discarded and the family ignored.
        return Ok(Some(header));
    }
    let (ends, tlvs) = parse_addresses(fixed[13], block)?;
    header.ends = ends;
    parse_tlvs(&bytes[..FIXED + length], tlvs, &mut header)?;
    Ok(Some(header))
}

/// The ends, where the family has TCP addresses, and what stands behind the addresses.
fn parse_addresses(family: u8, block: &[u8]) -> Result<(Option<Ends>, &[u8]), HeaderError> {
    let length = match family {
        0x00..=0x02 => 0,
        0x10..=0x12 => V4_BYTES,
        0x20..=0x22 => V6_BYTES,
        0x30..=0x32 => UNIX_BYTES,
        _ => return Err(HeaderError::Unknown),
    };
    let Some((addresses, tlvs)) = block.split_at_checked(length) else {
        return Err(HeaderError::Bounds);
    };
    let ends = match family {
        0x11 => parse_ends(addresses, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        0x21 => parse_ends(addresses, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => None,
    };
    Ok((ends, tlvs))
}

fn parse_ends<const N: usize>(addresses: &[u8], ip: fn([u8; N]) -> IpAddr) -> Option<Ends> {
    let (source, rest) = addresses.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let (to, _) = rest.split_first_chunk::<2>()?;
    let end = |address: &[u8; N], port: &[u8; 2]| {
        canonical(SocketAddr::new(ip(*address), u16::from_be_bytes(*port)))
    };
    Some(Ends { source: end(source, from), destination: end(destination, to) })
}

/// Reads what we use of the TLVs and skips the others; all must lie within the header. Of two of a
/// kind the first counts, but one checksum is enough work.
fn parse_tlvs(whole: &[u8], mut tlvs: &[u8], header: &mut Header) -> Result<(), HeaderError> {
    let mut is_checked = false;
    while !tlvs.is_empty() {
        let [kind, high, low, rest @ ..] = tlvs else { return Err(HeaderError::Bounds) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err(HeaderError::Bounds);
        };
        match *kind {
            CRC32C => {
                let at = whole.len() - rest.len() - length;
                if is_checked || !has_checksum(whole, at, value) {
                    return Err(HeaderError::Checksum);
                }
                is_checked = true;
            }
            AUTHORITY if length > LONGEST_AUTHORITY => return Err(HeaderError::Bounds),
            UNIQUE_ID if length > LONGEST_UNIQUE_ID => return Err(HeaderError::Bounds),
            AUTHORITY => {
                header.authority.get_or_insert_with(|| value.into());
            }
            UNIQUE_ID => {
                header.unique_id.get_or_insert_with(|| value.into());
            }
            _ => {}
        }
        tlvs = rest;
    }
    Ok(())
}

/// Whether `value`, which stands at `at`, is the checksum of the header with zeros in its place.
fn has_checksum(whole: &[u8], at: usize, value: &[u8]) -> bool {
    let Ok(value) = <[u8; 4]>::try_from(value) else { return false };
    checksum(&[&whole[..at], &[0; 4], &whole[at + 4..]]) == u32::from_be_bytes(value)
}

/// Both ends are of one family.
pub(super) fn write(ends: Option<Ends>, out: &mut Vec<u8>) {
    match ends {
        None => out.extend_from_slice(UNSPEC),
        Some(Ends { source, destination }) => {
            let (family, length) = if source.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(&[0x21, family, 0, length]);
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
    }
}
