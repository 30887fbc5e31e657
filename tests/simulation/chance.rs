//! What the world draws.

use tidegate::balance::candidates;
use tidegate::failover::{self, Failback};
use tidegate::health::{Checking, Operator, Outlier};

use crate::world::Truth;

pub(crate) fn some_truth(rng: &mut fastrand::Rng) -> Truth {
    match rng.u32(0..12) {
        0..6 => Truth::Works,
        6 | 7 => Truth::Refuses,
        8 => Truth::Silent,
        9 => Truth::Frozen,
        10 => Truth::Shy,
        _ => Truth::Flaky,
    }
}

pub(crate) fn some_operator(rng: &mut fastrand::Rng) -> Operator {
    if rng.u32(0..10) == 0 { Operator::Disabled } else { Operator::Enabled }
}

pub(crate) fn some_weight(rng: &mut fastrand::Rng) -> u32 {
    if rng.u32(0..12) == 0 { 0 } else { rng.u32(1..5) }
}

pub(crate) fn checks(rng: &mut fastrand::Rng) -> Option<Checking> {
    let interval = rng.u64(200..4000);
    let checking = Checking {
        rise: rng.u32(1..5),
        fall: rng.u32(1..5),
        interval,
        fast_interval: rng.u64(100..=interval),
        timeout: rng.u64(100..2000),
        jitter: rng.u32(0..=50),
    };
    (rng.u32(0..4) > 0).then_some(checking)
}

pub(crate) fn outlier(rng: &mut fastrand::Rng) -> Option<Outlier> {
    let base_ejection = rng.u64(100..10_000);
    let outlier = Outlier {
        consecutive_failures: rng.u32(1..5),
        base_ejection,
        max_ejection: rng.u64(base_ejection..60_000),
        max_ejected_percent: *rng.choice(&[0, 10, 34, 50, 50, 50, 99, 100]).expect("there is one"),
    };
    (rng.u32(0..5) > 0).then_some(outlier)
}

pub(crate) fn rotation(rng: &mut fastrand::Rng) -> candidates::Policy {
    candidates::Policy {
        panic_threshold: *rng.choice(&[0, 0, 0, 30, 50, 100]).expect("there is one"),
        slow_start: rng.bool().then(|| rng.u64(1..30_000)),
    }
}

pub(crate) fn failback(rng: &mut fastrand::Rng) -> failover::Policy {
    failover::Policy {
        failback: if rng.bool() { Failback::Auto } else { Failback::Manual },
        failback_delay: if rng.bool() { 0 } else { rng.u64(0..20_000) },
        has_hooks: rng.u32(0..3) == 0,
    }
}
