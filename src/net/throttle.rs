//! How many bytes of one direction may pass now: a bucket of bytes. Pure; the time is an argument.
//!
//! Works over any socket and for copies and pipes alike, and from the first byte on, where
//! `SO_MAX_PACING_RATE` lets the first ten segments go and knows no unix socket. It costs one look at
//! a clock for each turn of the relay, and twenty wake-ups a second of a connection at its limit.

use super::clock::Tick;

/// The deepest the bucket gets: what flows in a quarter of a second.
const DEPTH_MS: u64 = 250;
/// What has to be in the bucket before it is worth waking up for, and what is in a new one.
const WORTH_MS: u64 = 50;

/// A limit on the bytes of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    /// Bytes a second, which are thousandths of a byte in a millisecond.
    rate: u64,
    /// Thousandths of a byte.
    filled: u64,
    at: Tick,
}

impl Throttle {
    /// A limit of `bytes_per_second`, at least 20, that begins at `now`.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Tick) -> Self {
        let rate = bytes_per_second.clamp(1000 / WORTH_MS, u64::MAX >> 16);
        Self { rate, filled: rate * WORTH_MS, at: now }
    }

    /// How many bytes may pass at `now`, of which `take` then takes those that did.
    pub fn allowed(&mut self, now: Tick) -> usize {
        let passed = now.saturating_sub(self.at).min(DEPTH_MS);
        self.filled = (self.filled + self.rate * passed).min(self.rate * DEPTH_MS);
        self.at = self.at.max(now);
        usize::try_from(self.filled / 1000).unwrap_or(usize::MAX)
    }

    /// Takes bytes that have passed. More than were allowed are made up for.
    pub fn take(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let surplus = bytes.saturating_mul(1000).saturating_sub(self.filled);
        self.filled = self.filled.saturating_sub(bytes.saturating_mul(1000));
        // A debt is time in which nothing flows in.
        self.at = self.at.saturating_add(surplus.div_ceil(self.rate));
    }

    /// When to come again for enough to be worth it, after [`Throttle::allowed`] was too little.
    #[must_use]
    pub fn next_at(&self) -> Tick {
        let missing = (self.rate * WORTH_MS).saturating_sub(self.filled);
        self.at.saturating_add(missing.div_ceil(self.rate).max(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What passes until `end` of a sender that always has more, in pieces of at most `piece`, on a
    /// thread that is late by up to `late`.
    fn passed(rate: u64, end: Tick, piece: usize, late: &[u64]) -> (u64, u64) {
        let mut throttle = Throttle::new(rate, 0);
        let (mut now, mut total, mut deepest) = (0, 0, 0_u64);
        let mut late = late.iter().cycle();
        while now < end {
            let bytes = throttle.allowed(now).min(piece);
            throttle.take(bytes);
            total += bytes as u64;
            deepest = deepest.max((total * 1000).saturating_sub(now * rate) / 1000);
            if bytes < piece {
                now = throttle.next_at().max(now + 1) + late.next().copied().unwrap_or(0);
            }
        }
        (total, deepest)
    }

    #[test]
    fn a_new_one_lets_a_twentieth_of_a_second_pass_and_then_the_rate() {
        let mut throttle = Throttle::new(1_000_000, 7);
        assert_eq!(throttle.allowed(7), 50_000);
        throttle.take(50_000);
        assert_eq!((throttle.allowed(7), throttle.next_at()), (0, 57));
        assert_eq!(throttle.allowed(32), 25_000);
        assert_eq!(throttle.next_at(), 57);
    }

    #[test]
    fn after_a_pause_a_quarter_of_a_second_may_pass_at_once() {
        let mut throttle = Throttle::new(1_000_000, 0);
        assert_eq!(throttle.allowed(60_000), 250_000);
        assert_eq!(throttle.allowed(1_000), 250_000, "a clock that is behind takes nothing away");
    }

    #[test]
    fn what_passes_beyond_is_made_up_for() {
        let mut throttle = Throttle::new(1_000_000, 0);
        throttle.take(150_000);
        assert_eq!(throttle.allowed(100), 0);
        assert_eq!(throttle.next_at(), 150);
        assert_eq!(throttle.allowed(150), 50_000);
    }

    proptest! {
        #[test]
        fn the_rate_holds_within_a_tenth_over_two_seconds_and_bursts_are_short(
            rate in 20_000..10_000_000_000_u64,
            late in prop::collection::vec(0..150_u64, 1..20),
            piece in 1_000_000..100_000_000_usize,
        ) {
            let (total, deepest) = passed(rate, 2000, piece, &late);
            let wanted = rate * 2;
            prop_assert!(total <= wanted + wanted / 10, "{} of {}", total, wanted);
            prop_assert!(total >= wanted - wanted / 5, "{} of {}", total, wanted);
            prop_assert!(deepest <= rate / 4, "{} of {}", deepest, rate);
        }
    }
}
