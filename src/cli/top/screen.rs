//! What `top` knows, and what its keys do.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::KeyCode;
use serde_json::Value;

use super::{Rate, Rates};
use crate::cli::remote::{Node, Pool, Whole};

/// Events that are kept.
const KEPT: usize = 200;
/// How long a notice stands before the keys stand there again.
const NOTICE: Duration = Duration::from_secs(5);
/// Rows that a key for a page moves.
const LEAP: usize = 10;

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

/// Which backends are listed.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// Words that must all stand in a backend's pool, name, address, state or reason.
    pub(super) words: String,
    /// Only what is not healthy.
    pub(super) only_troubled: bool,
    /// Keys are letters of the words.
    pub(super) is_typed: bool,
}

impl Filter {
    pub(super) fn is_on(&self) -> bool {
        self.only_troubled || !self.words.is_empty()
    }

    fn takes(&self, pool: &Pool, node: &Node) -> bool {
        if self.only_troubled && node.state == "healthy" {
            return false;
        }
        let text =
            format!("{}/{} {} {} {}", pool.name, node.name, node.address, node.state, node.reason)
                .to_lowercase();
        self.words.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }
}

/// What was said last: until when it stands, and whether it is bad news.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) is_bad: bool,
    until: Instant,
}

/// Everything on the screen.
pub(super) struct Screen {
    pub(super) place: String,
    pub(super) whole: Whole,
    seen: Option<Instant>,
    pub(super) rates: Rates,
    pub(super) events: VecDeque<Value>,
    pub(super) filter: Filter,
    /// The backend that keys are about: its place in the list, and who that is, because the list
    /// changes while it is looked at.
    selected: usize,
    chosen: Option<(String, String)>,
    /// A change that waits for a yes.
    pub(super) question: Option<Ask>,
    pub(super) shows_help: bool,
    pub(super) notice: Option<Notice>,
    /// Why the instance cannot be seen.
    pub(super) lost: Option<String>,
    pub(super) is_colored: bool,
}

impl Screen {
    pub(super) fn new(place: String, whole: Whole, is_colored: bool) -> Self {
        let mut screen = Self {
            place,
            whole,
            seen: None,
            rates: Rates::new(),
            events: VecDeque::new(),
            filter: Filter::default(),
            selected: 0,
            chosen: None,
            question: None,
            shows_help: false,
            notice: None,
            lost: None,
            is_colored,
        };
        screen.choose(0);
        screen
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
                self.find_again();
            }
            News::Whole(Err(why)) => self.lost = Some(why),
            News::Event(event) => {
                self.events.truncate(KEPT - 1);
                self.events.push_front(event);
            }
            News::Done(Ok(what)) => self.say(format!("done: {what}"), false, now),
            News::Done(Err(why)) => self.say(why, true, now),
        }
    }

    /// Time has passed: what was said long ago goes.
    pub(super) fn tick(&mut self, now: Instant) {
        self.notice.take_if(|notice| notice.until <= now);
    }

    fn say(&mut self, text: String, is_bad: bool, now: Instant) {
        self.notice = Some(Notice { text, is_bad, until: now + NOTICE });
    }

    /// The backends that are listed, in the order of the configuration.
    pub(super) fn listed(&self) -> Vec<(&Pool, &Node)> {
        let pools = self.whole.pools.iter();
        let all = pools.flat_map(|pool| pool.backends.iter().map(move |node| (pool, node)));
        all.filter(|(pool, node)| self.filter.takes(pool, node)).collect()
    }

    /// The place in the list of the backend that keys are about.
    pub(super) fn selected(&self) -> usize {
        self.selected
    }

    fn choose(&mut self, place: usize) {
        let listed = self.listed();
        let place = place.min(listed.len().saturating_sub(1));
        let chosen = listed.get(place).map(|(pool, node)| (pool.name.clone(), node.name.clone()));
        (self.selected, self.chosen) = (place, chosen);
    }

    /// The list is another one: the same backend stays chosen, if it is in it.
    fn find_again(&mut self) {
        let listed = self.listed();
        let is_it = |(pool, node): &(&Pool, &Node)| {
            let chosen = self.chosen.as_ref();
            chosen.is_some_and(|(p, n)| *p == pool.name && *n == node.name)
        };
        let place = listed.iter().position(is_it).unwrap_or(self.selected);
        self.choose(place);
    }

    /// Does what a key says, at `now`.
    pub(super) fn press(&mut self, key: KeyCode, now: Instant) -> Step {
        if let Some(question) = self.question.take() {
            if matches!(key, KeyCode::Char('y' | 'Y')) {
                self.say(format!("asked to {question}"), false, now);
                return Step::Do(question);
            }
            self.say("nothing was done".to_owned(), false, now);
            return Step::Stay;
        }
        if std::mem::take(&mut self.shows_help) {
            return Step::Stay;
        }
        if self.filter.is_typed && self.type_filter(key) {
            return Step::Stay;
        }
        match key {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Esc if self.filter.is_on() => {
                self.filter = Filter::default();
                self.find_again();
            }
            KeyCode::Esc => return Step::Quit,
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('/') => self.filter.is_typed = true,
            KeyCode::Char('n') => {
                self.filter.only_troubled = !self.filter.only_troubled;
                self.find_again();
            }
            KeyCode::Char(letter @ ('d' | 'e' | 'f')) => self.ask(letter, now),
            _ => self.step(key),
        }
        Step::Stay
    }

    fn step(&mut self, key: KeyCode) {
        let at = self.selected;
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.choose(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.choose(at + 1),
            KeyCode::PageUp => self.choose(at.saturating_sub(LEAP)),
            KeyCode::PageDown => self.choose(at + LEAP),
            KeyCode::Home | KeyCode::Char('g') => self.choose(0),
            KeyCode::End | KeyCode::Char('G') => self.choose(usize::MAX),
            _ => {}
        }
    }

    /// Whether the key was one of the filter's.
    fn type_filter(&mut self, key: KeyCode) -> bool {
        match key {
            KeyCode::Char(letter) => self.filter.words.push(letter),
            KeyCode::Backspace => drop(self.filter.words.pop()),
            KeyCode::Enter => self.filter.is_typed = false,
            KeyCode::Esc => self.filter = Filter::default(),
            _ => return false,
        }
        self.find_again();
        true
    }

    fn ask(&mut self, letter: char, now: Instant) {
        let listed = self.listed();
        let Some((pool, node)) = listed.get(self.selected) else { return };
        let (name, backend) = (pool.name.clone(), node.name.clone());
        let is_standby = pool.active.is_some();
        match letter {
            'd' => self.question = Some(Ask::Drain(name, backend)),
            'e' => self.question = Some(Ask::Enable(name, backend)),
            _ if is_standby => self.question = Some(Ask::Failover(name, backend)),
            _ => {
                let text = format!("pool {name} is no hot standby: it has no active role");
                self.say(text, true, now);
            }
        }
    }
}

/// How fast the counters grew. One that has shrunk was started anew.
fn rates(before: &Whole, after: &Whole, seconds: f64) -> Rates {
    let mut rates = Rates::new();
    for pool in &after.pools {
        let Some(old_pool) = before.pools.iter().find(|old| old.name == pool.name) else {
            continue;
        };
        let old: std::collections::HashMap<_, _> =
            old_pool.backends.iter().map(|old| (&old.name, old)).collect();
        for node in &pool.backends {
            let Some(old) = old.get(&node.name).filter(|_| seconds > 0.0) else { continue };
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
mod tests;
