//! The priority in use, in a pool of several priorities that all take connections.

use std::cmp::Reverse;

use super::{Failback, Fitness, Policy, Tick, View};

/// Which priority is in use. A value: copied, compared, saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    level: Option<u32>,
}

/// What one step comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelStep {
    /// The state after it.
    pub next: Levels,
    /// When to step again though nothing happens; in place of what an earlier step said.
    pub wake: Option<Tick>,
}

impl Levels {
    /// The priority that was in use before the process started.
    #[must_use]
    pub fn restored(level: Option<u32>) -> Self {
        Self { level }
    }

    /// The priority in use; `None`: nobody is usable.
    #[must_use]
    pub fn level(&self) -> Option<u32> {
        self.level
    }

    /// Whether a better priority is used as soon as it is healthy, so that connections may be the
    /// trials of its backends.
    #[must_use]
    pub fn tries_better(policy: &Policy) -> bool {
        policy.failback == Failback::Auto && policy.failback_delay == 0
    }

    /// Looks at the pool again: after every change of it, and when it is time.
    ///
    /// The lowest priority with a usable backend takes all. Back to a lower one than that in use it
    /// goes only by [`Failback::Auto`], once that one has had a backend that is `healthy` for the
    /// delay; with [`Failback::Manual`] when the one in use has nobody left, or on [`release`](Self::release).
    #[must_use]
    pub fn step(&self, view: &View<'_>) -> LevelStep {
        let usable = |level: &u32| {
            view.members.iter().any(|m| m.priority == *level && m.fitness.is_usable())
        };
        let Some(level) = self.level.filter(usable) else {
            let usable = view.members.iter().filter(|member| member.fitness.is_usable());
            let next = Self { level: usable.map(|member| member.priority).min() };
            return LevelStep { next, wake: None };
        };
        let stay = LevelStep { next: *self, wake: None };
        let Some((better, age)) = better(view, level) else { return stay };
        if view.policy.failback == Failback::Manual {
            return stay;
        }
        match view.policy.failback_delay.saturating_sub(age) {
            0 => LevelStep { next: Self { level: Some(better) }, wake: None },
            left => LevelStep { wake: Some(view.at.saturating_add(left)), ..stay },
        }
    }

    /// An operator's word: back to the lowest priority with a usable backend, now.
    #[must_use]
    pub fn release(&self, view: &View<'_>) -> LevelStep {
        Self::default().step(view)
    }
}

/// The best priority before `level` that has a healthy backend, and for how long it had it.
fn better(view: &View<'_>, level: u32) -> Option<(u32, Tick)> {
    let healthy = view.members.iter().filter_map(|member| match member.fitness {
        Fitness::Healthy(age) if member.priority < level => Some((member.priority, age)),
        _ => None,
    });
    healthy.min_by_key(|(priority, age)| (*priority, Reverse(*age)))
}

#[cfg(test)]
mod tests {
    use super::super::Standby;
    use super::*;

    const AUTO: Policy =
        Policy { failback: Failback::Auto, failback_delay: 30_000, has_hooks: false };
    const MANUAL: Policy = Policy { failback: Failback::Manual, ..AUTO };

    use Fitness::{Down, Healthy, Trial, Unknown};

    fn step(levels: Levels, fitness: &[Fitness], policy: &Policy, at: Tick) -> LevelStep {
        let members: Vec<_> = (0..)
            .zip(fitness)
            .map(|(id, fitness)| Standby { id, priority: id, fitness: *fitness })
            .collect();
        levels.step(&View { members: &members, policy, at })
    }

    #[test]
    fn the_priority_in_use() {
        // in use, the members' fitness (one for each priority), policy, at, then in use and wake
        type Case<'a> = (Option<u32>, &'a [Fitness], &'a Policy, Tick, Option<u32>, Option<Tick>);
        let cases: &[Case<'_>] = &[
            (None, &[Unknown, Healthy(0)], &AUTO, 0, Some(0), None),
            (None, &[Down, Healthy(0)], &AUTO, 0, Some(1), None),
            (None, &[Down, Trial], &AUTO, 0, None, None),
            (Some(0), &[Down, Healthy(0)], &AUTO, 9, Some(1), None),
            (Some(1), &[Healthy(29_999), Healthy(0)], &AUTO, 30_004, Some(1), Some(30_005)),
            (Some(1), &[Healthy(30_000), Healthy(0)], &AUTO, 30_005, Some(0), None),
            (Some(1), &[Healthy(5), Down], &AUTO, 6, Some(0), None),
            (Some(1), &[Unknown, Healthy(0)], &AUTO, 99_999, Some(1), None),
            (Some(1), &[Trial, Healthy(0)], &AUTO, 99_999, Some(1), None),
            (Some(2), &[Down, Healthy(30_000), Healthy(0)], &AUTO, 30_000, Some(1), None),
            (
                Some(2),
                &[Healthy(10_000), Healthy(40_000), Healthy(0)],
                &AUTO,
                30_000,
                Some(2),
                Some(50_000),
            ),
            (Some(1), &[Healthy(99_999), Healthy(0)], &MANUAL, 99_999, Some(1), None),
            (Some(1), &[Healthy(5), Down], &MANUAL, 99_999, Some(0), None),
            (Some(1), &[Down, Down], &MANUAL, 99_999, None, None),
        ];
        for (level, fitness, policy, at, next, wake) in cases {
            let step = step(Levels::restored(*level), fitness, policy, *at);
            assert_eq!((step.next.level(), step.wake), (*next, *wake), "{level:?} {fitness:?}");
        }
    }

    #[test]
    fn an_operator_may_end_the_waiting() {
        let members = [
            Standby { id: 0, priority: 0, fitness: Healthy(0) },
            Standby { id: 1, priority: 1, fitness: Healthy(0) },
        ];
        let view = View { members: &members, policy: &MANUAL, at: 1 };
        assert_eq!(Levels::restored(Some(1)).release(&view).next.level(), Some(0));
    }

    #[test]
    fn a_priority_is_as_long_healthy_as_its_longest_healthy_backend() {
        let standby = |id, priority, fitness| Standby { id, priority, fitness };
        let members =
            [standby(0, 0, Healthy(50)), standby(1, 0, Healthy(10)), standby(2, 1, Healthy(0))];
        let view = View { members: &members, policy: &AUTO, at: 100 };
        assert_eq!(Levels::restored(Some(1)).step(&view).wake, Some(30_050));
    }
}
