//! What programs write, line by line to the log, up to a limit.

use tracing::info;

use super::Occasion;
use crate::probe::text::{LastLine, printable};

/// Most bytes of one run's output that are logged.
const LIMIT: usize = 16 * 1024;

/// Most bytes of one line; a longer one is several.
const LINE: usize = 1024;

/// The output of one run of an action, over all its attempts.
#[derive(Debug, Default)]
pub(super) struct Output {
    line: Vec<u8>,
    logged: usize,
    left_out: usize,
    last: LastLine,
}

impl Output {
    /// Logs the lines that are complete with this.
    pub(super) fn feed(&mut self, bytes: &[u8], occasion: &Occasion) {
        self.split(bytes, |line| log(line, occasion));
    }

    /// An attempt has ended: a line that has no end yet is a line. Gives the last one, behind `how`
    /// the attempt ended, and forgets it.
    pub(super) fn end_attempt(&mut self, how: &str, occasion: &Occasion) -> String {
        self.end_line(&mut |line| log(line, occasion));
        std::mem::take(&mut self.last).after(how)
    }

    /// The run has ended: says how much was left out.
    pub(super) fn finish(self, occasion: &Occasion) {
        let Occasion { event, pool, backend, .. } = occasion;
        if self.left_out > 0 {
            let bytes = self.left_out;
            let event = event.as_str();
            info!(%pool, %backend, event, bytes, "output of a recovery action was left out");
        }
    }

    fn split(&mut self, bytes: &[u8], mut log: impl FnMut(&[u8])) {
        self.last.feed(bytes);
        let room = LIMIT.saturating_sub(self.logged + self.line.len()).min(bytes.len());
        self.left_out += bytes.len() - room;
        for part in bytes[..room].split_inclusive(|byte| *byte == b'\n') {
            for piece in part.chunks(LINE) {
                self.line.extend_from_slice(piece);
                if self.line.ends_with(b"\n") || self.line.len() >= LINE {
                    self.end_line(&mut log);
                }
            }
        }
    }

    fn end_line(&mut self, log: &mut impl FnMut(&[u8])) {
        let line = std::mem::take(&mut self.line);
        self.logged += line.len();
        if !line.trim_ascii_end().is_empty() {
            log(line.trim_ascii_end());
        }
    }
}

fn log(line: &[u8], occasion: &Occasion) {
    let Occasion { event, pool, backend, .. } = occasion;
    let line = printable(line);
    info!(%pool, %backend, event = event.as_str(), line, "recovery action says");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> (Vec<String>, Output) {
        let (mut output, mut lines) = (Output::default(), Vec::new());
        let mut log = |line: &[u8]| lines.push(String::from_utf8(line.to_vec()).unwrap());
        parts.iter().for_each(|part| output.split(part, &mut log));
        output.end_line(&mut log);
        (lines, output)
    }

    #[test]
    fn lines_are_lines_however_they_come() {
        assert_eq!(lines(&[b"one\r\ntw", b"o\n\n", b"three"]).0, ["one", "two", "three"]);
    }

    #[test]
    fn a_long_line_is_several() {
        let (lines, _) = lines(&[&[b'x'; 3000]]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [1024, 1024, 952]);
    }

    #[test]
    fn what_is_over_the_limit_is_counted_and_left_out_and_its_last_line_is_known() {
        let flood = b"0123456789abcde\n".repeat(2000);
        let (lines, output) = lines(&[&flood, &flood, b"the end\n"]);
        assert_eq!(lines.len(), 1024);
        assert_eq!(output.left_out, 2 * flood.len() + 8 - LIMIT);
        assert_eq!(output.last.text().unwrap(), "the end");
    }
}
