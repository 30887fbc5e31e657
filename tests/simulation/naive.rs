//! The reference: what must be true of a backend, told as naively as possible.
//!
//! It keeps strings of results and wall-clock times where the machine keeps counters and ticks, and
//! knows by itself (from the world, which saw it) whether a result is stale.

use tidegate::health::{Checking, Operator, Outlier, State};

/// The time that does not end with a process.
pub(crate) type Unix = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    Probe,
    Outlier,
    Operator,
    Resolve,
}

/// What has come to pass with a backend's usability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) evictions: [u64; 4],
    pub(crate) reinstatements: [u64; 4],
    pub(crate) evict_actions: u64,
    pub(crate) reinstate_actions: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Naive {
    pub(crate) told: Operator,
    pub(crate) is_resolved: bool,
    /// `None`: no checks. Else one of `?+-`.
    pub(crate) verdict: Option<char>,
    /// Results since the last verdict, one letter each.
    pub(crate) log: String,
    pub(crate) ejected: Option<Ejected>,
    /// How many ejections in a row.
    pub(crate) ejections: u32,
    pub(crate) state: State,
    pub(crate) since: Unix,
    pub(crate) returned: Option<Unix>,
    pub(crate) is_initial: bool,
    pub(crate) counts: Counts,
    /// Which check results under way have become stale.
    pub(crate) generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejected {
    pub(crate) until: Unix,
    pub(crate) is_on_trial: bool,
}

impl Naive {
    pub(crate) fn new(told: Operator, is_checked: bool, now: Unix) -> Self {
        let mut naive = Self {
            told,
            is_resolved: true,
            verdict: is_checked.then_some('?'),
            log: String::new(),
            ejected: None,
            ejections: 0,
            state: State::Unknown,
            since: now,
            returned: None,
            is_initial: is_checked,
            counts: Counts::default(),
            generation: 0,
        };
        naive.state = naive.derived();
        naive
    }

    /// Who wins, from the least to the most important.
    fn derived(&self) -> State {
        let mut state = State::Healthy;
        if self.verdict == Some('?') {
            state = State::Unknown;
        }
        if self.ejected.is_some() {
            state = State::Ejected;
        }
        if self.verdict == Some('-') {
            state = State::Unhealthy;
        }
        if self.told == Operator::Draining || !self.is_resolved {
            state = State::Draining;
        }
        if self.told == Operator::Disabled {
            state = State::Disabled;
        }
        state
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.state == State::Healthy || self.state == State::Unknown
    }

    /// The state follows from what happened; what counts is counted.
    fn settle(&mut self, blame: Blame, now: Unix, is_initial: bool) {
        let (was, was_usable) = (self.state, self.is_usable());
        self.state = self.derived();
        if was == self.state {
            return;
        }
        if was == State::Healthy && now - self.since >= 600_000 && self.state != State::Ejected {
            self.ejections = 0;
        }
        self.since = now;
        let runs_action = matches!(blame, Blame::Probe | Blame::Outlier) && !is_initial;
        if was_usable && !self.is_usable() {
            self.counts.evictions[blame as usize] += 1;
            self.counts.evict_actions += u64::from(runs_action);
        }
        if !was_usable && self.is_usable() {
            self.counts.reinstatements[blame as usize] += 1;
            self.counts.reinstate_actions += u64::from(runs_action);
            self.returned = Some(now);
        }
        if was == State::Unknown && self.state == State::Healthy && self.returned.is_some() {
            self.returned = Some(now);
        }
    }

    /// A check that is not stale ended.
    pub(crate) fn checked(&mut self, letter: char, policy: &Checking, now: Unix) {
        if self.verdict.is_none() || self.told == Operator::Disabled || letter == 'U' {
            return;
        }
        self.log.push(letter);
        let ends_in = |letter: &str, times: u32| self.log.ends_with(&letter.repeat(times as usize));
        let passes_needed = if self.verdict == Some('?') { 1 } else { policy.rise };
        let new = if self.verdict != Some('-') && ends_in("F", policy.fall) {
            '-'
        } else if self.verdict != Some('+') && ends_in("P", passes_needed) {
            '+'
        } else {
            return;
        };
        if self.verdict == Some('-') && new == '+' {
            self.ejected = None;
        }
        self.verdict = Some(new);
        self.log.clear();
        self.generation += 1;
        let is_initial = std::mem::replace(&mut self.is_initial, false);
        self.settle(Blame::Probe, now, is_initial);
    }

    /// Whether a new ejection would be the first one again.
    fn forgets(&self, now: Unix) -> bool {
        self.state == State::Healthy && now - self.since >= 600_000
    }

    /// Connections failed in a row (or its trial did), and it is ejected until then.
    pub(crate) fn eject(&mut self, until: Unix, policy: &Outlier, now: Unix) {
        let nth = if self.forgets(now) { 1 } else { self.ejections + 1 };
        self.ejections = nth;
        let mut nominal = policy.base_ejection;
        for _ in 1..nth.min(40) {
            nominal = (nominal * 2).min(policy.max_ejection);
        }
        nominal = nominal.min(policy.max_ejection);
        let length = until - now;
        assert!(length <= policy.max_ejection, "an ejection of {length} ms, the {nth}th");
        assert!(
            length + 1 >= nominal * 8 / 10 && length <= nominal * 12 / 10 + 1,
            "the {nth}th ejection lasts {length} ms instead of {nominal}"
        );
        self.ejected = Some(Ejected { until, is_on_trial: false });
        self.settle(Blame::Outlier, now, false);
    }

    pub(crate) fn readmit(&mut self, now: Unix) {
        self.ejected = None;
        self.settle(Blame::Outlier, now, false);
    }

    /// Time has passed.
    pub(crate) fn time(&mut self, now: Unix) {
        if let Some(ejected) = &mut self.ejected {
            ejected.is_on_trial |= ejected.until <= now;
        }
    }

    pub(crate) fn operator(&mut self, told: Operator, is_checked: bool, now: Unix) {
        if told == Operator::Disabled && self.told != Operator::Disabled {
            self.verdict = is_checked.then_some('?');
            self.log.clear();
            (self.ejected, self.ejections) = (None, 0);
            self.generation += 1;
        }
        if self.told == Operator::Disabled && told != Operator::Disabled {
            self.is_initial = false;
        } else if let (Operator::Enabled, Some(ejected)) = (told, &mut self.ejected) {
            ejected.is_on_trial = true;
        }
        self.told = told;
        self.settle(Blame::Operator, now, false);
    }

    pub(crate) fn resolved(&mut self, is_resolved: bool, now: Unix) {
        self.is_resolved = is_resolved;
        self.settle(Blame::Resolve, now, false);
    }

    pub(crate) fn configured(
        &mut self,
        is_checked: bool,
        is_new_check: bool,
        outlier: bool,
        now: Unix,
    ) {
        if is_checked != self.verdict.is_some() {
            let unchecked = if self.told == Operator::Disabled { '?' } else { '+' };
            self.verdict = is_checked.then_some(unchecked);
        }
        if is_new_check {
            self.log.clear();
            self.generation += 1;
        }
        self.is_initial &= is_checked;
        if !outlier {
            self.ejected = None;
        }
        self.settle(Blame::Operator, now, false);
    }

    /// The process has restarted.
    pub(crate) fn restarted(&mut self, saved_at: Unix, now: Unix) {
        let away = now - saved_at;
        self.since += away;
        self.returned = self.returned.map(|returned| returned + away);
        self.log.clear();
        self.counts = Counts::default();
        self.is_resolved = true;
        self.is_initial = self.verdict == Some('?');
        self.time(now);
        if self.state != self.derived() {
            (self.state, self.since) = (self.derived(), now);
        }
    }
}
