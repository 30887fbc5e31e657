//! What `top` shows, and what its keys do.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color as Paint, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, List, Paragraph, Row, Table, TableState};
use serde_json::Value;

use super::{Rate, Rates};
use crate::cli::remote::{Node, Pool, Whole, short_time, story, subject};
use crate::cli::show::{Color, bytes, safe, span};

/// Events that are kept.
const KEPT: usize = 200;

/// Something new.
pub(super) enum News {
    /// The instance as it is now, or why it cannot be seen.
    Whole(Result<Whole, String>),
    /// Something has happened.
    Event(Value),
    /// What was asked for is done, or why not.
    Done(Result<String, String>),
}

/// A change that is asked for: pool and backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Drain(String, String),
    Enable(String, String),
    Failover(String, String),
}

impl Ask {
    pub(super) fn pool(&self) -> &str {
        match self {
            Self::Drain(pool, _) | Self::Enable(pool, _) | Self::Failover(pool, _) => pool,
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(pool, backend) => write!(f, "drain {pool}/{backend}"),
            Self::Enable(pool, backend) => write!(f, "enable {pool}/{backend}"),
            Self::Failover(pool, backend) => write!(f, "make {backend} the active one of {pool}"),
        }
    }
}

/// What a key has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    Quit,
    Do(Ask),
}

/// Everything on the screen.
pub(super) struct Screen {
    place: String,
    whole: Whole,
    seen: Option<Instant>,
    rates: Rates,
    events: VecDeque<Value>,
    /// The backend that keys are about, counted over all pools.
    selected: usize,
    /// A change that waits for a yes.
    question: Option<Ask>,
    /// What was said last, and whether it is bad news.
    notice: (String, bool),
    lost: Option<String>,
    is_colored: bool,
}

impl Screen {
    pub(super) fn new(place: String, whole: Whole, is_colored: bool) -> Self {
        Self {
            place,
            whole,
            seen: None,
            rates: Rates::new(),
            events: VecDeque::new(),
            selected: 0,
            question: None,
            notice: (String::new(), false),
            lost: None,
            is_colored,
        }
    }

    /// Takes in what is new, at `now`.
    pub(super) fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Whole(Ok(whole)) => {
                if let Some(seen) = self.seen {
                    self.rates = rates(&self.whole, &whole, (now - seen).as_secs_f64());
                }
                self.seen = Some(now);
                self.whole = whole;
                self.lost = None;
                let count = self.backends().count();
                self.selected = self.selected.min(count.saturating_sub(1));
            }
            News::Whole(Err(why)) => self.lost = Some(why),
            News::Event(event) => {
                self.events.truncate(KEPT - 1);
                self.events.push_front(event);
            }
            News::Done(Ok(what)) => self.notice = (format!("done: {what}"), false),
            News::Done(Err(why)) => self.notice = (why, true),
        }
    }

    fn backends(&self) -> impl Iterator<Item = (&Pool, &Node)> {
        self.whole.pools.iter().flat_map(|pool| pool.backends.iter().map(move |node| (pool, node)))
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyCode) -> Step {
        if let Some(question) = self.question.take() {
            if matches!(key, KeyCode::Char('y' | 'Y')) {
                self.notice = (format!("asked to {question}"), false);
                return Step::Do(question);
            }
            self.notice = ("nothing was done".to_owned(), false);
            return Step::Stay;
        }
        let last = self.backends().count().saturating_sub(1);
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Step::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            KeyCode::End | KeyCode::Char('G') => self.selected = last,
            KeyCode::Char(letter @ ('d' | 'e' | 'f')) => self.question = self.ask(letter),
            _ => {}
        }
        Step::Stay
    }

    fn ask(&mut self, letter: char) -> Option<Ask> {
        let (pool, node) = self.backends().nth(self.selected)?;
        let (name, backend) = (pool.name.clone(), node.name.clone());
        match letter {
            'd' => Some(Ask::Drain(name, backend)),
            'e' => Some(Ask::Enable(name, backend)),
            _ if pool.active.is_some() => Some(Ask::Failover(name, backend)),
            _ => {
                self.notice =
                    (format!("pool {name} is no hot standby: it has no active role"), true);
                None
            }
        }
    }

    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let feed = (frame.area().height / 3).clamp(3, 12);
        let parts = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(4),
            Constraint::Length(feed),
            Constraint::Length(1),
        ]);
        let [head, main, events, foot] = parts.areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_backends(frame, main);
        frame.render_widget(self.feed(), events);
        frame.render_widget(self.foot(), foot);
        if let Some(question) = &self.question {
            self.draw_question(frame, question);
        }
    }

    fn paint(&self, color: Option<Color>) -> Style {
        let style = Style::default();
        if !self.is_colored {
            return style;
        }
        match color {
            Some(Color::Good) => style.fg(Paint::Green),
            Some(Color::Bad) => style.fg(Paint::Red),
            Some(Color::Odd) => style.fg(Paint::Yellow),
            Some(Color::Quiet) => style.add_modifier(Modifier::DIM),
            Some(Color::Head) => style.add_modifier(Modifier::BOLD),
            None => style,
        }
    }

    fn head(&self) -> Paragraph<'_> {
        let bold = Style::default().add_modifier(Modifier::BOLD);
        let title = Line::from(vec![
            Span::styled("tidegate", bold),
            Span::raw(format!(
                " {}  {}  up {}  configuration {}",
                safe(&self.whole.version),
                safe(&self.place),
                span(self.whole.uptime_seconds),
                safe(&self.whole.config_hash)
            )),
        ]);
        let listeners = self.whole.listeners.iter().map(|l| {
            format!(
                "{} {} open, {} in all",
                safe(&l.name),
                l.connections_active,
                l.connections_total
            )
        });
        let second = match &self.lost {
            Some(why) => Line::styled(safe(why).into_owned(), self.paint(Some(Color::Bad))),
            None => Line::raw(listeners.collect::<Vec<_>>().join("   ")),
        };
        Paragraph::new(vec![title, second])
    }

    fn draw_backends(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut rows = Vec::new();
        let mut selected = 0;
        let mut number = 0;
        for pool in &self.whole.pools {
            rows.push(self.pool_row(pool));
            for node in &pool.backends {
                if number == self.selected {
                    selected = rows.len();
                }
                number += 1;
                rows.push(self.backend_row(pool, node));
            }
        }
        let head = ["  BACKEND", "STATE", "OPEN", "CONN/S", "IN/S", "OUT/S", "SINCE", "REASON"];
        let table = Table::new(
            rows,
            [
                Constraint::Length(20),
                Constraint::Length(9),
                Constraint::Length(6),
                Constraint::Length(8),
                Constraint::Length(9),
                Constraint::Length(9),
                Constraint::Length(14),
                Constraint::Fill(1),
            ],
        )
        .header(Row::new(head).style(self.paint(Some(Color::Head))))
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
        let mut state = TableState::default().with_selected(Some(selected));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn pool_row<'a>(&self, pool: &'a Pool) -> Row<'a> {
        let used = pool.backends.iter().filter(|node| node.in_rotation).count();
        let color = if used == 0 { Some(Color::Bad) } else { Some(Color::Head) };
        let rotation = format!("{used}/{} used", pool.backends.len());
        let cells = [safe(&pool.name).into_owned(), rotation, String::new(), String::new()];
        let more = [String::new(), String::new(), String::new(), safe(&pool.strategy).into_owned()];
        Row::new(cells.into_iter().chain(more)).style(self.paint(color))
    }

    fn backend_row<'a>(&self, pool: &'a Pool, node: &'a Node) -> Row<'a> {
        let is_active = pool.active.as_ref() == Some(&node.name);
        let mark = match (is_active, node.in_rotation) {
            (true, _) => "*",
            (false, true) => "+",
            (false, false) => " ",
        };
        let rate = self.rates.get(&(pool.name.clone(), node.name.clone()));
        let Rate { connections, bytes_in, bytes_out } = rate.copied().unwrap_or_default();
        Row::new([
            Cell::new(format!("{mark} {}", safe(&node.name))),
            Cell::new(safe(&node.state)).style(self.paint(Color::of(&node.state))),
            Cell::new(node.connections_active.to_string()),
            Cell::new(format!("{connections:.1}")),
            Cell::new(per_second(bytes_in)),
            Cell::new(per_second(bytes_out)),
            Cell::new(safe(&short_time(&node.since)).into_owned()),
            Cell::new(safe(&node.reason)),
        ])
    }

    fn feed(&self) -> List<'_> {
        let lines = self.events.iter().map(|event| {
            let kind = event["kind"].as_str().unwrap_or_default();
            let time = short_time(event["time"].as_str().unwrap_or_default());
            Line::from(vec![
                Span::raw(format!("{} ", safe(&time))),
                Span::styled(format!("{:<13} ", safe(kind)), self.paint(Color::of(kind))),
                Span::raw(format!("{}  {}", safe(&subject(event)), safe(&story(event)))),
            ])
        });
        List::new(lines).block(Block::new().borders(Borders::TOP).title(" events, newest first "))
    }

    fn foot(&self) -> Line<'_> {
        let (notice, is_bad) = &self.notice;
        if notice.is_empty() {
            return Line::raw(
                "↑ ↓ select   d drain   e enable   f make active   q quit   + in rotation   * active",
            );
        }
        let color = if *is_bad { Some(Color::Bad) } else { None };
        Line::styled(safe(notice).into_owned(), self.paint(color))
    }

    fn draw_question(&self, frame: &mut Frame<'_>, question: &Ask) {
        let text = format!("{}?", safe(&question.to_string()));
        let whole = frame.area();
        let width = u16::try_from(text.len() + 6).unwrap_or(u16::MAX).max(34).min(whole.width);
        let height = 5.min(whole.height);
        let area =
            Rect { x: (whole.width - width) / 2, y: (whole.height - height) / 2, width, height };
        let lines = vec![Line::raw(text), Line::raw(""), Line::raw("y: yes   any other key: no")];
        frame.render_widget(Clear, area);
        let block = Block::new().borders(Borders::ALL).title(" sure? ");
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

fn per_second(rate: f64) -> String {
    // A rate is never negative, and a float becomes the nearest integer there is.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let whole = rate.max(0.0) as u64;
    bytes(whole)
}

/// How fast the counters grew. One that has shrunk was started anew.
fn rates(before: &Whole, after: &Whole, seconds: f64) -> Rates {
    let mut rates = Rates::new();
    for pool in &after.pools {
        let Some(old_pool) = before.pools.iter().find(|old| old.name == pool.name) else {
            continue;
        };
        for node in &pool.backends {
            let old = old_pool.backends.iter().find(|old| old.name == node.name);
            let Some(old) = old.filter(|_| seconds > 0.0) else { continue };
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            let rate = Rate {
                connections: rate(node.connections_total, old.connections_total),
                bytes_in: rate(node.bytes_in, old.bytes_in),
                bytes_out: rate(node.bytes_out, old.bytes_out),
            };
            rates.insert((pool.name.clone(), node.name.clone()), rate);
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn whole(total: u64) -> Whole {
        let node = |name: &str, state: &str| Node {
            name: name.to_owned(),
            state: state.to_owned(),
            in_rotation: state == "healthy",
            reason: "because\u{1b}[2J".to_owned(),
            connections_total: total,
            bytes_in: total * 1024,
            ..Node::default()
        };
        let pool = |name: &str, active: Option<&str>| Pool {
            name: name.to_owned(),
            strategy: "round_robin".to_owned(),
            active: active.map(str::to_owned),
            backends: vec![node("one", "healthy"), node("two", "unhealthy")],
        };
        Whole { pools: vec![pool("app", None), pool("db", Some("one"))], ..Whole::default() }
    }

    fn screen() -> Screen {
        Screen::new("http://127.0.0.1:9900".to_owned(), whole(0), true)
    }

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn pools_backends_rates_and_events_are_shown() {
        let mut screen = screen();
        let start = Instant::now();
        screen.hear(News::Whole(Ok(whole(0))), start);
        screen.hear(News::Whole(Ok(whole(30))), start + Duration::from_secs(2));
        let event = json!({ "id": 1, "time": "2026-11-26T07:49:35.123Z", "kind": "evicted",
            "pool": "app", "backend": "two", "cause": "probe", "evidence": "3 checks failed" });
        screen.hear(News::Event(event), start);
        let shown = drawn(&screen);
        for text in [
            "app                  1/2 used",
            "+ one",
            "* one",
            "unhealthy",
            "15.0",
            "15.0 KiB",
            "evicted",
            "probe: 3 checks failed",
        ] {
            assert!(shown.contains(text), "{text}\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn a_change_is_asked_for_only_after_a_yes() {
        let mut screen = screen();
        assert_eq!(screen.press(KeyCode::Down), Step::Stay);
        assert_eq!(screen.press(KeyCode::Char('d')), Step::Stay);
        assert!(drawn(&screen).contains("drain app/two?"));
        assert_eq!(screen.press(KeyCode::Char('n')), Step::Stay);
        assert_eq!(screen.press(KeyCode::Char('y')), Step::Stay, "the question is gone");
        screen.press(KeyCode::Char('e'));
        let enable = Ask::Enable("app".to_owned(), "two".to_owned());
        assert_eq!(screen.press(KeyCode::Char('y')), Step::Do(enable));
    }

    #[test]
    fn only_a_hot_standby_can_fail_over() {
        let mut screen = screen();
        screen.press(KeyCode::Char('f'));
        assert!(drawn(&screen).contains("no hot standby"));
        screen.press(KeyCode::End);
        screen.press(KeyCode::Char('f'));
        let failover = Ask::Failover("db".to_owned(), "two".to_owned());
        assert_eq!(screen.press(KeyCode::Char('y')), Step::Do(failover));
    }

    #[test]
    fn an_instance_that_cannot_be_seen_is_told() {
        let mut screen = screen();
        screen.hear(News::Whole(Err("cannot reach it".to_owned())), Instant::now());
        assert!(drawn(&screen).contains("cannot reach it"));
        screen.hear(News::Done(Err("pool db: not now".to_owned())), Instant::now());
        assert!(drawn(&screen).contains("not now"));
        assert_eq!(screen.press(KeyCode::Char('q')), Step::Quit);
    }

    #[test]
    fn a_counter_that_began_anew_has_no_negative_rate() {
        let made = rates(&whole(30), &whole(0), 1.0);
        assert!(made.values().all(|rate| *rate == Rate::default()));
    }
}
