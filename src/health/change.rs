//! The words: states, causes, evidence, and the change from one state to another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Tick;

/// The state of a backend as people see it: derived, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No check has answered yet.
    Unknown,
    /// Fit for connections.
    Healthy,
    /// Active checks failed `fall` times in a row.
    Unhealthy,
    /// Taken out by real connections that failed, until a time; then one trial decides.
    Ejected,
    /// An operator's word: no new connections.
    Draining,
    /// An operator's word: no new connections, no checks.
    Disabled,
}

impl State {
    /// Every state, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Healthy,
        Self::Unhealthy,
        Self::Ejected,
        Self::Draining,
        Self::Disabled,
    ];

    /// The word for it in metrics, events and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }

    /// Whether new connections may go to a backend in this state; to an `unknown` one only while
    /// its priority has no `healthy` one.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Unknown | Self::Healthy)
    }
}

/// Who or what changed a state: the label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Active checks.
    Probe,
    /// Real connections.
    Outlier,
    /// An operator, or the configuration, which is an operator's word too.
    Operator,
    /// A name that no longer, or again, resolves to the backend.
    Resolve,
}

impl Cause {
    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Outlier => "outlier",
            Self::Operator => "operator",
            Self::Resolve => "resolve",
        }
    }
}

/// A way out of usability, or back into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Usability went away.
    Evicted,
    /// Usability came back.
    Reinstated,
}

/// What went wrong with a real connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The backend's kernel said no.
    Refused,
    /// No answer to the connect in time.
    TimedOut,
    /// No way there.
    Unreachable,
    /// Reset before the backend's first byte.
    Reset,
    /// The client's bytes were delivered and no byte came back within so many milliseconds.
    NoFirstByte(Tick),
    /// Anything else, in words.
    Other(Arc<str>),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Reset => f.write_str("reset before the first byte"),
            Self::NoFirstByte(ms) => write!(f, "no first byte within {ms}ms"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Why a state is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The process started, or the backend was added, and its checks have not answered.
    Start,
    /// The same, where nothing checks it.
    Unchecked,
    /// The same, where the configuration has it disabled.
    Disabled,
    /// The state was taken over from a file or from the process before.
    Restored,
    /// So many checks passed in a row.
    ChecksPassed(u32),
    /// So many checks failed in a row.
    ChecksFailed {
        /// How many.
        count: u32,
        /// How the last one failed.
        failure: Arc<str>,
    },
    /// So many connections failed in a row.
    Failures {
        /// How many.
        count: u32,
        /// How the last one failed.
        last: Trouble,
    },
    /// The trial after an ejection passed.
    TrialPassed,
    /// The trial after an ejection failed.
    TrialFailed(Trouble),
    /// An operator said so.
    Operator,
    /// The configuration no longer has what held the state.
    Configuration,
    /// The backend's name resolves to it again.
    Resolved,
    /// The backend's name no longer resolves to it.
    Unresolved,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("not checked yet"),
            Self::Unchecked => f.write_str("no health_check, and nothing has failed so far"),
            Self::Disabled => f.write_str("disabled in the configuration"),
            Self::Restored => f.write_str("known from before the restart"),
            Self::ChecksPassed(count) => write!(f, "{} passed in a row", Count(*count, "check")),
            Self::ChecksFailed { count, failure } => {
                write!(f, "{} failed in a row: {failure}", Count(*count, "check"))
            }
            Self::Failures { count, last } => {
                write!(f, "{} failed in a row: {last}", Count(*count, "connection"))
            }
            Self::TrialPassed => f.write_str("the trial after the ejection passed"),
            Self::TrialFailed(trouble) => {
                write!(f, "the trial after the ejection failed: {trouble}")
            }
            Self::Operator => f.write_str("operator"),
            Self::Configuration => f.write_str("the configuration changed"),
            Self::Resolved => f.write_str("the name resolves to it again"),
            Self::Unresolved => f.write_str("the name no longer resolves to it"),
        }
    }
}

/// A number of things.
struct Count(u32, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

/// From one state to another, why, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state now; never the same.
    pub to: State,
    /// Whether usability went away or came back; `None`: as usable as before.
    pub turn: Option<Turn>,
    /// By whom.
    pub cause: Cause,
    /// Why.
    pub evidence: Evidence,
    /// The first answer of the checks since the process started or the backend was added: runs no
    /// action.
    pub is_initial: bool,
    /// When the first of the failures in a row that led here was seen; `None` where none did.
    pub first_sign: Option<Tick>,
}

impl Change {
    /// The turn that runs a recovery action, if this change does: what checks or connections found
    /// out, but not the first answer at start-up and nothing that an operator wanted.
    #[must_use]
    pub fn action(&self) -> Option<Turn> {
        let is_found_out = matches!(self.cause, Cause::Probe | Cause::Outlier);
        self.turn.filter(|_| is_found_out && !self.is_initial)
    }
}

/// The turn between two states.
pub(super) fn turn(from: State, to: State) -> Option<Turn> {
    match (from.is_usable(), to.is_usable()) {
        (true, false) => Some(Turn::Evicted),
        (false, true) => Some(Turn::Reinstated),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_reads_as_a_sentence() {
        let cases = [
            (
                Evidence::ChecksFailed { count: 3, failure: "refused".into() },
                "3 checks failed in a row: refused",
            ),
            (Evidence::ChecksPassed(1), "1 check passed in a row"),
            (
                Evidence::Failures { count: 3, last: Trouble::Refused },
                "3 connections failed in a row: refused",
            ),
            (
                Evidence::Failures { count: 2, last: Trouble::NoFirstByte(250) },
                "2 connections failed in a row: no first byte within 250ms",
            ),
            (Evidence::Operator, "operator"),
        ];
        for (evidence, words) in cases {
            assert_eq!(evidence.to_string(), words);
        }
    }

    #[test]
    fn every_pair_of_states_has_the_turn_of_its_usability() {
        for from in State::ALL {
            for to in State::ALL {
                let expected = match (from.is_usable(), to.is_usable()) {
                    (true, false) => Some(Turn::Evicted),
                    (false, true) => Some(Turn::Reinstated),
                    (true, true) | (false, false) => None,
                };
                assert_eq!(turn(from, to), expected, "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn only_what_was_found_out_after_the_start_runs_an_action() {
        let change = |cause, is_initial, turn| Change {
            from: State::Healthy,
            to: State::Unhealthy,
            turn,
            cause,
            evidence: Evidence::Start,
            is_initial,
            first_sign: None,
        };
        let evicted = Some(Turn::Evicted);
        assert_eq!(change(Cause::Probe, false, evicted).action(), evicted);
        assert_eq!(change(Cause::Outlier, false, evicted).action(), evicted);
        assert_eq!(change(Cause::Probe, true, evicted).action(), None);
        assert_eq!(change(Cause::Operator, false, evicted).action(), None);
        assert_eq!(change(Cause::Resolve, false, evicted).action(), None);
        assert_eq!(change(Cause::Probe, false, None).action(), None);
    }
}
