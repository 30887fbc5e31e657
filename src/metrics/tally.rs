//! What is counted, as another process is told of it: at an upgrade the counters go on.
//!
//! ```text
//! old: Ledger ── everything, then what was added since ──► new: Unclaimed ─► its own counters
//! ```
//!
//! A thing is known again by its name, a backend by its address too; a number by its word. So every
//! event is counted once, whichever process it happens in, and none of the series begins anew.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Arguments;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::{BackendView, View};
use crate::state::counters::Visit;

/// What numbers belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The process.
    Process,
    /// The listener of this name.
    Listener(String),
    /// The pool of this name.
    Pool(String),
    /// A backend.
    Backend {
        /// The name of its pool.
        pool: String,
        /// Its own.
        name: String,
        /// Where it is.
        address: String,
    },
}

/// Numbers by their words; what is 0 is left out.
type Numbers = BTreeMap<String, u64>;

/// What was counted of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    of: Of,
    numbers: Numbers,
}

/// What was counted since it was last said; things of which nothing was are left out.
pub type Tally = Vec<Entry>;

/// Shown every number, with the thing it belongs to and its word.
type VisitAll<'a> = dyn FnMut(&dyn Fn() -> Of, Arguments<'_>, &AtomicU64) + 'a;

/// Shows every number of a view, always in the same order.
fn each(view: &View, visit: &mut VisitAll<'_>) {
    view.process.each(&mut |word, cell| visit(&|| Of::Process, word, cell));
    for listener in &view.listeners {
        let of = || Of::Listener(listener.name.to_string());
        listener.counters.each(&mut |word, cell| visit(&of, word, cell));
    }
    for pool in &view.pools {
        let of = || Of::Pool(pool.name.to_string());
        pool.counters.each(&mut |word, cell| visit(&of, word, cell));
        for backend in &pool.backends {
            let of = || backend_of(&pool.name, backend);
            each_of_backend(backend, &mut |word, cell| visit(&of, word, cell));
        }
    }
}

fn each_of_backend(backend: &BackendView, visit: &mut Visit<'_>) {
    for (word, cell) in backend.totals.cells() {
        visit(format_args!("{word}"), cell);
    }
    backend.counters.each(visit);
}

fn backend_of(pool: &str, backend: &BackendView) -> Of {
    Of::Backend {
        pool: pool.to_owned(),
        name: backend.name.to_string(),
        address: backend.address.to_string(),
    }
}

/// What a process that has handed over still counts.
#[derive(Debug)]
pub struct Ledger {
    view: View,
    /// What was told of each number, in the order of [`each`].
    told: Vec<u64>,
}

impl Ledger {
    /// A ledger of the numbers of `view`, of which `told` was told already.
    #[must_use]
    pub fn new(view: View, told: &Tally) -> Self {
        let known: HashMap<&Of, &Numbers> = told.iter().map(|e| (&e.of, &e.numbers)).collect();
        let mut told = Vec::new();
        each(&view, &mut |of, word, _| {
            let numbers = if known.is_empty() { None } else { known.get(&of()) };
            let number = numbers.and_then(|numbers| numbers.get(&word.to_string()));
            told.push(number.copied().unwrap_or(0));
        });
        Self { view, told }
    }

    /// What was counted since this was last asked.
    pub fn news(&mut self) -> Tally {
        let mut tally = Tally::new();
        let mut told = self.told.iter_mut();
        each(&self.view, &mut |of, word, cell| {
            let Some(told) = told.next() else { return };
            let now = cell.load(Relaxed);
            let added = now.saturating_sub(*told);
            if added == 0 {
                return;
            }
            *told = now;
            let of = of();
            let word = word.to_string();
            match tally.last_mut().filter(|entry| entry.of == of) {
                Some(entry) => _ = entry.numbers.insert(word, added),
                None => tally.push(Entry { of, numbers: Numbers::from([(word, added)]) }),
            }
        });
        tally
    }
}

/// What another process has counted of things that this one does not have, yet.
#[derive(Debug, Default)]
pub struct Unclaimed(HashMap<Of, Numbers>);

impl Unclaimed {
    /// Takes note of what was told.
    pub fn add(&mut self, tally: Tally) {
        for Entry { of, numbers } in tally {
            let known = self.0.entry(of).or_default();
            for (word, number) in numbers {
                let known = known.entry(word).or_default();
                *known = known.saturating_add(number);
            }
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets it: what is not there by now will not come.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Adds it to the counters of what is there. Words that this version does not know are nobody's.
    pub fn claim(&mut self, view: &View) {
        if let Some(numbers) = self.0.remove(&Of::Process) {
            view.process.each(&mut adder(&numbers));
        }
        for listener in &view.listeners {
            let of = Of::Listener(listener.name.to_string());
            let Some(numbers) = self.0.remove(&of) else { continue };
            listener.counters.each(&mut adder(&numbers));
            let ended = numbers.iter().filter(|(word, _)| word.starts_with("ended."));
            let accepted = numbers.get("accepted").copied().unwrap_or(0);
            listener.counters.count_elsewhere(accepted, ended.map(|(_, number)| number).sum());
        }
        for pool in &view.pools {
            if let Some(numbers) = self.0.remove(&Of::Pool(pool.name.to_string())) {
                pool.counters.each(&mut adder(&numbers));
            }
            for backend in &pool.backends {
                if self.is_empty() {
                    return;
                }
                if let Some(numbers) = self.0.remove(&backend_of(&pool.name, backend)) {
                    each_of_backend(backend, &mut adder(&numbers));
                }
            }
        }
    }
}

/// Adds to each number what it is told of it.
fn adder(numbers: &Numbers) -> impl FnMut(Arguments<'_>, &AtomicU64) {
    |word, cell| {
        if let Some(number) = numbers.get(&word.to_string()) {
            cell.fetch_add(*number, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{render, tests::view};
    use crate::state::Ending;

    /// Counts something of everything, `n` times.
    fn count(view: &View, n: u64) {
        let mut number = 0;
        each(view, &mut |_, _, cell| {
            number += 1;
            cell.fetch_add(n * number, Relaxed);
        });
    }

    /// The lines of the exposition that are no gauge of now.
    fn counters(view: &View) -> Vec<String> {
        let text = render(view).unwrap();
        let is_gauge = |line: &str| line.contains("_active{") || line.starts_with("process_");
        text.lines().filter(|line| !is_gauge(line)).map(str::to_owned).collect()
    }

    #[test]
    fn two_processes_together_show_what_one_would_have_shown() {
        let (old, new, alone) = (view(3), view(3), view(3));
        let (mut ledger, mut unclaimed) =
            (Ledger::new(old.clone(), &Tally::new()), Unclaimed::default());
        let mut tell = |unclaimed: &mut Unclaimed| {
            let text = serde_json::to_vec(&ledger.news()).unwrap();
            unclaimed.add(serde_json::from_slice(&text).unwrap());
            unclaimed.claim(&new);
        };
        for n in 1..4 {
            [&old, &alone].iter().for_each(|view| count(view, n));
            tell(&mut unclaimed);
            [&new, &alone].iter().for_each(|view| count(view, 10 * n));
        }
        assert!(unclaimed.is_empty());
        assert_eq!(counters(&new), counters(&alone));
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let view = view(2);
        count(&view, 1);
        let first = Ledger::new(view.clone(), &Tally::new()).news();
        let mut ledger = Ledger::new(view.clone(), &first);
        assert_eq!(ledger.news(), []);
        view.listeners[0].counters.accept();
        let numbers = Numbers::from([("accepted".to_owned(), 1)]);
        assert_eq!(ledger.news(), [Entry { of: Of::Listener("web".into()), numbers }]);
        assert_eq!(ledger.news(), []);
    }

    #[test]
    fn words_are_told_apart() {
        let mut words = std::collections::HashSet::new();
        each(&view(2), &mut |of, word, _| {
            assert!(words.insert((of(), word.to_string())), "{:?} {word} twice", of());
        });
    }

    #[test]
    fn connections_of_the_old_process_are_not_open_in_the_new_one() {
        let (old, new) = (view(0), view(0));
        (0..5).for_each(|_| old.listeners[0].counters.accept());
        old.listeners[0].counters.end(Ending::ClientClosed, Duration::ZERO);
        new.listeners[0].counters.accept();
        let mut unclaimed = Unclaimed::default();
        unclaimed.add(Ledger::new(old, &Tally::new()).news());
        unclaimed.claim(&new);
        let counters = &new.listeners[0].counters;
        assert_eq!((counters.accepted(), counters.active()), (6, 1));
    }

    #[test]
    fn what_comes_late_gets_what_was_kept_for_it() {
        let (old, mut new) = (view(2), view(2));
        count(&old, 1);
        let late = new.pools[1].backends.pop().unwrap();
        let mut unclaimed = Unclaimed::default();
        unclaimed.add(Ledger::new(old.clone(), &Tally::new()).news());
        unclaimed.claim(&new);
        assert!(!unclaimed.is_empty());
        new.pools[1].backends.push(late);
        unclaimed.claim(&new);
        assert!(unclaimed.is_empty());
        assert_eq!(counters(&new), counters(&old));
    }
}
