//! What is wrong with a configuration: where, which key, and what to do about it.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::Location;

use super::tree::Pos;

/// Problems that are kept of one file; the rest is only counted.
pub const MAX_PROBLEMS: usize = 1_000;

/// Characters of a value that a message shows.
const SHOWN: usize = 64;
/// Characters of a message.
const LONGEST: usize = 1_000;

/// One thing that is wrong with a configuration.
///
/// Displayed as `LINE:COLUMN: KEY.PATH: message`; what does not apply is left out.
#[derive(serde::Serialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Problem {
    /// Line, counted from 1; 0 when it is not from a file.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when it is not from a file.
    pub column: usize,
    /// The key, as in `pools.app.backends[0].weight`; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    /// The problem in the file called `file`: `FILE:LINE:COLUMN: KEY.PATH: message`.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let gap = if self.line > 0 { "" } else { " " };
        format!("{file}:{gap}{self}")
    }
}

/// All problems of the file called `file`, one to a line, each line ended.
#[must_use]
pub fn render(file: &str, problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.in_file(file) + "\n").collect()
}

/// Where a value is within the configuration; lives on the stack of whoever walks it.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Self, &'p str),
    Index(&'p Self, usize),
}

impl<'p> Path<'p> {
    pub(super) fn key(&'p self, key: &'p str) -> Self {
        Self::Key(self, key)
    }

    pub(super) fn index(&'p self, index: usize) -> Self {
        Self::Index(self, index)
    }

    /// What the value is called: the last key.
    pub(super) fn noun(&self) -> &'p str {
        match self {
            Self::Key(_, key) => key,
            Self::Root | Self::Index(..) => "value",
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Path::Root, key) => f.write_str(&segment(key)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", segment(key)),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value as a message shows it: in quotes, escaped, and cut when it is long.
pub(super) fn show(text: &str) -> String {
    format!("\"{}\"", cut(text))
}

/// A message on one line and of a sane length, whatever of the file is in it.
fn clean(message: String) -> String {
    if message.len() <= LONGEST && !message.contains(char::is_control) {
        return message;
    }
    let escape = |c: char| {
        let escaped = c.is_control().then(|| c.escape_debug());
        escaped.into_iter().flatten().chain((!c.is_control()).then_some(c))
    };
    let mut cleaned: String = message.chars().take(LONGEST).flat_map(escape).collect();
    if message.chars().nth(LONGEST).is_some() {
        cleaned.push('…');
    }
    cleaned
}

fn segment(key: &str) -> String {
    if key.is_empty() { show(key) } else { cut(key) }
}

fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown.replace("\\'", "'")
}

/// Collects problems: each once, the first [`MAX_PROBLEMS`] of them.
#[derive(Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    // By place, key, and the line of this program that says it. What is inherited from `defaults` or
    // repeated by an alias is looked at many times and said once, under the path where it was seen
    // first; the message is not even made again.
    seen: HashSet<u64>,
    more: usize,
}

impl Problems {
    /// Adds a problem, unless the caller has said it of this place and key. `message` is asked for
    /// only when it is kept.
    #[track_caller]
    pub(super) fn add(&mut self, pos: Pos, path: &Path<'_>, message: impl FnOnce() -> String) {
        let mut hasher = DefaultHasher::new();
        (pos, path.noun(), Location::caller()).hash(&mut hasher);
        let key = hasher.finish();
        if self.seen.contains(&key) {
            return;
        }
        if self.list.len() < MAX_PROBLEMS {
            self.seen.insert(key);
        }
        self.push(pos, path, message);
    }

    /// Adds a problem, whatever was said before.
    pub(super) fn push(&mut self, pos: Pos, path: &Path<'_>, message: impl FnOnce() -> String) {
        if self.list.len() >= MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let (line, column) = (pos.line as usize, pos.column as usize);
        let (path, message) = (path.to_string(), clean(message()));
        self.list.push(Problem { line, column, path, message });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems in the order of the file, and a last one that counts those left out.
    pub(super) fn into_list(mut self) -> Vec<Problem> {
        self.list.sort();
        self.list.dedup();
        if self.more > 0 {
            let message = format!("{} more problems are not shown", self.more);
            self.list.push(Problem { line: 0, column: 0, path: String::new(), message });
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_and_which_key() {
        let problem = Problem {
            line: 14,
            column: 15,
            path: "pools.app.strategy".to_owned(),
            message: "unknown strategy \"leastconn\"; did you mean \"least_connections\"?"
                .to_owned(),
        };
        assert_eq!(
            render("conf/tidegate.yaml", &[problem]),
            "conf/tidegate.yaml:14:15: pools.app.strategy: unknown strategy \"leastconn\"; \
             did you mean \"least_connections\"?\n"
        );
    }

    #[test]
    fn what_is_said_once_is_not_said_again() {
        let mut problems = Problems::default();
        let pos = Pos { line: 3, column: 1 };
        for all in ["defaults", "pools"] {
            for key in ["bind", "pool"] {
                problems.add(pos, &Path::Root.key(all).key(key), || "wrong".to_owned());
            }
        }
        let paths: Vec<String> = problems.into_list().into_iter().map(|one| one.path).collect();
        assert_eq!(paths, ["defaults.bind", "defaults.pool"]);
    }

    #[test]
    fn a_thousand_problems_are_kept_and_the_rest_counted() {
        let mut problems = Problems::default();
        for line in 1..=5_000 {
            problems.add(Pos { line, column: 1 }, &Path::Root, || "wrong".to_owned());
        }
        let list = problems.into_list();
        assert_eq!(list.len(), MAX_PROBLEMS + 1);
        assert_eq!(list[MAX_PROBLEMS].to_string(), "4000 more problems are not shown");
        assert_eq!(list[MAX_PROBLEMS].in_file("f"), "f: 4000 more problems are not shown");
    }

    #[test]
    fn messages_stay_on_one_line_and_end() {
        let mut problems = Problems::default();
        problems.add(Pos::default(), &Path::Root, || format!("a\nb {}", "x".repeat(5_000)));
        let message = &problems.into_list()[0].message;
        assert!(message.starts_with("a\\nb x"), "{message}");
        assert!(message.chars().count() < 1_100);
    }

    #[test]
    fn long_and_odd_values_are_cut_and_escaped() {
        assert_eq!(show("it's \"x\"\n\u{0}é"), "\"it's \\\"x\\\"\\n\\0é\"");
        assert_eq!(show(&"x".repeat(70)), format!("\"{}…\"", "x".repeat(64)));
    }
}
