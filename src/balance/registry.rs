//! The table of strategies: rows, options, and the rows an embedder adds.

use super::{Candidate, STRATEGIES, Strategy};

/// Builds a strategy for a set of candidates and the options of the configuration.
///
/// Called on the control thread whenever the rotation changes; the place for what takes time or
/// memory, so that a pick needs neither.
pub type Build = fn(candidates: &[Candidate], options: &Options) -> Box<dyn Strategy>;

/// One row of the table of strategies.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in the configuration.
    pub name: &'static str,
    /// One line for the reference page.
    pub summary: &'static str,
    /// Options it takes; empty for most.
    pub options: &'static [OptionKey],
    /// Builds it. Called on the control thread whenever the rotation changes.
    pub build: Build,
}

/// An option of a strategy: a whole number within a range.
#[derive(Clone, Copy, Debug)]
pub struct OptionKey {
    /// The key in the configuration.
    pub name: &'static str,
    /// One line for the reference page.
    pub summary: &'static str,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
    /// Value when the key is absent.
    pub default: u64,
    /// What more a value must be, such as a prime. Given values within the range; an error says what
    /// was expected, to stand after the key and the value.
    pub check: Option<fn(u64) -> Result<(), String>>,
}

impl OptionKey {
    /// Whether `value` may be given.
    ///
    /// # Errors
    ///
    /// What was expected and what was read, for the person who wrote the configuration.
    pub fn accept(&self, value: u64) -> Result<(), String> {
        if !(self.min..=self.max).contains(&value) {
            let Self { min, max, .. } = self;
            return Err(format!("expected a whole number from {min} to {max}, found {value}"));
        }
        self.check.map_or(Ok(()), |check| check(value))
    }
}

/// The options given for one strategy, already checked against its [`OptionKey`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, u64)>);

impl Options {
    /// Options from `(name, value)` pairs.
    #[must_use]
    pub fn new(pairs: Vec<(String, u64)>) -> Self {
        Self(pairs)
    }

    /// The value given for `key`, else its default.
    #[must_use]
    pub fn get(&self, key: &OptionKey) -> u64 {
        self.0.iter().find(|(name, _)| name == key.name).map_or(key.default, |(_, value)| *value)
    }
}

/// The strategies a process knows: the built-in ones and those an embedder registered.
#[derive(Clone, Debug)]
pub struct Registry(Vec<Entry>);

impl Default for Registry {
    fn default() -> Self {
        Self(STRATEGIES.to_vec())
    }
}

impl Registry {
    /// Adds a strategy, last in order; one of the same name is replaced where it stands.
    pub fn register(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|known| known.name == entry.name) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
        }
    }

    /// The strategy called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    /// All strategies, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: OptionKey = OptionKey {
        name: "even",
        summary: "",
        min: 2,
        max: 10,
        default: 4,
        check: Some(|value| {
            if value % 2 == 0 {
                Ok(())
            } else {
                Err(format!("expected an even number, found {value}"))
            }
        }),
    };

    fn names(registry: &Registry) -> Vec<&str> {
        registry.entries().iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_new_strategy_comes_last_and_a_known_one_is_replaced_in_place() {
        let mut registry = Registry::default();
        let before = names(&registry).len();
        let mine = Entry { name: "mine", summary: "first", ..STRATEGIES[0] };
        registry.register(mine);
        registry.register(Entry { name: "random", summary: "my own random", ..mine });
        registry.register(Entry { summary: "second", ..mine });
        assert_eq!(names(&registry).len(), before + 1);
        assert_eq!(names(&registry)[2], "random");
        assert_eq!(registry.find("random").map(|entry| entry.summary), Some("my own random"));
        assert_eq!(registry.entries().last().map(|entry| entry.summary), Some("second"));
        assert!(registry.find("Random").is_none());
    }

    #[test]
    fn an_absent_option_has_its_default() {
        assert_eq!(Options::default().get(&EVEN), 4);
        assert_eq!(Options::new(vec![("even".into(), 8)]).get(&EVEN), 8);
    }

    #[test]
    fn a_value_must_lie_in_the_range_and_pass_the_check() {
        assert_eq!(EVEN.accept(10), Ok(()));
        assert_eq!(EVEN.accept(12), Err("expected a whole number from 2 to 10, found 12".into()));
        assert_eq!(EVEN.accept(5), Err("expected an even number, found 5".into()));
    }
}
