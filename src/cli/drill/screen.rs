//! One screen: lines with their time, and a last one that changes while it is watched.

use std::fmt::Write;
use std::io::IsTerminal;

use rustix::termios::tcgetwinsize;
use tokio::time::Instant;

use crate::cli::print;

/// The width where none is known.
const WIDTH: usize = 100;
/// Terminals with so many rows have room for empty lines.
const TALL: u16 = 32;
/// Where text begins beside the time.
const INDENT: usize = 6;
/// What stands in the place of the time beside what users saw.
const USERS: &str = "users";

/// What a line is about: its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// A scene begins, or the end.
    Scene,
    /// What the drill does to its nodes.
    Deed,
    /// Nothing in particular.
    Plain,
    /// A backend is lost, or a user saw it.
    Bad,
    /// A backend is back, or nobody saw anything.
    Good,
    /// The active role has moved.
    Takeover,
}

/// Where the drill is seen. Colours and a changing line only on a terminal.
#[derive(Debug)]
pub(super) struct Screen {
    start: Instant,
    width: usize,
    has_room: bool,
    is_terminal: bool,
    is_coloured: bool,
    /// Whether the last line is one that changes.
    is_live: bool,
}

impl Screen {
    /// Standard output, as it is.
    pub(super) fn new() -> Self {
        let out = std::io::stdout();
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_terminal = out.is_terminal() && !is_dumb;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = tcgetwinsize(&out).ok().filter(|size| size.ws_col > 0);
        let width = size.map_or(WIDTH, |size| usize::from(size.ws_col));
        Self {
            start: Instant::now(),
            width: width.clamp(40, WIDTH),
            has_room: size.is_none_or(|size| size.ws_row >= TALL),
            is_terminal,
            is_coloured: is_terminal && !no_colour,
            is_live: false,
        }
    }

    /// The play begins: times count from here.
    pub(super) fn start(&mut self) {
        self.start = Instant::now();
    }

    /// A line of its own.
    pub(super) fn say(&mut self, tone: Tone, text: &str) -> Result<(), u8> {
        self.write("", tone, text)
    }

    /// A line about something that happened now.
    pub(super) fn tell(&mut self, tone: Tone, text: &str) -> Result<(), u8> {
        let now = format!("{:4.1}", self.start.elapsed().as_secs_f32());
        self.write(&now, tone, text)
    }

    /// A line about what users saw.
    pub(super) fn users(&mut self, tone: Tone, text: &str) -> Result<(), u8> {
        self.write(USERS, tone, text)
    }

    /// Room between scenes, where there is any.
    pub(super) fn rest(&mut self) -> Result<(), u8> {
        self.settle()?;
        if self.has_room { print("\n") } else { Ok(()) }
    }

    /// What users have seen so far: a line that takes the place of the last one of its kind.
    pub(super) fn live(&mut self, text: &str) -> Result<(), u8> {
        if !self.is_terminal {
            return Ok(());
        }
        self.is_live = true;
        let text: String = text.chars().take(self.width - INDENT - 1).collect();
        print(&format!("\r{USERS:INDENT$}{text}\x1b[K"))
    }

    /// Takes away the line that changes.
    pub(super) fn settle(&mut self) -> Result<(), u8> {
        if std::mem::take(&mut self.is_live) { print("\r\x1b[K") } else { Ok(()) }
    }

    /// Text beside a margin, which is left away where it is empty.
    fn write(&mut self, mut margin: &str, tone: Tone, text: &str) -> Result<(), u8> {
        self.settle()?;
        let indent = if margin.is_empty() { 0 } else { INDENT };
        let mut out = String::new();
        for line in wrap(text, self.width - indent) {
            let _ = writeln!(out, "{margin:indent$}{}", self.paint(tone, &line));
            margin = "";
        }
        print(&out)
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.is_coloured {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Scene => "1",
            Tone::Deed => "2",
            Tone::Bad => "31",
            Tone::Good => "32",
            Tone::Takeover => "33",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A text in lines of at most so many characters, cut at spaces where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        let length = line.chars().count();
        if length > 0 && length + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if length > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two", 7), ["one two"]);
        assert_eq!(wrap("extraordinary", 7), ["extraordinary"]);
        assert_eq!(wrap("", 7), [""]);
    }
}
