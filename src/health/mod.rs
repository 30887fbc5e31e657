//! Is this backend fit: a clock-free state machine, and what it is fed with.
//!
//! [`Health`] is the state of one backend on three axes: the operator's word, active checks, passive
//! ejection. [`Health::step`] takes an [`Event`] and says what the state is then; it does nothing
//! itself. Time is an argument ([`Tick`]), randomness a draw (`u64`), so every run can be repeated.
//!
//! Reading order: `change.rs` (the words), `event.rs` (what goes in), `machine.rs` (the axes and
//! their precedence), `outlier.rs` (how long, and how many), `schedule.rs` (when to check, and
//! whether a result may be judged), `held.rs` and `saved.rs` (what survives a reload and a restart).
//! The tables are in `docs/health.md`.

mod change;
mod event;
mod held;
mod machine;
mod outlier;
mod saved;
mod schedule;

pub use change::{Cause, Change, Evidence, State, Trouble, Turn};
pub use event::{Ejection, Event, Operator, Policy, Restored, Verdict};
pub use held::Held;
pub use machine::{Health, Step};
pub use outlier::{FORGET_AFTER, Outlier, PoolView, ejection_time, is_due, may_eject};
pub use saved::{
    EARLY_BY, STALE_AFTER, Saved, SavedBackend, SavedError, SavedFound, SavedLimit, SavedMove,
    SavedName, SavedPool, SavedRun, SavedService,
};
pub use schedule::{Answer, Checking, Due, Fire, Judged, Pace, Timing, first, judge, next, ranks};

/// Milliseconds since the process started.
pub type Tick = u64;
