//! Passive ejection: for how long, and how many of a pool.

use super::Tick;

/// Milliseconds of being `healthy` after which earlier ejections are forgotten.
pub const FORGET_AFTER: Tick = 10 * 60 * 1000;

/// How far an ejection may be off its nominal length, in percent, so that backends that were ejected
/// together do not all come back together.
const JITTER_PERCENT: u64 = 20;

/// The policy of passive detection; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject. At least 1.
    pub consecutive_failures: u32,
    /// Length of the first ejection.
    pub base_ejection: Tick,
    /// Longest ejection.
    pub max_ejection: Tick,
    /// Most of a pool that may be ejected: 0 none, 100 all.
    pub max_ejected_percent: u32,
}

/// Length of the `nth` ejection in a row (from 1), in milliseconds, at least 1.
///
/// `base_ejection`, doubled for each one before it, up to `max_ejection`; then up to 20 % more or
/// less, but never more than `max_ejection`. `draw` is uniform over `u64`.
#[must_use]
pub fn ejection_time(nth: u32, draw: u64, policy: &Outlier) -> Tick {
    let doublings = nth.saturating_sub(1).min(63);
    let factor = 1_u64 << doublings;
    let nominal = policy.base_ejection.saturating_mul(factor).min(policy.max_ejection);
    jittered(nominal, JITTER_PERCENT, draw).min(policy.max_ejection).max(1)
}

/// `nominal` and up to `percent` of it more or less.
///
/// `draw` is uniform over `u64`; so is the answer over the span, whose ends are included.
pub(super) fn jittered(nominal: Tick, percent: u64, draw: u64) -> Tick {
    let reach = nominal.saturating_mul(percent.min(100)) / 100;
    let span = u128::from(reach) * 2 + 1;
    let offset = u64::try_from((u128::from(draw) * span) >> 64).unwrap_or(0);
    (nominal - reach).saturating_add(offset)
}

/// A pool as the limit of ejections sees it. Only backends that take part in balancing count: none
/// of weight 0, none that an operator has taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// All of them, the one in question included.
    pub members: u32,
    /// Those whose state is `ejected` now.
    pub ejected: u32,
    /// Those usable now (`healthy` or `unknown`) besides the one in question.
    pub others_usable: u32,
    /// Whether one of them serves alone. How many are left to share the work does not matter then:
    /// each may be ejected that is not the last usable one.
    pub is_hot_standby: bool,
}

/// Whether one more backend of a pool may be ejected.
///
/// 0 percent: never. 100: always. Between them at most that share, one in any case, but never the
/// last usable one; in a hot standby any but the last usable one.
#[must_use]
pub fn may_eject(view: &PoolView, policy: &Outlier) -> bool {
    match policy.max_ejected_percent {
        0 => false,
        100.. => true,
        _ if view.others_usable == 0 => false,
        _ if view.is_hot_standby => true,
        percent => {
            let share = u64::from(view.members) * u64::from(percent) / 100;
            u64::from(view.ejected) < share.max(1)
        }
    }
}

/// Whether the data path reports a backend that has failed `count` times in a row: at the threshold
/// and at each multiple of it, in case the pool's limit stood in the way before.
#[must_use]
pub fn is_due(count: u32, consecutive_failures: u32) -> bool {
    count > 0 && count.is_multiple_of(consecutive_failures.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Outlier = Outlier {
        consecutive_failures: 3,
        base_ejection: 10_000,
        max_ejection: 300_000,
        max_ejected_percent: 50,
    };
    const MIDDLE: u64 = 1 << 63;

    #[test]
    fn ejections_double_up_to_the_maximum() {
        let times: Vec<_> = (1..=7).map(|nth| ejection_time(nth, MIDDLE, &POLICY) / 1000).collect();
        assert_eq!(times, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(ejection_time(u32::MAX, MIDDLE, &POLICY), 300_000);
    }

    #[test]
    fn the_jitter_is_twenty_percent_either_way_and_never_above_the_maximum() {
        assert_eq!(ejection_time(1, 0, &POLICY), 8_000);
        assert_eq!(ejection_time(1, u64::MAX, &POLICY), 12_000);
        assert_eq!(ejection_time(6, 0, &POLICY), 240_000);
        assert_eq!(ejection_time(6, u64::MAX, &POLICY), 300_000);
    }

    #[test]
    fn no_policy_makes_an_ejection_of_no_length_or_an_overflow() {
        for (base, max) in [(0, 0), (1, 1), (u64::MAX, u64::MAX), (10, 5)] {
            let policy = Outlier { base_ejection: base, max_ejection: max, ..POLICY };
            for draw in [0, MIDDLE, u64::MAX] {
                let time = ejection_time(9, draw, &policy);
                assert!(time >= 1 && time <= max.max(1), "{base} {max} {draw}: {time}");
            }
        }
    }

    #[test]
    fn the_limit_of_a_pool() {
        // percent, members, ejected, others usable, may
        let cases = [
            (0, 2, 0, 1, false),
            (0, 100, 0, 99, false),
            (100, 1, 0, 0, true),
            (100, 4, 3, 0, true),
            (50, 1, 0, 0, false),
            (50, 2, 0, 1, true),
            (50, 2, 1, 0, false),
            (10, 2, 0, 1, true),
            (99, 2, 1, 0, false),
            (50, 4, 1, 2, true),
            (50, 4, 2, 1, false),
            (50, 5, 2, 2, false),
            (10, 10, 1, 8, false),
            (50, 4, 0, 0, false),
        ];
        for (percent, members, ejected, others_usable, may) in cases {
            let view = PoolView { members, ejected, others_usable, is_hot_standby: false };
            let policy = Outlier { max_ejected_percent: percent, ..POLICY };
            assert_eq!(may_eject(&view, &policy), may, "{percent}% {view:?}");
        }
    }

    #[test]
    fn in_a_hot_standby_each_may_be_ejected_but_the_last_usable_one() {
        let view = PoolView { members: 3, ejected: 1, others_usable: 1, is_hot_standby: true };
        assert!(may_eject(&view, &POLICY));
        assert!(!may_eject(&PoolView { others_usable: 0, ejected: 2, ..view }, &POLICY));
        assert!(!may_eject(&view, &Outlier { max_ejected_percent: 0, ..POLICY }));
    }

    #[test]
    fn a_streak_is_reported_at_each_multiple_of_the_threshold() {
        let due: Vec<_> = (0..10).filter(|count| is_due(*count, 3)).collect();
        assert_eq!(due, [3, 6, 9]);
    }
}
