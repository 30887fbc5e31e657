//! What commands print: safe for terminals, in columns that fit.

use std::borrow::Cow;
use std::fmt::Write;
use std::io::IsTerminal;

use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Text that came from elsewhere, so that it can neither command a terminal nor turn the direction
/// of what stands beside it: what is no letter, number or ASCII is spelt out.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_safe) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        if is_safe(c) {
            shown.push(c);
        } else {
            let _ = write!(shown, "{}", c.escape_unicode());
        }
    }
    shown.into()
}

fn is_safe(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && c.is_alphanumeric()) || matches!(c, '…' | '→' | '–')
}

/// JSON for a terminal: valid, and what could command one is escaped.
pub(super) fn json(value: &Value) -> String {
    let mut shown = String::new();
    for c in format!("{value:#}").chars() {
        if c == '\n' || is_safe(c) {
            shown.push(c);
        } else {
            // Such a character stands within a string, where this escape means the same.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown.push('\n');
    shown
}

/// The same on one line.
pub(super) fn json_line(value: &Value) -> String {
    json(value).lines().map(str::trim_start).collect::<Vec<_>>().join(" ") + "\n"
}

/// How it is shown: the width to keep to, and whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Columns of the terminal; `None`: no terminal, nothing is cut.
    pub(super) width: Option<usize>,
    pub(super) is_colored: bool,
}

impl Style {
    /// As standard output wants it.
    pub(super) fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let says_no = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let size = ratatui::crossterm::terminal::size().ok().filter(|_| is_terminal);
        Self {
            width: size.map(|(columns, _)| usize::from(columns)).filter(|width| *width > 0),
            is_colored: is_terminal && !is_dumb && !says_no("NO_COLOR"),
        }
    }

    /// A state in its colour.
    fn painted(self, text: &str, color: Option<Color>) -> String {
        match color {
            Some(color) if self.is_colored => format!("\x1b[{}m{text}\x1b[0m", color.code()),
            _ => text.to_owned(),
        }
    }
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Good,
    Bad,
    Odd,
    Quiet,
    Head,
}

impl Color {
    /// The colour of a state or of a kind of event.
    pub(super) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "healthy" | "reinstated" | "enabled" => Self::Good,
            "unhealthy" | "ejected" | "evicted" | "reload_failed" => Self::Bad,
            "unknown" | "draining" | "takeover" => Self::Odd,
            "disabled" => Self::Quiet,
            _ => return None,
        })
    }

    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Odd => "33",
            Self::Quiet => "2",
            Self::Head => "1",
        }
    }
}

/// A cell: its text, and its colour.
#[derive(Clone, Debug)]
pub(super) struct Cell(String, Option<Color>);

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self(safe(text.as_ref()).into_owned(), None)
    }

    pub(super) fn colored(text: &str) -> Self {
        Self(safe(text).into_owned(), Color::of(text))
    }

    /// The same in at least so many columns, so that rows of several tables stand below each other.
    pub(super) fn padded(text: &str, width: usize) -> Self {
        Self(format!("{:<width$}", safe(text)), Color::of(text))
    }
}

/// Rows in columns. Where the terminal is too narrow, columns that may be lacking are left out; then
/// the last column is cut, and where that is not enough, the widest others.
#[derive(Clone, Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    /// Columns of numbers, which stand at the right.
    numbers: Vec<bool>,
    rows: Vec<Vec<Cell>>,
    /// The names of columns that may be lacking, the least wanted first.
    spare: &'static [&'static str],
}

/// No column is cut below this.
const NARROWEST: usize = 6;
/// Columns of the last one for which others are left out.
const READABLE: usize = 24;

impl Table {
    /// A table with these columns; those that begin with `#` hold numbers.
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self {
            numbers: head.iter().map(|name| name.starts_with('#')).collect(),
            head: head.iter().map(|name| name.trim_start_matches('#')).collect(),
            rows: Vec::new(),
            spare: &[],
        }
    }

    /// Columns that a narrow terminal may lack, the least wanted first.
    pub(super) fn may_lack(&mut self, names: &'static [&'static str]) {
        self.spare = names;
    }

    /// Leaves out columns until the rest fits, its last one cut as far as it may be.
    fn fit(&mut self, room: usize) {
        for name in self.spare {
            let natural = self.natural();
            let last = natural.last().copied().unwrap_or(0);
            let least = natural.iter().sum::<usize>() - last + last.min(READABLE);
            if least + 2 * natural.len().saturating_sub(1) <= room {
                return;
            }
            let Some(place) = self.head.iter().position(|head| head == name) else { continue };
            self.head.remove(place);
            self.numbers.remove(place);
            self.rows.iter_mut().for_each(|row| drop(row.remove(place)));
        }
    }

    /// The width that each column would like to have.
    fn natural(&self) -> Vec<usize> {
        let mut widths: Vec<_> = self.head.iter().map(|name| name.width()).collect();
        for row in &self.rows {
            for (width, Cell(text, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.width());
            }
        }
        widths
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn render(mut self, style: Style) -> String {
        if let Some(room) = style.width {
            self.fit(room);
        }
        let widths = self.widths(style);
        let mut out = String::new();
        let head = self.head.iter().map(|name| Cell((*name).to_owned(), Some(Color::Head)));
        self.line(&head.collect::<Vec<_>>(), &widths, style, &mut out);
        for row in &self.rows {
            self.line(row, &widths, style, &mut out);
        }
        out
    }

    fn widths(&self, style: Style) -> Vec<usize> {
        let mut widths = self.natural();
        let Some(room) = style.width else { return widths };
        let gaps = 2 * widths.len().saturating_sub(1);
        let excess = |widths: &[usize]| (widths.iter().sum::<usize>() + gaps).saturating_sub(room);
        if let Some(last) = widths.len().checked_sub(1) {
            let cut = excess(&widths).min(widths[last].saturating_sub(NARROWEST * 2));
            widths[last] -= cut;
        }
        while excess(&widths) > 0 {
            let texts = widths.iter_mut().zip(&self.numbers).filter(|(_, is_number)| !**is_number);
            let Some(widest) = texts.map(|(width, _)| width).max() else { break };
            if *widest <= NARROWEST {
                break;
            }
            *widest -= 1;
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], style: Style, out: &mut String) {
        let mut line = String::new();
        for (index, Cell(text, color)) in row.iter().enumerate() {
            let shown = cut(text, widths[index]);
            let pad = " ".repeat(widths[index] - shown.width());
            if index > 0 {
                line += "  ";
            }
            let shown = style.painted(&shown, *color);
            line += &if self.numbers[index] { pad + &shown } else { shown + &pad };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Text in at most so many columns.
pub(super) fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut shown = String::new();
    let mut room = width.saturating_sub(1);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        shown.push(c);
    }
    if width > 0 {
        shown.push('…');
    }
    shown.into()
}

/// A head line.
pub(super) fn heading(text: &str, style: Style) -> String {
    let text = safe(text);
    let text = style.width.map_or(text.clone(), |width| cut(&text, width).into_owned().into());
    style.painted(&text, Some(Color::Head)) + "\n"
}

/// Bytes as people read them: three digits and a unit.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// Seconds as people read them: the two largest units.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Style = Style { width: Some(30), is_colored: false };

    #[test]
    fn what_came_over_the_wire_cannot_command_a_terminal() {
        assert_eq!(
            safe("a\u{1b}[2J\r\n\u{202e}\u{9b}\u{7f}é"),
            r"a\u{1b}[2J\u{d}\u{a}\u{202e}\u{9b}\u{7f}é"
        );
        let value = serde_json::json!({ "a": "\u{1b}\u{9b}\u{202e}\u{7f}😀" });
        let shown = json(&value);
        assert!(shown.chars().all(|c| c == '\n' || is_safe(c)), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }

    #[test]
    fn a_table_fits_the_terminal_and_says_where_it_was_cut() {
        let mut table = Table::new(&["NAME", "#N", "REASON"]);
        table.row(vec![
            Cell::new("app-1"),
            Cell::new("12"),
            Cell::new("a reason that is much too long"),
        ]);
        assert_eq!(
            table.clone().render(NARROW),
            "NAME    N  REASON\napp-1  12  a reason that is m…\n"
        );
        let wide = Style { width: None, is_colored: false };
        assert!(table.render(wide).ends_with("much too long\n"));
    }

    #[test]
    fn a_narrow_terminal_lacks_what_is_least_wanted() {
        let table = || {
            let mut table = Table::new(&["NAME", "STATE", "#IN", "#PRIO", "REASON"]);
            table.may_lack(&["PRIO", "IN"]);
            let cells = ["app-1", "unhealthy", "1.0 GiB", "0", "3 checks failed in a row: refused"];
            table.row(cells.map(Cell::new).into());
            table
        };
        let head = |width| {
            let shown = table().render(Style { width: Some(width), is_colored: false });
            assert!(shown.lines().all(|line| line.width() <= width), "{shown}");
            shown.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(head(80), "NAME STATE IN PRIO REASON");
        assert_eq!(head(54), "NAME STATE IN REASON");
        assert_eq!(head(45), "NAME STATE REASON");
        assert_eq!(head(30), "NAME STATE REASON");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(&["STATE", "X"]);
        table.row(vec![Cell::colored("healthy"), Cell::new("x")]);
        let style = Style { width: Some(80), is_colored: true };
        assert!(table.render(style).ends_with("\u{1b}[32mhealthy\u{1b}[0m  x\n"));
    }

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(
            [0, 999, 1000, 1536, 123 << 20].map(bytes),
            ["0 B", "999 B", "1.0 KiB", "1.5 KiB", "123 MiB"]
        );
        assert_eq!([0, 59, 61, 3_660, 93_784].map(span), ["0s", "59s", "1m 1s", "1h 1m", "1d 2h"]);
    }
}
