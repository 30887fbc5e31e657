//! The server name and the protocols that a TLS client asks for, from the first bytes it sends. Pure.
//!
//! Source: RFC 8446, sections 4.1.2 and 5.1, for records and the ClientHello, which earlier versions
//! share (RFC 5246, sections 6.2.1 and 7.4.1.2); RFC 6066, section 3, for the server name; RFC 7301
//! for the protocols. Only lengths are judged, not what a cipher or an extension means: whether to
//! speak with that client is for the backend to say. Of a hello that is encrypted (ECH) this is the
//! outer one.

use super::name::host_name;

/// The longest ClientHello that is read, in bytes, its header of four not counted.
pub const LONGEST: usize = 16 * 1024;
/// The most bytes that are looked at: the longest ClientHello and its records' headers, of which
/// there are few unless somebody means ill.
pub const LONGEST_RAW: usize = 32 * 1024;

/// The longest payload of a record.
const LONGEST_RECORD: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;

/// What a ClientHello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server in lower case, without a final dot; `None` where there is none, or
    /// what stands there is none: empty, an IP address, too long, or with bytes that no name has.
    pub sni: Option<Box<str>>,
    /// The protocols offered.
    pub alpn: Alpn,
}

/// The protocols that a client offers (ALPN), in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alpn(
    /// As it came: each with its length in front.
    Box<[u8]>,
);

impl Alpn {
    /// The protocols, each of 1 to 255 bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (protocol, after) = after.split_at_checked((*length).into())?;
            rest = after;
            Some(protocol)
        })
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Alpn {
    /// Protocols of another length than 1 to 255 bytes are left out.
    fn from_iter<I: IntoIterator<Item = T>>(protocols: I) -> Self {
        let mut bytes = Vec::new();
        for protocol in protocols {
            match u8::try_from(protocol.as_ref().len()) {
                Ok(length) if length > 0 => {
                    bytes.push(length);
                    bytes.extend_from_slice(protocol.as_ref());
                }
                _ => {}
            }
        }
        Self(bytes.into())
    }
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// The beginning of a ClientHello; more bytes are needed.
    NeedMore,
    /// No well-formed ClientHello of up to 16 KiB, whatever follows.
    NotTls,
    /// A whole ClientHello.
    Hello(ClientHello),
}

/// Reads a ClientHello that comes piece by piece.
///
/// Keeps places and no bytes; each byte is looked at once while it comes, and once more when the
/// ClientHello is whole. Make a new one for each connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    /// Where the next record begins.
    next_record: usize,
    /// Payload of the records before that.
    payload: usize,
    /// The handshake's header, as far as it was read.
    header: [u8; HANDSHAKE_HEADER],
    header_length: usize,
}

/// The bytes are no ClientHello.
#[derive(Debug)]
struct Malformed;

impl Reader {
    /// Looks at all that has come so far: the bytes of the calls before, and what came since.
    ///
    /// Once it has not answered [`Peeked::NeedMore`], the answer stands and the reader is of no
    /// further use. Allocates for a name, for protocols, and once where a ClientHello is split over
    /// records.
    pub fn read(&mut self, bytes: &[u8]) -> Peeked {
        match self.advance(bytes) {
            Ok(None) => Peeked::NeedMore,
            Ok(Some(hello)) => Peeked::Hello(hello),
            Err(Malformed) => Peeked::NotTls,
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, Malformed> {
        while let Some((payload, is_whole)) = record_at(bytes, self.next_record)? {
            self.read_header(payload)?;
            if let Some(length) = self.handshake_length()
                && self.payload + payload.len() >= length
            {
                return hello_of(bytes, length).map(Some);
            }
            if !is_whole {
                break;
            }
            self.next_record += RECORD_HEADER + payload.len();
            self.payload += payload.len();
        }
        if bytes.len() >= LONGEST_RAW { Err(Malformed) } else { Ok(None) }
    }

    /// Takes from the payload of the present record what is missing of the handshake's header.
    fn read_header(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let known = self.header_length.saturating_sub(self.payload);
        for byte in payload.iter().skip(known).take(HANDSHAKE_HEADER - self.header_length) {
            self.header[self.header_length] = *byte;
            self.header_length += 1;
        }
        match self.header[..self.header_length] {
            [] | [1] | [1, 0] | [1, 0, _] => Ok(()),
            [1, 0, _, _]
                if self
                    .handshake_length()
                    .is_some_and(|length| length <= HANDSHAKE_HEADER + LONGEST) =>
            {
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    /// Length of the ClientHello with its header, once that is known.
    fn handshake_length(&self) -> Option<usize> {
        let [_, _, high, low] = self.header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        (self.header_length == HANDSHAKE_HEADER).then_some(HANDSHAKE_HEADER + length)
    }
}

/// What has come of the payload of the record at `at`, and whether that is all of it; `None` while
/// its header is not there.
fn record_at(bytes: &[u8], at: usize) -> Result<Option<(&[u8], bool)>, Malformed> {
    let rest = bytes.get(at..).unwrap_or_default();
    // The kind is handshake; of the version the first byte is 3 in all that TLS ever was.
    match rest {
        [] | [22] | [22, 3, ..] => {}
        _ => return Err(Malformed),
    }
    let Some((header, rest)) = rest.split_first_chunk::<RECORD_HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length == 0 || length > LONGEST_RECORD {
        return Err(Malformed);
    }
    Ok(Some(rest.get(..length).map_or((rest, false), |payload| (payload, true))))
}

/// The ClientHello of `length` bytes whose records all of `bytes` hold.
fn hello_of(bytes: &[u8], length: usize) -> Result<ClientHello, Malformed> {
    let mut at = 0;
    let mut joined = Vec::new();
    while let Some((payload, _)) = record_at(bytes, at)? {
        if at == 0 && payload.len() >= length {
            return parse(&payload[HANDSHAKE_HEADER..length]);
        }
        joined.extend_from_slice(&payload[..payload.len().min(length - joined.len())]);
        if joined.len() == length {
            return parse(&joined[HANDSHAKE_HEADER..]);
        }
        at += RECORD_HEADER + payload.len();
    }
    Err(Malformed)
}

fn parse(body: &[u8]) -> Result<ClientHello, Malformed> {
    let mut rest = Parts(body);
    if rest.take(2)?[0] != 3 {
        return Err(Malformed);
    }
    let _random = rest.take(32)?;
    let session = rest.short()?;
    let ciphers = rest.long()?;
    let compressions = rest.short()?;
    if session.0.len() > 32 || ciphers.0.len() < 2 || ciphers.0.len() % 2 != 0 {
        return Err(Malformed);
    }
    if compressions.0.is_empty() {
        return Err(Malformed);
    }
    let mut hello = ClientHello::default();
    if rest.0.is_empty() {
        // Before TLS 1.2 there need not be any extensions.
        return Ok(hello);
    }
    let mut extensions = rest.long()?;
    rest.end()?;
    let (mut has_sni, mut has_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let data = extensions.long()?;
        match kind {
            // Of two of a kind, which are forbidden, the backend may believe the other one.
            0 if has_sni => return Err(Malformed),
            16 if has_alpn => return Err(Malformed),
            0 => {
                has_sni = true;
                hello.sni = parse_sni(data)?;
            }
            16 => {
                has_alpn = true;
                hello.alpn = parse_alpn(data)?;
            }
            _ => {}
        }
    }
    Ok(hello)
}

/// The host name; other kinds of names, of which there are none so far, are skipped.
fn parse_sni(mut data: Parts<'_>) -> Result<Option<Box<str>>, Malformed> {
    let mut names = data.long()?;
    data.end()?;
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.long()?;
        if kind == 0 {
            if found.is_some() {
                return Err(Malformed);
            }
            found = Some(name.0);
        }
    }
    Ok(found.and_then(host_name))
}

fn parse_alpn(mut data: Parts<'_>) -> Result<Alpn, Malformed> {
    let list = data.long()?;
    data.end()?;
    let mut rest = Parts(list.0);
    while !rest.0.is_empty() {
        if rest.short()?.0.is_empty() {
            return Err(Malformed);
        }
    }
    Ok(Alpn(list.0.into()))
}

/// What is left to be parsed.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (part, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(part)
    }

    fn number(&mut self) -> Result<u16, Malformed> {
        let (number, rest) = self.0.split_first_chunk::<2>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*number))
    }

    /// A part with its length in one byte in front.
    fn short(&mut self) -> Result<Self, Malformed> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Self)
    }

    /// A part with its length in two bytes in front.
    fn long(&mut self) -> Result<Self, Malformed> {
        let length = self.number()?;
        self.take(length.into()).map(Self)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests;
