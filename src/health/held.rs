//! A value of the file that an operator may overrule.

use serde::{Deserialize, Serialize};

/// What the file says, and what an operator said instead.
///
/// An operator's word holds over reloads and restarts until the file's own value changes: then the
/// file is the newer word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held<T> {
    file: T,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    operator: Option<T>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T: Copy + PartialEq> Held<T> {
    /// The file's value, overruled by nobody.
    #[must_use]
    pub fn new(file: T) -> Self {
        Self { file, operator: None }
    }

    /// The value in force.
    #[must_use]
    pub fn value(&self) -> T {
        self.operator.unwrap_or(self.file)
    }

    /// Whether an operator's word is in force.
    #[must_use]
    pub fn is_overruled(&self) -> bool {
        self.operator.is_some()
    }

    /// An operator says `value`.
    pub fn overrule(&mut self, value: T) {
        self.operator = Some(value);
    }

    /// The file was read again and says `file` now: when that is new, the operator's word ends.
    pub fn read_again(&mut self, file: T) {
        if self.file != file {
            *self = Self::new(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_word_holds_until_the_files_own_value_changes() {
        let mut weight = Held::new(3);
        weight.overrule(1);
        weight.read_again(3);
        assert_eq!((weight.value(), weight.is_overruled()), (1, true));
        weight.read_again(4);
        assert_eq!((weight.value(), weight.is_overruled()), (4, false));
        weight.read_again(3);
        assert_eq!(weight.value(), 3, "the old word does not come back");
    }

    #[test]
    fn an_operator_may_say_what_the_file_says() {
        let mut weight = Held::new(3);
        weight.overrule(3);
        assert!(weight.is_overruled());
        weight.read_again(3);
        assert_eq!(weight.value(), 3);
    }

    #[test]
    fn it_is_saved_with_the_files_value_beside_it() {
        let mut weight = Held::new(3);
        assert_eq!(serde_json::to_string(&weight).unwrap(), r#"{"file":3}"#);
        weight.overrule(1);
        let text = serde_json::to_string(&weight).unwrap();
        assert_eq!(text, r#"{"file":3,"operator":1}"#);
        assert_eq!(serde_json::from_str::<Held<i32>>(&text).unwrap(), weight);
    }
}
