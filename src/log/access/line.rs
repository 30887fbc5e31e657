//! A record as a line: JSON, or `key=value`.
//!
//! What came from the wire is escaped, so that no client can end a line, begin one, colour a
//! terminal or turn the direction of its text.

use std::fmt::Display;
use std::io::Write;
use std::time::SystemTime;

use super::Record;

/// Appends the record as one JSON object and a line break.
pub fn json(record: &Record, out: &mut Vec<u8>) {
    let mut line = Line { out, form: Form::Json };
    line.out.push(b'{');
    line.all(record);
    line.out.extend_from_slice(b"}\n");
}

/// Appends the record as `key=value`, separated by spaces, and a line break. What does not apply is
/// `-`; a value with anything but plain characters is in quotes.
pub fn text(record: &Record, out: &mut Vec<u8>) {
    let mut line = Line { out, form: Form::Text };
    line.all(record);
    line.out.push(b'\n');
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Text,
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    form: Form,
}

impl Line<'_> {
    /// Every field, in the order of the documentation.
    fn all(&mut self, record: &Record) {
        self.first_key("time");
        self.time(record.time);
        self.name("listener", Some(&record.listener));
        self.shown("local", record.local.as_ref());
        self.shown("source", record.source);
        self.shown("peer", record.peer);
        self.name("pool", record.pool.as_deref());
        self.name("backend", record.backend.as_deref());
        self.shown("backend_address", record.backend_address.as_ref());
        self.tried(record);
        self.number("connect_ms", record.connect_ms);
        self.number("first_byte_ms", record.first_byte_ms);
        self.number("bytes_in", Some(record.bytes_in));
        self.number("bytes_out", Some(record.bytes_out));
        self.number("duration_ms", Some(record.duration_ms));
        self.name("end", Some(record.end.as_str()));
        self.key("sni");
        match &record.sni {
            Some(sni) => self.value(sni),
            None => self.none(),
        }
    }

    fn key(&mut self, key: &str) {
        self.out.push(if self.form == Form::Json { b',' } else { b' ' });
        self.first_key(key);
    }

    fn first_key(&mut self, key: &str) {
        if self.form == Form::Json {
            self.out.push(b'"');
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        } else {
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
        }
    }

    fn none(&mut self) {
        self.out.extend_from_slice(if self.form == Form::Json { b"null" } else { b"-" });
    }

    fn name(&mut self, key: &str, name: Option<&str>) {
        self.key(key);
        match name {
            Some(name) => self.value(name.as_bytes()),
            None => self.none(),
        }
    }

    /// A value that is made of plain characters, but for the path of a unix socket.
    fn shown(&mut self, key: &str, value: Option<impl Display>) {
        self.key(key);
        match value {
            Some(value) => {
                let mut shown = [0; 192];
                let mut rest = &mut shown[..];
                let fits = write!(rest, "{value}").is_ok();
                let length = 192 - rest.len();
                if fits {
                    self.value(&shown[..length]);
                } else {
                    self.value(value.to_string().as_bytes());
                }
            }
            None => self.none(),
        }
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        self.key(key);
        match number {
            Some(number) => self.digits(number),
            None => self.none(),
        }
    }

    fn digits(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }

    fn time(&mut self, time: SystemTime) {
        let time = humantime::format_rfc3339_millis(time);
        // A vector takes whatever it is given.
        let _ = if self.form == Form::Json {
            write!(self.out, "\"{time}\"")
        } else {
            write!(self.out, "{time}")
        };
    }

    fn tried(&mut self, record: &Record) {
        self.key("tried");
        if self.form == Form::Json {
            self.out.push(b'[');
            for (index, tried) in record.tried.iter().enumerate() {
                self.out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
                self.first_key("backend");
                self.value(tried.backend.as_bytes());
                self.name("error", Some(tried.error));
                self.number("ms", Some(tried.ms));
                self.out.push(b'}');
            }
            self.out.push(b']');
            return;
        }
        if record.tried.is_empty() {
            return self.none();
        }
        let all: Vec<String> =
            record.tried.iter().map(|t| format!("{}:{}:{}ms", t.backend, t.error, t.ms)).collect();
        self.value(all.join(",").as_bytes());
    }

    /// A string, in quotes where the form wants them.
    fn value(&mut self, bytes: &[u8]) {
        let is_plain =
            bytes.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'='));
        let is_bare = self.form == Form::Text && is_plain && !bytes.is_empty() && bytes != b"-";
        if is_bare {
            self.out.extend_from_slice(bytes);
            return;
        }
        self.out.push(b'"');
        if is_plain {
            self.out.extend_from_slice(bytes);
        } else {
            self.escaped(bytes);
        }
        self.out.push(b'"');
    }

    fn escaped(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' => self.out.extend_from_slice(b"\\\""),
                    '\\' => self.out.extend_from_slice(b"\\\\"),
                    ' '..='~' => self.out.push(u8::try_from(c).unwrap_or(b'?')),
                    c if c.is_alphanumeric() => {
                        self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    c => {
                        // As UTF-16, which is how JSON escapes what lies beyond its first plane.
                        for unit in c.encode_utf16(&mut [0; 2]) {
                            let _ = write!(self.out, "\\u{unit:04x}");
                        }
                    }
                }
            }
            for byte in chunk.invalid() {
                // No escape of JSON stands for a byte, so it is spelt out.
                let escape: &[u8] = if self.form == Form::Json { b"\\\\x" } else { b"\\x" };
                self.out.extend_from_slice(escape);
                let _ = write!(self.out, "{byte:02x}");
            }
        }
    }
}
