//! From the members of a pool to those in rotation, with the weights they have now.
//!
//! Decided when something changes, not when a connection comes: whoever publishes the rotation asks
//! [`choose`] again at each change and at [`Choice::wake`]. Priorities, the panic threshold and slow
//! start live here; who is healthy and who is active is decided elsewhere and comes in as a value.

/// Milliseconds since the process started.
type Tick = u64;

/// Parts that the weights of a pool are split into while one of them grows: steps of 5 percent.
const PARTS: u32 = 20;

/// The share in percent that slow start begins with.
const FIRST_PERCENT: u64 = 10;

/// What is known of a backend, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Fit for connections.
    Healthy,
    /// Not known yet: used only while its priority has no healthy one.
    Unknown,
    /// Its ejection is over: one connection, known by this number, is its trial.
    Trial(u64),
    /// Not fit, as far as is known: used only in panic.
    Down,
    /// Taken out by an operator: never used.
    Out,
}

/// A backend of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its share of new connections; with 0 it gets none and counts for nothing here.
    pub weight: u32,
    /// Its priority; lower numbers come first.
    pub priority: u32,
    /// What is known of it.
    pub standing: Standing,
    /// How long ago it came back, in milliseconds; `None`: it was never away.
    pub back_for: Option<Tick>,
}

/// Which of the usable backends are in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Those of the lowest priority that has any.
    Lowest,
    /// Those of this priority, if it has any, else of the lowest that has.
    Level {
        /// The priority in use.
        level: u32,
        /// Whether it is given back to a better one as soon as that is healthy, so that connections
        /// may be the trials of better ones.
        tries_better: bool,
    },
    /// This member alone (an index), or nobody: a hot standby.
    Only(Option<usize>),
}

/// What a pool's configuration says about its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Percent of the pool that must be usable; under it all are used but those that an operator
    /// took out. 0: never.
    pub panic_threshold: u32,
    /// Milliseconds in which the share of a backend that has returned grows to its whole.
    pub slow_start: Option<Tick>,
}

/// A backend in rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its index among the members.
    pub index: usize,
    /// Its share, relative to the others chosen. At least 1.
    pub weight: u32,
    /// The number of its trial: what becomes of the connection is to be reported with it.
    pub trial: Option<u64>,
    /// Whether its trial is one connection: where others are usable. Where nobody is, a client that says
    /// nothing must not keep everybody else out.
    pub is_limited: bool,
}

/// Who is in rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// In order of priority, then of the list.
    pub chosen: Vec<Chosen>,
    /// Whether too few are usable and all are used.
    pub is_panic: bool,
    /// Members (indexes) due for a trial that connections will not bring, because others are in
    /// line: one check is to be their trial.
    pub to_probe: Vec<usize>,
    /// When weights change next.
    pub wake: Option<Tick>,
}

/// Chooses who is in rotation `at` this time. O(n log n).
#[must_use]
pub fn choose(members: &[Member], line: Line, policy: &Policy, at: Tick) -> Choice {
    let mut choice = Choice::default();
    if let Line::Only(active) = line {
        choice.chosen.extend(active.and_then(|index| only(members, index)));
    } else if is_panic(members, policy) {
        choice.is_panic = true;
        in_panic(members, &mut choice);
    } else {
        in_line(members, line, policy, at, &mut choice);
    }
    let is_due = |index: &usize| matches!(members[*index].standing, Standing::Trial(_));
    let is_chosen = |index: &usize| choice.chosen.iter().any(|chosen| chosen.index == *index);
    choice.to_probe = (0..members.len()).filter(is_due).filter(|index| !is_chosen(index)).collect();
    choice
}

impl Member {
    fn is_usable(&self) -> bool {
        self.weight > 0 && matches!(self.standing, Standing::Healthy | Standing::Unknown)
    }

    fn trial(&self) -> Option<u64> {
        match self.standing {
            Standing::Trial(trial) => Some(trial),
            _ => None,
        }
    }

    /// How many of the [`PARTS`] of its weight a member has, and when it has one more.
    fn parts(&self, slow_start: Option<Tick>, at: Tick) -> (u32, Option<Tick>) {
        let (Some(span), Some(passed)) = (slow_start.filter(|span| *span > 0), self.back_for)
        else {
            return (PARTS, None);
        };
        let first = u64::from(PARTS) * FIRST_PERCENT / 100;
        let steps = u64::from(PARTS) - first;
        // In u128: a span of centuries must not overflow.
        let (passed, span) = (u128::from(passed), u128::from(span));
        let done = u64::try_from(passed * u128::from(steps) / span).unwrap_or(steps).min(steps);
        let parts = u32::try_from(first + done).unwrap_or(PARTS);
        let next = (u128::from(done + 1) * span).div_ceil(u128::from(steps));
        let left = next.saturating_sub(passed);
        let wake = || at.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        (parts, (done < steps).then(wake))
    }
}

/// The active backend of a hot standby.
fn only(members: &[Member], index: usize) -> Option<Chosen> {
    let member = members.get(index)?;
    let is_fit = member.is_usable() || (member.weight > 0 && member.trial().is_some());
    let trial = member.trial();
    is_fit.then_some(Chosen { index, weight: 1, trial, is_limited: false })
}

/// Whether too few of those that an operator left in are usable.
fn is_panic(members: &[Member], policy: &Policy) -> bool {
    let left_in = members.iter().filter(|m| m.weight > 0 && m.standing != Standing::Out);
    let usable = left_in.clone().filter(|member| member.is_usable()).count() as u128;
    let all = left_in.count() as u128;
    all > 0 && usable * 100 < u128::from(policy.panic_threshold) * all
}

/// All that an operator left in, with their whole weights.
fn in_panic(members: &[Member], choice: &mut Choice) {
    for index in in_order(members) {
        let member = members[index];
        if member.weight > 0 && member.standing != Standing::Out {
            let (weight, trial) = (member.weight, member.trial());
            choice.chosen.push(Chosen { index, weight, trial, is_limited: false });
        }
    }
}

/// Those of the priority in use, and those of it and better ones whose trial is due.
fn in_line(members: &[Member], line: Line, policy: &Policy, at: Tick, choice: &mut Choice) {
    let level = level(members, line);
    let is_healthy = |member: &Member| {
        Some(member.priority) == level && member.weight > 0 && member.standing == Standing::Healthy
    };
    let any_healthy = members.iter().any(is_healthy);
    let best = match line {
        Line::Level { level, tries_better: false } => level,
        _ => 0,
    };
    let last = level.or_else(|| {
        let due = members.iter().filter(|m| m.weight > 0 && m.trial().is_some());
        due.map(|member| member.priority).min()
    });
    let is_chosen = |member: &Member| match member.standing {
        Standing::Healthy => Some(member.priority) == level,
        Standing::Unknown => Some(member.priority) == level && !any_healthy,
        Standing::Trial(_) => {
            Some(member.priority) <= last
                && (member.priority >= best || Some(member.priority) == last)
        }
        Standing::Down | Standing::Out => false,
    };
    let chosen = in_order(members).into_iter().filter(|index| {
        let member = &members[*index];
        member.weight > 0 && is_chosen(member)
    });
    let parts: Vec<_> =
        chosen.map(|index| (index, members[index].parts(policy.slow_start, at))).collect();
    choice.wake = parts.iter().filter_map(|(_, (_, wake))| *wake).min();
    let is_growing = choice.wake.is_some();
    choice.chosen.extend(parts.into_iter().map(|(index, (parts, _))| {
        let member = &members[index];
        let factor = if is_growing { parts } else { 1 };
        let weight = member.weight.saturating_mul(factor);
        let trial = member.trial();
        Chosen { index, weight, trial, is_limited: trial.is_some() && level.is_some() }
    }));
}

/// The priority in use; `None` when nobody is usable.
fn level(members: &[Member], line: Line) -> Option<u32> {
    let levels = || members.iter().filter(|member| member.is_usable()).map(|m| m.priority);
    match line {
        Line::Level { level: held, .. } if levels().any(|level| level == held) => Some(held),
        _ => levels().min(),
    }
}

/// Indexes in order of priority, then of the list.
fn in_order(members: &[Member]) -> Vec<usize> {
    let mut order: Vec<_> = (0..members.len()).collect();
    order.sort_by_key(|index| members[*index].priority);
    order
}

#[cfg(test)]
mod tests;
