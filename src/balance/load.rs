//! The live numbers of a backend that a strategy may read.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Milliseconds in which an old latency loses half of its say: a time constant of 11.8 s.
const HALF_LIFE_MS: i32 = 8_192;

/// What the bits of an `f32` lose when it is halved.
const HALF: i32 = 1 << (f32::MANTISSA_DIGITS - 1);

/// Shortest latency told apart, in microseconds. Above 0, so that a latency times the open
/// connections still tells a busy backend from an idle one.
const SHORTEST: f32 = 1.0;

/// Live numbers of one backend: relaxed atomics, each exact, none publishing another.
///
/// Written by the data path, read by strategies at every pick. Fields stand on the cache lines of
/// their writers, so that a strategy that reads one is not slowed by writes to another.
#[derive(Debug, Default)]
pub struct Load {
    /// Written when a connection takes a slot and when it gives it back, on any worker.
    open: OwnLine<AtomicU32>,
    /// Written once for each connect that succeeded, on any worker. 0 = no sample yet, else the
    /// average in microseconds (`f32` bits) above the time of the last sample in milliseconds.
    latency: OwnLine<AtomicU64>,
}

/// A value alone on its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct OwnLine<T>(T);

impl Load {
    /// Takes a slot: one open connection more. `false` and nothing taken when `limit` are open.
    ///
    /// Never lets more than `limit` be open at any moment. Each `true` is to be undone by one
    /// [`give_back`](Self::give_back); only the guard of a connection calls either.
    #[must_use]
    pub fn take(&self, limit: Option<NonZeroU32>) -> bool {
        let Some(limit) = limit else {
            self.open.0.fetch_add(1, Relaxed);
            return true;
        };
        let one_more = |open| (open < limit.get()).then_some(open + 1);
        self.open.0.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Gives a slot back. Giving back what was not taken changes nothing.
    ///
    /// Before all that is sequentially consistent and follows: who is then told of the slot sees it,
    /// and so does who is not told because it came too late.
    pub fn give_back(&self) {
        let given = self.open.0.fetch_update(SeqCst, Relaxed, |open| open.checked_sub(1));
        debug_assert!(given.is_ok(), "a slot was given back that nobody took");
    }

    /// Open connections, those being established included.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.0.load(Relaxed)
    }

    /// Numbers of a backend with so many connections open.
    #[cfg(test)]
    pub(super) fn with_open(open: u32) -> Self {
        Self { open: OwnLine(open.into()), ..Self::default() }
    }

    /// Enters how long a connect took, in microseconds, at `now_ms` milliseconds since the process
    /// started.
    ///
    /// The average is a peak EWMA: a sample above it replaces it at once, one below pulls it down,
    /// the more the longer the last sample is ago (half-life 8.2 s). Source: Finagle's `PeakEwma`
    /// load metric (Twitter, 2016), which linkerd and tower took over.
    pub fn record_latency(&self, micros: u32, now_ms: u32) {
        let sample = (micros as f32).max(SHORTEST);
        let next = |word| Some(Average::unpack(word).after(sample, now_ms).pack());
        let _always_ok = self.latency.0.fetch_update(Relaxed, Relaxed, next);
    }

    /// The average connect latency in microseconds, at least 1, decayed towards 0 since the last
    /// sample; `None` without a sample.
    ///
    /// What decays is asked again some day: a backend that was slow once is not shunned for ever.
    #[must_use]
    pub fn latency(&self, now_ms: u32) -> Option<f32> {
        let average = self.average();
        average.is_measured().then(|| average.decayed(now_ms))
    }

    /// What the samples came to.
    pub(super) fn average(&self) -> Average {
        Average::unpack(self.latency.0.load(Relaxed))
    }
}

/// An average of connect times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Average {
    /// Microseconds, at least [`SHORTEST`]; 0 without a sample.
    pub(super) micros: f32,
    /// When the last sample came: milliseconds since the process started.
    pub(super) at_ms: u32,
}

impl Average {
    /// Whether there was a sample.
    pub(super) fn is_measured(self) -> bool {
        self.micros.to_bits() != 0
    }

    /// What is left of it now, in microseconds; meaningless without a sample.
    ///
    /// Has no branches, so that a strategy can do this for many backends side by side.
    pub(super) fn decayed(self, now_ms: u32) -> f32 {
        let left = decayed(self.micros, elapsed(self.at_ms, now_ms));
        if left > SHORTEST { left } else { SHORTEST }
    }

    /// The average after one more sample.
    fn after(self, sample: f32, now_ms: u32) -> Self {
        let pulled = sample + decayed(self.micros - sample, elapsed(self.at_ms, now_ms));
        let micros = if sample < self.micros { pulled } else { sample };
        Self { micros, at_ms: now_ms }
    }

    /// As one word; 0 without a sample.
    fn pack(self) -> u64 {
        u64::from(self.micros.to_bits()) << 32 | u64::from(self.at_ms)
    }

    /// What was packed.
    #[expect(clippy::cast_possible_truncation, reason = "takes the word's two halves apart")]
    fn unpack(word: u64) -> Self {
        Self { micros: f32::from_bits((word >> 32) as u32), at_ms: word as u32 }
    }
}

/// Milliseconds from `from` to `to`, on a clock that wraps after 49 days. 0 when `to` is the
/// earlier one: another worker's idea of now may be a little ahead.
fn elapsed(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed().max(0)
}

/// What is left of `value` after `ms`: half of it each half-life.
///
/// The bits of a float, read as a whole number, are nearly its logarithm (Mitchell, Computer
/// multiplication and division using binary logarithms, 1962): taking from them divides. Exact at
/// each half-life, within 6 % between, and a pick among 1,000 backends does this 1,000 times.
fn decayed(value: f32, ms: i32) -> f32 {
    let halves = ms.min(127 * HALF_LIFE_MS) * (HALF / HALF_LIFE_MS);
    f32::from_bits((value.to_bits().cast_signed() - halves).max(0).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    const H: u32 = HALF_LIFE_MS as u32;

    #[test]
    fn slots_are_taken_up_to_the_limit_and_given_back() {
        let load = Load::default();
        let two = NonZeroU32::new(2);
        assert!(load.take(two) && load.take(two) && !load.take(two));
        assert_eq!(load.open(), 2);
        load.give_back();
        assert!(load.take(two));
        assert!(load.take(None), "without a limit there is always a slot");
        assert_eq!(load.open(), 3);
        assert!(!load.take(two), "a limit lowered under what is open lets nobody in");
    }

    #[test]
    fn no_moment_sees_more_than_the_limit_open() {
        let (load, limit, stop) = (Load::default(), NonZeroU32::new(3), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if load.take(limit) {
                            load.give_back();
                        }
                    }
                    stop.store(true, Relaxed);
                });
            }
            while !stop.load(Relaxed) {
                assert!(load.open() <= 3);
            }
        });
        assert_eq!(load.open(), 0);
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "a slot was given back that nobody took"))]
    fn giving_back_too_much_never_underflows() {
        let load = Load::default();
        load.give_back();
        assert_eq!(load.open(), 0);
    }

    #[test]
    fn the_two_numbers_stand_on_cache_lines_of_their_own() {
        assert_eq!((size_of::<Load>(), align_of::<Load>()), (128, 64));
    }

    #[test]
    fn there_is_no_latency_without_a_sample() {
        assert_eq!(Load::default().latency(0), None);
    }

    #[test]
    fn a_peak_counts_at_once() {
        let load = Load::default();
        load.record_latency(100, 0);
        load.record_latency(900, 0);
        assert_eq!(load.latency(0), Some(900.0));
    }

    #[test]
    fn a_lower_sample_pulls_half_way_down_after_a_half_life() {
        let load = Load::default();
        load.record_latency(900, 0);
        load.record_latency(100, H);
        assert_eq!(load.latency(H), Some(500.0));
    }

    #[test]
    fn many_lower_samples_arrive_however_close_together() {
        let load = Load::default();
        load.record_latency(10_000, 0);
        (0..100_000).for_each(|ms| load.record_latency(100, ms));
        let average = load.latency(100_000).unwrap();
        assert!((100.0..110.0).contains(&average), "{average}");
    }

    #[test]
    fn a_latency_halves_each_half_life_without_samples_and_stays_above_zero() {
        let load = Load::default();
        load.record_latency(800, 0);
        assert_eq!(load.latency(H), Some(400.0));
        assert_eq!(load.latency(3 * H), Some(100.0));
        assert_eq!(load.latency(H / 2), Some(544.0), "nearly 800 / √2");
        assert_eq!(load.latency(200 * H), Some(1.0));
    }

    #[test]
    fn the_shortest_sample_at_time_zero_is_a_sample() {
        let load = Load::default();
        load.record_latency(0, 0);
        assert_eq!(load.latency(0), Some(1.0));
    }

    #[test]
    fn the_clock_may_wrap_and_another_worker_may_be_ahead() {
        let load = Load::default();
        load.record_latency(800, u32::MAX - H + 1);
        assert_eq!(load.latency(H), Some(200.0), "the clock wrapped half way");
        assert_eq!(load.latency(u32::MAX - H), Some(800.0), "a millisecond before the sample");
    }
}
