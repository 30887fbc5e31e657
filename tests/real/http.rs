//! As much HTTP/1.1 as a test client needs.

use std::io;

use crate::support::Peer;

/// A connection to an HTTP server.
pub(crate) struct Http {
    peer: Peer,
    /// Bytes that came and are not used yet.
    rest: Vec<u8>,
}

/// Status and headers of an answer; the body comes through [`Http::body`].
pub(crate) struct Head {
    text: String,
}

impl Http {
    #[track_caller]
    pub(crate) fn connect(address: &str) -> Self {
        Self { peer: Peer::connect(address), rest: Vec::new() }
    }

    /// Asks for `path` and gives the whole answer.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> (Head, Vec<u8>) {
        let mut body = Vec::new();
        let head = self.try_get(path, |bytes| body.extend_from_slice(bytes));
        (head.unwrap_or_else(|e| panic!("GET {path}: {e}")), body)
    }

    /// Asks for `path`; the body goes to `body` piece by piece.
    pub(crate) fn try_get(&mut self, path: &str, mut body: impl FnMut(&[u8])) -> io::Result<Head> {
        self.peer.try_send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))?;
        let head = self.head()?;
        let mut left = head.number("Content-Length").ok_or(io::ErrorKind::InvalidData)?;
        let mut piece = std::mem::take(&mut self.rest);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            body(&piece[..now]);
            left -= now as u64;
            if left == 0 {
                self.rest = piece.split_off(now);
                return Ok(head);
            }
            piece.clear();
            piece.extend_from_slice(self.read(&mut buffer)?);
        }
    }

    fn head(&mut self) -> io::Result<Head> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.rest.split_off(end + 4);
                let text = String::from_utf8_lossy(&self.rest).into_owned();
                self.rest = rest;
                return Ok(Head { text });
            }
            let bytes = self.read(&mut buffer)?;
            self.rest.extend_from_slice(bytes);
        }
    }

    fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        match self.peer.try_read(buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(&buffer[..count]),
        }
    }
}

impl Head {
    /// The status code.
    pub(crate) fn status(&self) -> &str {
        self.text.split_whitespace().nth(1).unwrap_or_default()
    }

    /// The value of a header that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let mut headers = self.text.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name))?.1.trim().parse().ok()
    }
}
