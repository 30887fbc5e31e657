//! The metrics: read from the live numbers when they are asked for.
//!
//! Nothing is registered and nothing is kept: a [`View`] is what exists now, and the text is made
//! from it. So the series of a backend that is gone are gone, nothing can be registered twice, and
//! no lock stands anywhere near the data path.

mod catalog;
mod process;
mod tally;

use std::sync::Arc;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, MetricFamily, MetricType};
use prometheus::{TEXT_FORMAT, TextEncoder};

use self::process::Process;
use crate::balance::Load;
use crate::health::{State, Turn};
use crate::net::relay::Totals;
use crate::state::Ending;
use crate::state::counters::{
    BackendCounters, CAUSES, CONNECT_FAILURES, CheckResult, ListenerCounters, PoolCounters,
    ProcessCounters,
};

pub use catalog::{CATALOG, Kind, Metric, page};
pub use tally::{Entry, Ledger, Of, Tally, Unclaimed};

/// The `Content-Type` of what [`render`] makes.
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// The commit that this was built from, where the build says so.
pub const COMMIT: &str = match option_env!("TIDEGATE_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What there is to be measured now.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// In the order of the configuration.
    pub listeners: Vec<ListenerView>,
    /// In the order of the configuration.
    pub pools: Vec<PoolView>,
    /// Of the process.
    pub process: Arc<ProcessCounters>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Its name.
    pub name: Arc<str>,
    /// What it counts.
    pub counters: Arc<ListenerCounters>,
}

/// A pool.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is a hot standby.
    pub is_hot_standby: bool,
    /// Who is active, in a hot standby.
    pub active: Option<Arc<str>>,
    /// What it counts.
    pub counters: Arc<PoolCounters>,
    /// In the order of the configuration.
    pub backends: Vec<BackendView>,
}

/// A backend.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is, as displayed.
    pub address: Arc<str>,
    /// Its state.
    pub state: State,
    /// Whether it is a candidate for the next connection.
    pub in_rotation: bool,
    /// Its open connections.
    pub load: Arc<Load>,
    /// Its bytes.
    pub totals: Arc<Totals>,
    /// What is counted of it.
    pub counters: Arc<BackendCounters>,
}

/// The text that `/metrics` answers.
///
/// Cost: about a microsecond a series; 1,000 backends have 27,000.
///
/// # Errors
///
/// When the `prometheus` crate refuses what it was given: a bug of this module.
pub fn render(view: &View) -> Result<String, prometheus::Error> {
    let mut page = Page(Vec::with_capacity(CATALOG.len()));
    page.add(catalog::BUILD_INFO, [([env!("CARGO_PKG_VERSION"), COMMIT], 1)]);
    page.add_listeners(&view.listeners);
    page.add_backends(&view.pools);
    page.add_pools(&view.pools);
    page.add_process(&view.process);
    let place = |family: &MetricFamily| CATALOG.iter().position(|m| m.name == family.name());
    page.0.sort_by_key(place);
    TextEncoder::new().encode_to_string(&page.0)
}

/// The families of one exposition.
struct Page(Vec<MetricFamily>);

impl Page {
    /// Adds a family of counters or gauges, each with the values of its labels. One without any
    /// series is left out.
    fn add<'a, const N: usize>(
        &mut self,
        metric: Metric,
        series: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) {
        let series = series.into_iter().map(|(labels, value)| (labels, value as f64));
        self.add_floats(metric, series);
    }

    fn add_floats<'a, const N: usize>(
        &mut self,
        metric: Metric,
        series: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        let made = series.into_iter().map(|(labels, value)| {
            let mut made = labelled(metric, &labels);
            if metric.kind == Kind::Counter {
                let mut counter = Counter::default();
                counter.set_value(value);
                made.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                made.set_gauge(gauge);
            }
            made
        });
        self.push(metric, made.collect());
    }

    fn add_histograms<'a>(
        &mut self,
        metric: Metric,
        series: impl IntoIterator<Item = (&'a str, &'a crate::state::Histogram)>,
    ) {
        let made = series.into_iter().map(|(label, histogram)| {
            let mut made = labelled(metric, &[label]);
            let buckets = histogram.cumulated().map(|(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound as f64 / 1e6);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut family = Histogram::default();
            family.set_bucket(buckets.collect());
            // Counted after the buckets, so that none of them exceeds it.
            family.set_sample_count(histogram.count());
            family.set_sample_sum(histogram.sum_micros() as f64 / 1e6);
            made.set_histogram(family);
            made
        });
        self.push(metric, made.collect());
    }

    fn push(&mut self, metric: Metric, series: Vec<prometheus::proto::Metric>) {
        if series.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(match metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(series);
        self.0.push(family);
    }

    fn add_listeners(&mut self, listeners: &[ListenerView]) {
        // Ended before accepted: what is read in this order never shows more ended than accepted.
        let ended: Vec<_> = listeners
            .iter()
            .flat_map(|l| Ending::ALL.map(|e| ([&*l.name, e.as_str()], l.counters.ended(e))))
            .collect();
        self.add(catalog::ACTIVE, listeners.iter().map(|l| ([&*l.name], l.counters.active())));
        self.add(catalog::ACCEPTED, listeners.iter().map(|l| ([&*l.name], l.counters.accepted())));
        self.add(catalog::ENDED, ended);
        let durations = listeners.iter().map(|l| (&*l.name, l.counters.duration()));
        self.add_histograms(catalog::DURATION, durations);
    }

    fn add_backends(&mut self, pools: &[PoolView]) {
        let all = || pools.iter().flat_map(|p| p.backends.iter().map(move |b| (&*p.name, b)));
        let one =
            |read: fn(&BackendView) -> u64| all().map(move |(pool, b)| ([pool, &*b.name], read(b)));
        self.add(catalog::BACKEND_CONNECTIONS, one(|b| b.totals.connections()));
        self.add(catalog::BACKEND_ACTIVE, one(|b| b.load.open().into()));
        self.add(catalog::IN_ROTATION, one(|b| b.in_rotation.into()));
        let bytes = all().flat_map(|(pool, b)| {
            let label = |direction| [pool, &*b.name, direction];
            [(label("in"), b.totals.bytes_in()), (label("out"), b.totals.bytes_out())]
        });
        self.add(catalog::BACKEND_BYTES, bytes);
        let states = all().flat_map(|(pool, b)| {
            State::ALL.map(|state| ([pool, &*b.name, state.as_str()], u64::from(b.state == state)))
        });
        self.add(catalog::STATE, states);
        let failures = all().flat_map(|(pool, b)| {
            let counts = CONNECT_FAILURES.into_iter().zip(b.counters.failures());
            counts.map(move |(reason, count)| ([pool, &*b.name, reason], count))
        });
        self.add(catalog::CONNECT_FAILURES, failures);
        for (metric, turn) in
            [(catalog::EVICTIONS, Turn::Evicted), (catalog::REINSTATEMENTS, Turn::Reinstated)]
        {
            let turns = all().flat_map(move |(pool, b)| {
                let counts = CAUSES.into_iter().zip(b.counters.turns(turn));
                counts.map(move |(cause, count)| ([pool, &*b.name, cause.as_str()], count))
            });
            self.add(metric, turns);
        }
        let checks = all().flat_map(|(pool, b)| {
            let counts = CheckResult::ALL.into_iter().zip(b.counters.checks());
            counts.map(move |(result, count)| ([pool, &*b.name, result.as_str()], count))
        });
        self.add(catalog::CHECKS, checks);
        let standbys = pools.iter().filter(|pool| pool.is_hot_standby).flat_map(|p| {
            let is_active = |b: &BackendView| p.active.as_ref() == Some(&b.name);
            p.backends.iter().map(move |b| ([&*p.name, &*b.name], u64::from(is_active(b))))
        });
        self.add(catalog::POOL_ACTIVE, standbys);
    }

    fn add_pools(&mut self, pools: &[PoolView]) {
        let one = |read: fn(&PoolCounters) -> u64| {
            pools.iter().map(move |p| ([&*p.name], read(&p.counters)))
        };
        self.add(catalog::RETRIES, one(|c| c.retries.get()));
        self.add(catalog::TAKEOVERS, one(|c| c.takeovers.get()));
        self.add(catalog::QUEUED, one(|c| c.queued()));
        let actions = pools.iter().flat_map(|p| {
            p.counters.actions().map(|(event, result, n)| ([&*p.name, event, result], n))
        });
        self.add(catalog::ACTIONS, actions);
        let connects = pools.iter().map(|p| (&*p.name, &p.counters.connect));
        self.add_histograms(catalog::CONNECT_SECONDS, connects);
        let checks = pools.iter().map(|p| (&*p.name, &p.counters.checks));
        self.add_histograms(catalog::CHECK_SECONDS, checks);
        let takeovers = pools.iter().filter(|pool| pool.is_hot_standby);
        let takeovers = takeovers.map(|p| (&*p.name, &p.counters.takeover));
        self.add_histograms(catalog::TAKEOVER_SECONDS, takeovers);
    }

    fn add_process(&mut self, process: &ProcessCounters) {
        let reloads =
            [(["success"], process.reloads.get()), (["failure"], process.failed_reloads.get())];
        self.add(catalog::RELOADS, reloads);
        self.add(catalog::LAST_RELOAD, [([], process.last_configured())]);
        self.add(catalog::LINES_DROPPED, [([], process.access_lines_dropped.get())]);
        let Some(now) = Process::read() else { return };
        for (metric, value) in [
            (catalog::CPU_SECONDS, now.cpu_seconds),
            (catalog::OPEN_FDS, now.open_fds),
            (catalog::MAX_FDS, now.max_fds),
            (catalog::VIRTUAL_BYTES, now.virtual_bytes),
            (catalog::RESIDENT_BYTES, now.resident_bytes),
            (catalog::START_TIME, now.start_time),
            (catalog::THREADS, now.threads),
        ] {
            self.add_floats(metric, [([], value)]);
        }
    }
}

fn labelled(metric: Metric, values: &[&str]) -> prometheus::proto::Metric {
    let pairs = metric.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    prometheus::proto::Metric::from_label(pairs.collect())
}

#[cfg(test)]
pub(crate) mod tests;
