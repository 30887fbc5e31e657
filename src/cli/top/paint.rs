//! How `top` is drawn: a head, the backends under their pools, the events, the keys.

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color as Paint, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};
use unicode_width::UnicodeWidthStr;

use super::Rate;
use super::screen::Screen;
use crate::cli::remote::{Node, Pool, short_time, story, subject};
use crate::cli::show::{Color, bytes, cut, safe, span};

/// Columns from which on there is room for bytes beside the reason.
const WIDE: usize = 100;
/// The columns of a backend's name.
const NAMES: std::ops::RangeInclusive<usize> = 14..=44;

const KEYS: &str =
    "↑↓ select  d drain  e enable  f make active  / filter  n not healthy  ? help  q quit";
const FEW_KEYS: &str = "d drain  e enable  f make active  / filter  ? help  q quit";

const HELP: [&str; 14] = [
    "↑ ↓  k j        the backend before, the next one",
    "PgUp PgDn       ten further",
    "Home End  g G   the first, the last",
    "/               show only what has these words",
    "n               show only what is not healthy",
    "Esc             show all again; then quit",
    "d               drain: no new connections",
    "e               enable: used again",
    "f               make it the active one (hot standby)",
    "q  Ctrl-C       quit",
    "",
    "+  in rotation: gets new connections",
    "*  has the active role of a hot standby",
    "Times are in UTC. Any key closes this.",
];

/// Widths for a screen: that of the names, and whether bytes are shown.
#[derive(Clone, Copy)]
struct Columns {
    whole: usize,
    name: usize,
    has_bytes: bool,
}

impl Columns {
    fn of(screen: &Screen, whole: usize) -> Self {
        let names = screen.whole.pools.iter().flat_map(|pool| &pool.backends);
        let longest = names.map(|node| safe(&node.name).width()).max().unwrap_or(0) + 2;
        let most = (whole / 3).clamp(*NAMES.start(), *NAMES.end());
        Self { whole, name: longest.clamp(*NAMES.start(), most), has_bytes: whole >= WIDE }
    }

    /// What stands before the state and after it, the numbers at the right of their columns.
    fn rest(self, cells: [&str; 6]) -> String {
        let [open, rate, into, out, since, reason] = cells;
        let flow = if self.has_bytes { format!(" {into:>9} {out:>9}") } else { String::new() };
        format!(" {open:>6} {rate:>7}{flow} {since:>7}  {reason}")
    }
}

/// Text in exactly so many columns.
fn fit(text: &str, width: usize) -> String {
    let shown = cut(text, width);
    let pad = " ".repeat(width.saturating_sub(shown.width()));
    format!("{shown}{pad}")
}

impl Screen {
    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let feed = (frame.area().height / 4).clamp(3, 12);
        let parts = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(3),
            Constraint::Length(feed),
            Constraint::Length(2),
        ]);
        let [head, main, events, foot] = parts.areas(frame.area());
        let width = usize::from(frame.area().width);
        frame.render_widget(self.head(width), head);
        frame.render_widget(self.backends(main), main);
        frame.render_widget(self.feed(width), events);
        frame.render_widget(self.foot(width), foot);
        if let Some(question) = &self.question {
            let text = format!("{}?", safe(&question.to_string()));
            popup(frame, " sure? ", &[&text, "", "y: yes   any other key: no"]);
        } else if self.shows_help {
            popup(frame, " help ", &HELP);
        }
    }

    fn paint(&self, color: Option<Color>) -> Style {
        let style = Style::default();
        let colored = |paint| if self.is_colored { style.fg(paint) } else { style };
        match color {
            Some(Color::Good) => colored(Paint::Green),
            // Without colours what is bad must still be seen.
            Some(Color::Bad) => colored(Paint::Red).add_modifier(Modifier::BOLD),
            Some(Color::Odd) => colored(Paint::Yellow),
            Some(Color::Quiet) => style.add_modifier(Modifier::DIM),
            Some(Color::Head) => style.add_modifier(Modifier::BOLD),
            None => style,
        }
    }

    fn head(&self, width: usize) -> Paragraph<'static> {
        let whole = &self.whole;
        let about = format!(
            "tidegate {}  {}  up {}  configuration {}",
            whole.version,
            self.place,
            span(whole.uptime_seconds),
            whole.config_hash
        );
        let listeners = whole.listeners.iter().map(|l| {
            format!("{}: {} open, {} in all", l.name, l.connections_active, l.connections_total)
        });
        let listeners = format!("listeners  {}", listeners.collect::<Vec<_>>().join("   "));
        let (verdict, color) = self.verdict();
        let line = |text: &str, color| {
            Line::styled(cut(&safe(text), width).into_owned(), self.paint(color))
        };
        Paragraph::new(vec![
            line(&about, Some(Color::Head)),
            line(&verdict, Some(color)),
            line(&listeners, None),
        ])
    }

    /// What somebody woken up needs first.
    fn verdict(&self) -> (String, Color) {
        if let Some(why) = &self.lost {
            return (format!("NO ANSWER, what follows is old: {why}"), Color::Bad);
        }
        let pools = &self.whole.pools;
        let count = |states: &[&str]| {
            let all = pools.iter().flat_map(|pool| &pool.backends);
            all.filter(|node| states.contains(&&*node.state)).count()
        };
        let all: usize = pools.iter().map(|pool| pool.backends.len()).sum();
        let (evicted, off) = (count(&["unhealthy", "ejected"]), count(&["draining", "disabled"]));
        let down = pools.iter().filter(|pool| used(pool) == 0).map(|pool| &*pool.name);
        let down = down.collect::<Vec<_>>().join(", ");
        let (mut text, color) = match (down.is_empty(), evicted) {
            (false, _) => {
                (format!("NOTHING IN ROTATION in {down}; {evicted} of {all} evicted"), Color::Bad)
            }
            (true, 0) => (format!("all well: {all} backends"), Color::Good),
            (true, _) => (format!("{evicted} of {all} backends evicted"), Color::Odd),
        };
        if off > 0 {
            text += &format!("; {off} taken out");
        }
        let open: u64 = pools.iter().flat_map(|p| &p.backends).map(|n| n.connections_active).sum();
        let rate = self.rates.values().fold(Rate::default(), Rate::plus);
        let (connections, into, out) =
            (rate.connections, per_second(rate.bytes_in), per_second(rate.bytes_out));
        text += &format!("   {open} open, {connections:.1} new/s, in {into}/s, out {out}/s");
        (text, color)
    }

    /// The backends that are listed, each under its pool, scrolled so that the chosen one is seen.
    fn backends(&self, area: Rect) -> Paragraph<'static> {
        let columns = Columns::of(self, usize::from(area.width));
        let labels = columns.rest(["OPEN", "CONN/S", "IN/S", "OUT/S", "SINCE", "REASON"]);
        let head = format!("{} {:<9}{labels}", fit("  BACKEND", columns.name), "STATE");
        let mut lines =
            vec![Line::styled(fit(&head, columns.whole), self.paint(Some(Color::Head)))];
        let room = usize::from(area.height).saturating_sub(1);
        let listed = self.listed();
        // Pools have rows too; where the chosen backend is among all of them decides what is seen.
        let mut rows: Vec<Result<usize, &Pool>> = Vec::with_capacity(listed.len() + 8);
        let mut at = 0;
        for (place, (pool, _)) in listed.iter().enumerate() {
            if place == 0 || !std::ptr::eq(*pool, listed[place - 1].0) {
                rows.push(Err(pool));
            }
            if place == self.selected() {
                at = rows.len();
            }
            rows.push(Ok(place));
        }
        let first = at.saturating_sub(room / 2).min(rows.len().saturating_sub(room));
        for row in rows.into_iter().skip(first).take(room) {
            lines.push(match row {
                Err(pool) => self.pool_line(pool, columns),
                Ok(place) => {
                    let (pool, node) = listed[place];
                    self.node_line(pool, node, columns, place == self.selected())
                }
            });
        }
        if listed.is_empty() {
            lines.push(Line::raw("  no backend is like that; Esc shows all"));
        }
        Paragraph::new(lines)
    }

    fn pool_line(&self, pool: &Pool, columns: Columns) -> Line<'static> {
        let used = used(pool);
        let color = if used == 0 { Color::Bad } else { Color::Head };
        let evicted =
            pool.backends.iter().filter(|n| matches!(&*n.state, "unhealthy" | "ejected")).count();
        let evicted = if evicted > 0 { format!(", {evicted} evicted") } else { String::new() };
        let all = pool.backends.len();
        let text =
            format!("{}  {used} of {all} in rotation{evicted}  {}", pool.name, pool.strategy);
        Line::styled(cut(&safe(&text), columns.whole).into_owned(), self.paint(Some(color)))
    }

    fn node_line(
        &self,
        pool: &Pool,
        node: &Node,
        columns: Columns,
        is_chosen: bool,
    ) -> Line<'static> {
        let mark = match (pool.active.as_ref() == Some(&node.name), node.in_rotation) {
            (true, _) => "*",
            (false, true) => "+",
            (false, false) => " ",
        };
        let rate = self.rates.get(&(pool.name.clone(), node.name.clone()));
        let Rate { connections, bytes_in, bytes_out } = rate.copied().unwrap_or_default();
        let rest = columns.rest([
            &node.connections_active.to_string(),
            &format!("{connections:.1}"),
            &per_second(bytes_in),
            &per_second(bytes_out),
            &age(&node.since),
            &safe(&node.reason),
        ]);
        let room = columns.whole.saturating_sub(columns.name + 10);
        let line = Line::from(vec![
            Span::raw(format!("{} ", fit(&format!("{mark} {}", safe(&node.name)), columns.name))),
            Span::styled(fit(&safe(&node.state), 9), self.paint(Color::of(&node.state))),
            Span::raw(fit(&rest, room)),
        ]);
        if is_chosen { line.style(Style::default().add_modifier(Modifier::REVERSED)) } else { line }
    }

    fn feed(&self, width: usize) -> Paragraph<'static> {
        let lines = self.events.iter().map(|event| {
            let kind = event["kind"].as_str().unwrap_or_default();
            let time = short_time(event["time"].as_str().unwrap_or_default());
            let text = format!("{}  {}", safe(&subject(event)), safe(&story(event)));
            Line::from(vec![
                Span::raw(format!("{} ", safe(&time))),
                Span::styled(format!("{:<13} ", safe(kind)), self.paint(Color::of(kind))),
                Span::raw(cut(&text, width.saturating_sub(29)).into_owned()),
            ])
        });
        let block = Block::new().borders(Borders::TOP).title(" events, newest first ");
        Paragraph::new(lines.collect::<Vec<_>>()).block(block)
    }

    /// The chosen backend in full, and what was said last, or the keys.
    fn foot(&self, width: usize) -> Paragraph<'static> {
        let listed = self.listed();
        let detail = listed.get(self.selected()).map_or_else(String::new, |(pool, node)| {
            let weight = format!("weight {}, priority {}", node.weight, node.priority);
            let state = format!("{} for {}: {}", node.state, age(&node.since), node.reason);
            format!("{}/{}  {}  {state}  {weight}", pool.name, node.name, node.address)
        });
        let line =
            |text: &str, color| Line::styled(cut(text, width).into_owned(), self.paint(color));
        let filter = &self.filter;
        let last = match &self.notice {
            _ if filter.is_typed => {
                line(&format!("/{}▏ Enter: done   Esc: show all", safe(&filter.words)), None)
            }
            Some(notice) => line(&safe(&notice.text), notice.is_bad.then_some(Color::Bad)),
            None if filter.is_on() => {
                let troubled = if filter.only_troubled { "not healthy " } else { "" };
                let text =
                    format!("{} shown: {troubled}{}   Esc: show all", listed.len(), filter.words);
                line(&safe(&text), Some(Color::Odd))
            }
            None => line(if KEYS.width() <= width { KEYS } else { FEW_KEYS }, None),
        };
        Paragraph::new(vec![line(&safe(&detail), Some(Color::Head)), last])
    }
}

fn popup(frame: &mut Frame<'_>, title: &'static str, lines: &[&str]) {
    let whole = frame.area();
    let longest = lines.iter().map(|line| line.width()).max().unwrap_or(0);
    let size = |count: usize, most: u16| u16::try_from(count).unwrap_or(u16::MAX).min(most);
    let (width, height) = (size(longest + 4, whole.width), size(lines.len() + 2, whole.height));
    let area = Rect { x: (whole.width - width) / 2, y: (whole.height - height) / 2, width, height };
    let lines: Vec<_> = lines.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(lines).block(Block::new().borders(Borders::ALL).title(title)),
        area,
    );
}

fn used(pool: &Pool) -> usize {
    pool.backends.iter().filter(|node| node.in_rotation).count()
}

/// How long ago that was.
fn age(since: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "shown to people")]
    let now = SystemTime::now();
    let since = humantime::parse_rfc3339(since).ok();
    since.map_or_else(String::new, |at| span(now.duration_since(at).unwrap_or_default().as_secs()))
}

fn per_second(rate: f64) -> String {
    // A rate is never negative, and a float becomes the nearest integer there is.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let whole = rate.max(0.0) as u64;
    bytes(whole)
}
