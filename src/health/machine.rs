//! The state of one backend: three axes, one step, one precedence.

use super::Tick;
use super::change::{self, Cause, Change, Evidence, State};
use super::event::{Ejection, Event, Operator, Policy, Restored, Verdict};
use super::outlier::{FORGET_AFTER, ejection_time};
use super::schedule::{Judged, Pace};

/// When something began: a tick, and how long it had lasted before this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Since {
    tick: Tick,
    carried: Tick,
}

impl Since {
    fn now(at: Tick) -> Self {
        Self { tick: at, carried: 0 }
    }

    fn age(self, at: Tick) -> Tick {
        at.saturating_sub(self.tick).saturating_add(self.carried)
    }
}

/// The axis of active checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checked {
    verdict: Verdict,
    /// Passes since the last failure or verdict.
    passes: u32,
    /// Failures since the last pass or verdict.
    fails: u32,
    /// When the first of `fails` was seen.
    failing_since: Option<Tick>,
}

impl Checked {
    fn new(verdict: Verdict) -> Self {
        Self { verdict, passes: 0, fails: 0, failing_since: None }
    }
}

/// What one step comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state after it.
    pub next: Health,
    /// What people see of it, if anything.
    pub change: Option<Change>,
    /// When to send [`Event::Timer`]; in place of what an earlier step said.
    pub wake: Option<Tick>,
}

/// Why an axis moved, and the first sign of it.
struct Why(Cause, Evidence, Option<Tick>);

/// The state of one backend. A value: copied, compared, saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    operator: Operator,
    is_resolved: bool,
    /// `None`: no checks are made.
    checks: Option<Checked>,
    ejection: Ejection,
    /// Ejections in a row.
    ejections: u32,
    /// The number of the last trial.
    trial: u64,
    epoch: u64,
    /// No verdict since the process started or the backend was added.
    is_initial: bool,
    /// When the state began.
    since: Since,
    reason: Evidence,
    /// When it last came back to usability.
    returned: Option<Since>,
    /// When the last ejection ended.
    readmitted: Tick,
}

impl Health {
    /// A backend of which nothing is known: `unknown` with checks, `healthy` without.
    #[must_use]
    pub fn new(operator: Operator, at: Tick, policy: &Policy) -> Self {
        Self {
            operator,
            is_resolved: true,
            checks: policy.checks.map(|_| Checked::new(Verdict::Unknown)),
            ejection: Ejection::None,
            ejections: 0,
            trial: 0,
            epoch: 0,
            is_initial: policy.checks.is_some(),
            since: Since::now(at),
            reason: first_reason(operator, policy),
            returned: None,
            readmitted: 0,
        }
    }

    /// A backend as it was before this process. Who was out stays out until there is evidence; who
    /// was disabled starts afresh.
    #[must_use]
    pub fn restored(known: &Restored, operator: Operator, at: Tick, policy: &Policy) -> Self {
        let mut health = Self::new(operator, at, policy);
        health.returned = known.back_for.map(|carried| Since { tick: at, carried });
        health.reason = match operator {
            Operator::Enabled => Evidence::Restored,
            Operator::Draining | Operator::Disabled => Evidence::Operator,
        };
        if operator != Operator::Disabled {
            if let (Some(checks), Some(verdict)) = (&mut health.checks, known.verdict) {
                checks.verdict = verdict;
                health.is_initial = verdict == Verdict::Unknown;
            }
            if let (Some(until), Some(_)) = (known.ejected_until, policy.outlier) {
                health.ejection = Ejection::Until(until);
            }
            health.ejections = known.ejections;
        }
        if health.state() == known.state {
            health.since.carried = known.age;
        }
        health.step(Event::Timer, at, policy).next
    }

    /// The same, of a backend that was there before: what was under way then, checks and trials, counts
    /// for nothing.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self { epoch: before.epoch + 1, trial: before.trial, ..self }
    }

    /// One step: what `event`, which happened `at` this time, makes of the state.
    ///
    /// Reads no clock and changes nothing; the caller keeps `next`.
    #[must_use]
    pub fn step(&self, event: Event, at: Tick, policy: &Policy) -> Step {
        let mut next = self.clone();
        next.ejections = self.ejections(at);
        let why = match event {
            Event::Checked { epoch, result } => next.checked(epoch, result, at, policy),
            Event::Tripped { count, last, first, began, draw } => {
                let why = Why(Cause::Outlier, Evidence::Failures { count, last }, Some(first));
                let is_news = next.ejection == Ejection::None && began >= next.readmitted;
                if is_news { next.eject(why, draw, at, policy) } else { None }
            }
            Event::TrialPassed(trial) => next.trial_passed(trial, at),
            Event::TrialFailed { trial, trouble, draw } => {
                let is_news = next.ejection == Ejection::Trial(trial);
                let why = Why(Cause::Outlier, Evidence::TrialFailed(trouble), Some(at));
                if is_news { next.eject(why, draw, at, policy) } else { None }
            }
            Event::Timer => next.timer(at),
            Event::Operator(operator) => next.told(operator, at, policy),
            Event::Resolved(is_resolved) => next.resolved(is_resolved),
            Event::Configured { is_new_check } => next.configured(is_new_check, at, policy),
        };
        let change = why.and_then(|why| next.show(self, why, at));
        Step { wake: next.wake(), next, change }
    }

    /// The state that people see. The one precedence: the first line that holds.
    #[must_use]
    pub fn state(&self) -> State {
        let verdict = self.checks.map_or(Verdict::Healthy, |checks| checks.verdict);
        match (self.operator, self.is_resolved, verdict, self.ejection) {
            (Operator::Disabled, ..) => State::Disabled,
            (Operator::Draining, ..) | (_, false, ..) => State::Draining,
            (_, _, Verdict::Unhealthy, _) => State::Unhealthy,
            (.., Ejection::Until(_) | Ejection::Trial(_)) => State::Ejected,
            (_, _, Verdict::Unknown, _) => State::Unknown,
            (_, _, Verdict::Healthy, _) => State::Healthy,
        }
    }

    /// Counts a result of the current epoch.
    fn checked(&mut self, epoch: u64, result: Judged, at: Tick, policy: &Policy) -> Option<Why> {
        let (Some(checks), Some(policy)) = (&mut self.checks, &policy.checks) else { return None };
        if epoch != self.epoch || self.operator == Operator::Disabled {
            return None;
        }
        let (verdict, evidence) = match result {
            Judged::Unjudged => return None,
            Judged::Pass => {
                (checks.fails, checks.failing_since) = (0, None);
                checks.passes = checks.passes.saturating_add(1);
                let needed = if checks.verdict == Verdict::Unknown { 1 } else { policy.rise };
                if checks.verdict == Verdict::Healthy || checks.passes < needed {
                    return None;
                }
                (Verdict::Healthy, Evidence::ChecksPassed(checks.passes))
            }
            Judged::Fail(failure) => {
                checks.passes = 0;
                checks.fails = checks.fails.saturating_add(1);
                checks.failing_since.get_or_insert(at);
                if checks.verdict == Verdict::Unhealthy || checks.fails < policy.fall {
                    return None;
                }
                (Verdict::Unhealthy, Evidence::ChecksFailed { count: checks.fails, failure })
            }
        };
        let first_sign = checks.failing_since;
        let is_recovery = checks.verdict == Verdict::Unhealthy;
        *checks = Checked::new(verdict);
        self.epoch += 1;
        if is_recovery && self.ejection != Ejection::None {
            // The checks saw the backend go and come back: the connections that failed meanwhile
            // tell nothing more.
            self.readmit(at);
        }
        Some(Why(Cause::Probe, evidence, first_sign))
    }

    /// Begins an ejection, a longer one than the last.
    fn eject(&mut self, why: Why, draw: u64, at: Tick, policy: &Policy) -> Option<Why> {
        let policy = policy.outlier.as_ref()?;
        if self.operator == Operator::Disabled {
            return None;
        }
        self.ejections = self.ejections.saturating_add(1);
        self.ejection = Ejection::Until(at + ejection_time(self.ejections, draw, policy));
        Some(why)
    }

    fn trial_passed(&mut self, trial: u64, at: Tick) -> Option<Why> {
        if self.ejection != Ejection::Trial(trial) {
            return None;
        }
        self.readmit(at);
        Some(Why(Cause::Outlier, Evidence::TrialPassed, None))
    }

    fn timer(&mut self, at: Tick) -> Option<Why> {
        match self.ejection {
            Ejection::Until(until) if until <= at => self.begin_trial(),
            _ => {}
        }
        None
    }

    fn begin_trial(&mut self) {
        self.trial += 1;
        self.ejection = Ejection::Trial(self.trial);
    }

    fn readmit(&mut self, at: Tick) {
        self.ejection = Ejection::None;
        self.readmitted = at;
    }

    fn told(&mut self, operator: Operator, at: Tick, policy: &Policy) -> Option<Why> {
        let before = std::mem::replace(&mut self.operator, operator);
        match (before, operator) {
            (Operator::Disabled, Operator::Disabled) => {}
            // What was known before the break is not trusted after it.
            (_, Operator::Disabled) => self.start_afresh(at, policy),
            (Operator::Disabled, _) => self.is_initial = false,
            // The operator wants it tried now.
            (_, Operator::Enabled) if matches!(self.ejection, Ejection::Until(_)) => {
                self.begin_trial();
            }
            _ => {}
        }
        Some(Why(Cause::Operator, Evidence::Operator, None))
    }

    fn start_afresh(&mut self, at: Tick, policy: &Policy) {
        self.checks = policy.checks.map(|_| Checked::new(Verdict::Unknown));
        self.readmit(at);
        self.ejections = 0;
        self.epoch += 1;
    }

    fn resolved(&mut self, is_resolved: bool) -> Option<Why> {
        self.is_resolved = is_resolved;
        let evidence = if is_resolved { Evidence::Resolved } else { Evidence::Unresolved };
        Some(Why(Cause::Resolve, evidence, None))
    }

    /// Keeps the verdict, because a reload must not send connections to a backend that is down, nor
    /// take one out that is not; drops what the new policy can no longer end.
    fn configured(&mut self, is_new_check: bool, at: Tick, policy: &Policy) -> Option<Why> {
        let verdict = match self.checks {
            _ if self.operator == Operator::Disabled => Verdict::Unknown,
            Some(checks) => checks.verdict,
            None => Verdict::Healthy,
        };
        if is_new_check || self.checks.is_some() != policy.checks.is_some() {
            self.checks = policy.checks.map(|_| Checked::new(verdict));
            self.epoch += 1;
        }
        if policy.outlier.is_none() && self.ejection != Ejection::None {
            self.readmit(at);
        }
        self.is_initial &= self.checks.is_some();
        if matches!(self.reason, Evidence::Start | Evidence::Unchecked) {
            self.reason = first_reason(self.operator, policy);
        }
        Some(Why(Cause::Operator, Evidence::Configuration, None))
    }

    /// Turns a move of an axis into what people see of it.
    fn show(&mut self, before: &Self, why: Why, at: Tick) -> Option<Change> {
        let (from, to) = (before.state(), self.state());
        let Why(cause, evidence, first_sign) = why;
        let is_initial = self.is_initial && cause == Cause::Probe;
        self.is_initial &= cause != Cause::Probe;
        if from == to {
            if cause == Cause::Outlier && to == State::Ejected {
                self.reason = evidence;
            }
            return None;
        }
        let turn = change::turn(from, to);
        let is_back = to == State::Healthy && from == State::Unknown && before.returned.is_some();
        if turn == Some(change::Turn::Reinstated) || is_back {
            self.returned = Some(Since::now(at));
        }
        self.since = Since::now(at);
        self.reason = evidence.clone();
        Some(Change { from, to, turn, cause, evidence, is_initial, first_sign })
    }

    /// When to send [`Event::Timer`].
    #[must_use]
    pub fn wake(&self) -> Option<Tick> {
        match self.ejection {
            Ejection::Until(until) => Some(until),
            Ejection::None | Ejection::Trial(_) => None,
        }
    }

    /// Whether checks are to be made.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.checks.is_some() && self.operator != Operator::Disabled
    }

    /// How soon the next check is due.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let is_changing = self.checks.is_some_and(|checks| match checks.verdict {
            Verdict::Unknown => true,
            Verdict::Healthy => checks.fails > 0,
            Verdict::Unhealthy => checks.passes > 0,
        });
        if is_changing { Pace::Fast } else { Pace::Steady }
    }

    /// The epoch that a check beginning now belongs to.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the trial that the next connection is, while the state is `ejected` and its
    /// time is over.
    #[must_use]
    pub fn trial(&self) -> Option<u64> {
        match self.ejection {
            Ejection::Trial(trial) if self.state() == State::Ejected => Some(trial),
            _ => None,
        }
    }

    /// The axis of passive detection.
    #[must_use]
    pub fn ejection(&self) -> Ejection {
        self.ejection
    }

    /// The verdict of the checks; `None` where none are made.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.checks.map(|checks| checks.verdict)
    }

    /// The operator's axis.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// Ejections in a row; none once the backend was `healthy` for ten minutes.
    #[must_use]
    pub fn ejections(&self, at: Tick) -> u32 {
        let is_forgotten = self.state() == State::Healthy && self.age(at) >= FORGET_AFTER;
        if is_forgotten { 0 } else { self.ejections }
    }

    /// How long the present state has lasted, in milliseconds, a time before this process included.
    #[must_use]
    pub fn age(&self, at: Tick) -> Tick {
        self.since.age(at)
    }

    /// Why the present state is what it is.
    #[must_use]
    pub fn reason(&self) -> &Evidence {
        &self.reason
    }

    /// How long ago the backend came back to usability, in milliseconds, for slow start; `None` if
    /// it was never away.
    #[must_use]
    pub fn back_for(&self, at: Tick) -> Option<Tick> {
        self.returned.map(|returned| returned.age(at))
    }
}

/// Why a backend is what it is of which nothing is known.
fn first_reason(operator: Operator, policy: &Policy) -> Evidence {
    match (operator, policy.checks) {
        (Operator::Disabled, _) => Evidence::Disabled,
        (_, None) => Evidence::Unchecked,
        (_, Some(_)) => Evidence::Start,
    }
}

#[cfg(test)]
mod tests;
