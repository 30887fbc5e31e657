//! What a check or an action says about bytes and times, in words.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// Most bytes of an answer that are shown.
const SHOWN: usize = 60;

/// A time as it is written in a configuration: `250ms`, `1s`, `1.5s`.
#[must_use]
pub fn duration(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{}ms", time.as_millis());
    }
    let seconds = format!("{:.3}", time.as_secs_f64());
    format!("{}s", seconds.trim_end_matches('0').trim_end_matches('.'))
}

/// Bytes in quotes, on one line, escaped and shortened; line ends at the end are left out.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    let bytes = trimmed(bytes);
    if bytes.len() > SHOWN {
        return format!("\"{}…\"", bytes[..SHOWN].escape_ascii());
    }
    format!("\"{}\"", bytes.escape_ascii())
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
    &bytes[..end.map_or(0, |last| last + 1)]
}

/// A line of a program's output, fit for a log: what cannot be printed is escaped.
#[must_use]
pub fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Where `part` first stands in `bytes`. O(n · m); both are short.
#[must_use]
pub fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    bytes.windows(part.len()).position(|window| window == part)
}

/// How a program ended: `exit status 3`, `killed by signal 9`.
#[must_use]
pub fn exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last line of what a program writes, which most often says what is wrong.
#[derive(Debug, Default)]
pub struct LastLine {
    done: Vec<u8>,
    open: Vec<u8>,
}

impl LastLine {
    /// Most bytes of a line that are kept: its beginning.
    const LONGEST: usize = 200;

    /// Takes what came next.
    pub fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = Self::LONGEST - self.open.len();
            self.open.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.open.trim_ascii().is_empty() {
            std::mem::swap(&mut self.done, &mut self.open);
        }
        self.open.clear();
    }

    /// The last line that is not empty, fit for a log; `None` when there was none.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let lines = [&self.open, &self.done].map(|line| line.trim_ascii());
        lines.into_iter().find(|line| !line.is_empty()).map(printable)
    }

    /// What happened, followed by that line if there is one.
    #[must_use]
    pub fn after(&self, what: &str) -> String {
        match self.text() {
            Some(line) => format!("{what}: {line}"),
            None => what.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_last_that_is_not_empty_however_it_came() {
        let cases: [(&[&str], Option<&str>); 6] = [
            (&["one\ntwo\n"], Some("two")),
            (&["one\ntwo"], Some("two")),
            (&["on", "e\n", "\n \n"], Some("one")),
            (&["one\n", "tw", "o", "\r\n"], Some("two")),
            (&[], None),
            (&["\n"], None),
        ];
        for (parts, expected) in cases {
            let mut line = LastLine::default();
            parts.iter().for_each(|part| line.feed(part.as_bytes()));
            assert_eq!(line.text().as_deref(), expected, "{parts:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_kept_to_its_beginning() {
        let mut line = LastLine::default();
        (0..1000).for_each(|_| line.feed(b"abcdefgh"));
        assert_eq!(line.text().unwrap(), "abcdefgh".repeat(25));
        line.feed(b"\nlast");
        assert_eq!(line.after("exit status 1"), "exit status 1: last");
    }

    #[test]
    fn a_time_reads_as_it_is_configured() {
        let cases = [(250, "250ms"), (1000, "1s"), (1500, "1.5s"), (30_000, "30s"), (0, "0ms")];
        for (ms, words) in cases {
            assert_eq!(duration(Duration::from_millis(ms)), words);
        }
    }

    #[test]
    fn bytes_are_shown_on_one_line_and_short() {
        assert_eq!(quoted(b"-LOADING\r\n"), r#""-LOADING""#);
        assert_eq!(quoted(b"a\n\x00\xff\"b"), r#""a\n\x00\xff\"b""#);
        assert_eq!(quoted(&[b'x'; 61]), format!("\"{}…\"", "x".repeat(60)));
        assert_eq!(quoted(b"\r\n"), r#""""#);
    }

    #[test]
    fn what_cannot_be_printed_is_escaped() {
        assert_eq!(printable("ä\tb\x1b[31m\r".as_bytes()), "ä\tb\\u{1b}[31m\\r");
    }

    #[test]
    fn a_part_is_found_wherever_it_stands() {
        assert_eq!(find(b"hello", b"lo"), Some(3));
        assert_eq!(find(b"hello", b"hello!"), None);
        assert_eq!(find(b"", b""), Some(0));
    }
}
