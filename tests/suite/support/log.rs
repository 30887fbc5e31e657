//! What the program writes, line by line.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The lines a program has written so far, of both its outputs.
#[derive(Clone, Default)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    /// Outputs that have not ended.
    open: Arc<AtomicUsize>,
}

/// One line of a log.
#[derive(Clone, Debug)]
pub(crate) struct Line(String);

/// One finished connection, as logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) listener: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) reason: String,
}

/// An event, as logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: String,
    pub(crate) pool: String,
    pub(crate) backend: String,
    pub(crate) cause: String,
    pub(crate) evidence: String,
    pub(crate) more: String,
}

impl Told {
    /// The number before `word` in what the kind adds: `3` of `3 retried`.
    #[track_caller]
    pub(crate) fn number(&self, word: &str) -> u64 {
        let before = self.more.split(word).next().unwrap_or_default();
        let number = before.split_whitespace().next_back().and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no number before {word:?} in {:?}", self.more))
    }
}

impl Log {
    /// Collects the lines of `output` on a thread of its own.
    pub(crate) fn collect(&self, output: impl Read + Send + 'static) {
        let log = self.clone();
        log.open.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                log.lines.lock().unwrap().push(Line(text));
                line.clear();
            }
            log.open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Whether all that will be written has been.
    pub(crate) fn is_complete(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    /// Everything written so far.
    pub(crate) fn whole(&self) -> String {
        self.lines.lock().unwrap().iter().map(|line| format!("{}\n", line.0)).collect()
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// The last lines, to show beside a failure.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap();
        let last = &lines[lines.len().saturating_sub(30)..];
        last.iter().map(|line| format!("    {}\n", line.0)).collect()
    }

    /// The events so far, in order.
    pub(crate) fn events(&self) -> Vec<Told> {
        self.lines.lock().unwrap().iter().filter_map(Line::told).collect()
    }

    /// The connections that have ended, in order.
    pub(crate) fn ended(&self) -> Vec<Ended> {
        self.lines.lock().unwrap().iter().filter_map(Line::ended).collect()
    }
}

impl Line {
    /// The line as written.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The value of a field, of a JSON object or of `name=value` text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        if let Ok(line) = serde_json::from_str::<serde_json::Value>(&self.0) {
            let value = line.get(name).or_else(|| line.get("fields")?.get(name))?;
            return match value {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
        }
        let plain = without_colours(&self.0);
        let (_, value) = plain.split_once(&format!(" {name}="))?;
        match value.strip_prefix('"') {
            Some(quoted) => Some(quoted.split('"').next()?.to_owned()),
            None => Some(value.split_whitespace().next()?.to_owned()),
        }
    }

    /// `ERROR`, `WARN`, …, in capitals; empty when the line has none.
    pub(crate) fn level(&self) -> String {
        const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        if let Some(level) = self.field("level") {
            return level.to_uppercase();
        }
        let plain = without_colours(&self.0);
        let level = plain.split_whitespace().take(3).find(|word| LEVELS.contains(word));
        level.unwrap_or_default().to_owned()
    }

    fn told(&self) -> Option<Told> {
        // What only events have; the rest may be absent.
        let more = self.field("more")?;
        let field = |name: &str| self.field(name).unwrap_or_default();
        Some(Told {
            kind: self.field("message")?,
            pool: field("pool"),
            backend: field("backend"),
            cause: field("cause"),
            evidence: field("evidence"),
            more,
        })
    }

    fn ended(&self) -> Option<Ended> {
        Some(Ended {
            reason: self.field("end")?,
            listener: self.field("listener"),
            pool: self.field("pool"),
            backend: self.field("backend"),
        })
    }
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or(part, |(_, rest)| rest))
}
