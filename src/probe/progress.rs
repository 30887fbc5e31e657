//! What a check waits for.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

/// What a check waits for at the moment: the end of "timed out after 1s while …".
#[derive(Debug)]
pub struct Progress(RefCell<Cow<'static, str>>);

impl Default for Progress {
    fn default() -> Self {
        Self(RefCell::new("connecting".into()))
    }
}

impl Progress {
    /// From now on it is this that is waited for.
    pub fn set(&self, what: impl Into<Cow<'static, str>>) {
        *self.0.borrow_mut() = what.into();
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.borrow())
    }
}
