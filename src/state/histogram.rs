//! How often a duration fell where.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::counters::Visit;

/// Most bounds of a histogram.
const MOST: usize = 16;

/// Durations counted by fixed bounds. Two relaxed adds for each; both exact over all threads.
#[derive(Debug)]
#[repr(align(64))]
pub struct Histogram {
    /// Upper bounds in microseconds, each belonging to its bucket, ascending; at most 16.
    bounds: &'static [u64],
    /// Durations within each bound and above the one before; the last above all.
    counts: [AtomicU64; MOST + 1],
    /// All durations together, in microseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram; of more than 16 bounds the first 16 are used.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        let bounds = &bounds[..bounds.len().min(MOST)];
        Self { bounds, counts: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| *bound < micros);
        self.counts[place].fetch_add(1, Relaxed);
        self.sum.fetch_add(micros, Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// All of them together, in microseconds.
    #[must_use]
    pub fn sum_micros(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// Shows everything that grows, each as a word that begins with `name`.
    pub fn each(&self, name: &str, visit: &mut Visit<'_>) {
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            visit(format_args!("{name}.{bound}"), count);
        }
        visit(format_args!("{name}.above"), &self.counts[self.bounds.len()]);
        visit(format_args!("{name}.sum"), &self.sum);
    }

    /// Each bound in microseconds with how many were at most that long.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bounds.iter().zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count.load(Relaxed);
            Some((*bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::counters;

    #[test]
    fn a_duration_counts_within_every_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[10, 100]);
        for micros in [1, 10, 11, 100, 101, 5000] {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.cumulated().collect::<Vec<_>>(), [(10, 2), (100, 4)]);
        assert_eq!((histogram.count(), histogram.sum_micros()), (6, 5223));
    }

    #[test]
    fn bounds_ascend_and_all_are_used() {
        use counters::{CHECK_BOUNDS, CONNECT_BOUNDS, DURATION_BOUNDS, TAKEOVER_BOUNDS};
        for bounds in [CHECK_BOUNDS, CONNECT_BOUNDS, DURATION_BOUNDS, TAKEOVER_BOUNDS] {
            assert!(bounds.is_sorted() && bounds.len() <= MOST);
        }
    }
}
