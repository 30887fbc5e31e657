//! Every metric there is: one table, from which the exposition and `docs/metrics.md` are made.

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; an upgrade does not set it back.
    Counter,
    /// A value of now.
    Gauge,
    /// Counts by fixed bounds.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub help: &'static str,
    /// The values of its last label, where they are fixed.
    pub values: &'static str,
}

/// Names each row once, as a constant that is its place in the table.
macro_rules! catalog {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal $(in $values:literal)?;)*) => {
        /// Every metric, in the order of the exposition.
        pub const CATALOG: &[Metric] = &[$($id),*];
        $(
            pub(super) const $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
                values: concat!($($values)?),
            };
        )*
    };
}

catalog! {
    BUILD_INFO: Gauge "tidegate_build_info" ["version", "commit"]
        "Always 1; its labels say which build this is.";
    ACCEPTED: Counter "tidegate_connections_accepted_total" ["listener"]
        "Connections accepted, those refused afterwards included.";
    ACTIVE: Gauge "tidegate_connections_active" ["listener"]
        "Connections open now.";
    ENDED: Counter "tidegate_connections_ended_total" ["listener", "reason"]
        "Connections that ended, by the one reason of each."
        in "`client_closed`, `backend_closed`, `client_reset`, `backend_reset`, `idle_timeout`, `half_closed_timeout`, `max_duration`, `denied`, `over_limit`, `source_limit`, `source_rate`, `bad_proxy_header`, `peek_timeout`, `no_route`, `no_backend`, `connect_failed`, `local_error`, `queue_full`, `queue_timeout`, `evicted`, `demoted`, `killed`, `shutdown`";
    DURATION: Histogram "tidegate_connection_duration_seconds" ["listener"]
        "How long connections that ended had lasted since they were accepted.";
    BACKEND_CONNECTIONS: Counter "tidegate_backend_connections_total" ["pool", "backend"]
        "Connections established to the backend.";
    BACKEND_ACTIVE: Gauge "tidegate_backend_connections_active" ["pool", "backend"]
        "Connections that hold a slot of the backend now, those being established included.";
    CONNECT_FAILURES: Counter "tidegate_backend_connect_failures_total" ["pool", "backend", "reason"]
        "Attempts to connect to the backend that failed. What this host lacked is not counted."
        in "`refused`, `timeout`, `unreachable`, `reset`, `other`";
    CONNECT_SECONDS: Histogram "tidegate_backend_connect_seconds" ["pool"]
        "How long it took to connect to a backend, of attempts that succeeded.";
    BACKEND_BYTES: Counter "tidegate_backend_bytes_total" ["pool", "backend", "direction"]
        "Bytes relayed, counted while connections live."
        in "`in` (client to backend), `out` (backend to client)";
    RETRIES: Counter "tidegate_connect_retries_total" ["pool"]
        "Attempts to connect beyond the first of a connection, hedged ones included.";
    STATE: Gauge "tidegate_backend_state" ["pool", "backend", "state"]
        "1 for the state that the backend is in, 0 for the others."
        in "`unknown`, `healthy`, `unhealthy`, `ejected`, `draining`, `disabled`";
    IN_ROTATION: Gauge "tidegate_backend_in_rotation" ["pool", "backend"]
        "1 if the backend is a candidate for the next connection, else 0.";
    EVICTIONS: Counter "tidegate_backend_evictions_total" ["pool", "backend", "cause"]
        "How often the backend went out of use."
        in "`probe`, `outlier`, `operator`, `resolve`";
    REINSTATEMENTS: Counter "tidegate_backend_reinstatements_total" ["pool", "backend", "cause"]
        "How often the backend came back into use."
        in "`probe`, `outlier`, `operator`, `resolve`";
    CHECKS: Counter "tidegate_health_checks_total" ["pool", "backend", "result"]
        "Active health checks, by what they came to. `unjudged`: this process was short of something."
        in "`pass`, `fail`, `unjudged`";
    CHECK_SECONDS: Histogram "tidegate_health_check_seconds" ["pool"]
        "How long active health checks took.";
    POOL_ACTIVE: Gauge "tidegate_pool_active_backend" ["pool", "backend"]
        "1 for the active backend of a hot-standby pool, 0 for its others; absent for other pools.";
    TAKEOVERS: Counter "tidegate_takeovers_total" ["pool"]
        "How often the active role moved, operators' moves and failbacks included.";
    TAKEOVER_SECONDS: Histogram "tidegate_takeover_seconds" ["pool"]
        "From the first sign of trouble to the first connection on the new active backend.";
    QUEUED: Gauge "tidegate_queued_connections" ["pool"]
        "Connections that wait for a slot of a backend now.";
    ACTIONS: Counter "tidegate_recovery_actions_total" ["pool", "event", "result"]
        "Recovery actions, by what they followed (`evict`, `reinstate`, `takeover`, `pool_down`, `pool_up`) and what became of them."
        in "`success`, `failure`, `timeout`, `suppressed`";
    RELOADS: Counter "tidegate_config_reloads_total" ["result"]
        "Reloads of the configuration."
        in "`success`, `failure`";
    LAST_RELOAD: Gauge "tidegate_config_last_reload_success_timestamp_seconds" []
        "When the configuration in force was put in force, in seconds since 1970.";
    LINES_DROPPED: Counter "tidegate_access_log_dropped_total" []
        "Lines of the access log that were dropped because they were not written as fast as they came.";
    CPU_SECONDS: Counter "process_cpu_seconds_total" []
        "CPU time that the process has used, in user and kernel mode.";
    OPEN_FDS: Gauge "process_open_fds" []
        "Descriptors that are open.";
    MAX_FDS: Gauge "process_max_fds" []
        "Descriptors that may be open.";
    VIRTUAL_BYTES: Gauge "process_virtual_memory_bytes" []
        "Address space in use.";
    RESIDENT_BYTES: Gauge "process_resident_memory_bytes" []
        "Memory in use.";
    START_TIME: Gauge "process_start_time_seconds" []
        "When the process started, in seconds since 1970.";
    THREADS: Gauge "process_threads" []
        "Threads of the process.";
}

/// `docs/metrics.md`.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` answers in the text format of Prometheus. This page is made from the \
         program's own table; a test holds the two together.\n\n\
         Label values come from the configuration alone, never from the wire, so the number of \
         series depends on nothing that a client sends. The series of a backend that is gone are \
         gone too. A counter starts at 0 with the process and goes on over an upgrade: what the \
         old process counts until it ends is shown by the new one, every event once. A gauge is \
         never negative and is of the process that answers: connections that an old process \
         still has after an upgrade are in none, and `process_*` begins anew. Bytes are counted \
         while a connection lives.\n\n\
         | metric | type | labels | says |\n|---|---|---|---|\n",
    );
    for metric in CATALOG {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let values = match (metric.labels.last(), metric.values) {
            (Some(last), values) if !values.is_empty() => format!(" `{last}` is one of {values}."),
            _ => String::new(),
        };
        page += &format!(
            "| `{}` | {} | {} | {}{values} |\n",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.help,
        );
    }
    page += "\nUnits are seconds and bytes. Scrape and alert rules are in `conf/prometheus/`, a \
             dashboard for Grafana in `conf/grafana/`; what each alert asks of you is in \
             [operations.md](operations.md).\n";
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;
    use crate::state::Ending;
    use crate::state::counters::{ACTION_RESULTS, CAUSES, CONNECT_FAILURES, CheckResult};

    #[test]
    fn the_page_in_docs_is_this_table() {
        let written = include_str!("../../docs/metrics.md");
        // After a change: TIDEGATE_WRITE_DOCS=1 cargo test --lib metrics
        if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"), page())
                .unwrap();
        } else {
            assert!(written == page(), "docs/metrics.md is not what the table says");
        }
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (place, metric) in CATALOG.iter().enumerate() {
            let is_counter = metric.kind == Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
            assert!(CATALOG[..place].iter().all(|other| other.name != metric.name));
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    /// The table of the interface: type, labels, names; those of the process are the collector's.
    const CONTRACT: &[(&str, &str, &str)] = &[
        ("build_info", "gauge", "version, commit"),
        ("connections_accepted_total", "counter", "listener"),
        ("connections_active", "gauge", "listener"),
        ("connections_ended_total", "counter", "listener, reason"),
        ("connection_duration_seconds", "histogram", "listener"),
        ("backend_connections_total", "counter", "pool, backend"),
        ("backend_connections_active", "gauge", "pool, backend"),
        ("backend_connect_failures_total", "counter", "pool, backend, reason"),
        ("backend_connect_seconds", "histogram", "pool"),
        ("backend_bytes_total", "counter", "pool, backend, direction"),
        ("connect_retries_total", "counter", "pool"),
        ("backend_state", "gauge", "pool, backend, state"),
        ("backend_in_rotation", "gauge", "pool, backend"),
        ("backend_evictions_total", "counter", "pool, backend, cause"),
        ("backend_reinstatements_total", "counter", "pool, backend, cause"),
        ("health_checks_total", "counter", "pool, backend, result"),
        ("health_check_seconds", "histogram", "pool"),
        ("pool_active_backend", "gauge", "pool, backend"),
        ("takeovers_total", "counter", "pool"),
        ("takeover_seconds", "histogram", "pool"),
        ("queued_connections", "gauge", "pool"),
        ("recovery_actions_total", "counter", "pool, event, result"),
        ("config_reloads_total", "counter", "result"),
        ("config_last_reload_success_timestamp_seconds", "gauge", ""),
        // Where the interface is silent: what is dropped is counted.
        ("access_log_dropped_total", "counter", ""),
    ];

    #[test]
    fn the_catalogue_is_the_interface_and_holds_no_more() {
        let ours: Vec<_> = CATALOG
            .iter()
            .filter_map(|m| Some((m.name.strip_prefix("tidegate_")?, m.kind.as_str(), m.labels)))
            .map(|(name, kind, labels)| (name, kind, labels.join(", ")))
            .collect();
        let wanted: Vec<_> = CONTRACT.iter().map(|(n, k, l)| (*n, *k, (*l).to_owned())).collect();
        assert_eq!(ours, wanted);
        let other = CATALOG.iter().filter(|m| !m.name.starts_with("tidegate_"));
        assert!(other.clone().all(|m| m.name.starts_with("process_") && m.labels.is_empty()));
        assert_eq!(ours.len() + other.count(), CATALOG.len());
    }

    #[test]
    fn the_documented_values_are_those_that_are_counted() {
        let in_code = |words: &[&'static str]| {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(ENDED.values, in_code(&Ending::ALL.map(Ending::as_str)));
        assert_eq!(super::CONNECT_FAILURES.values, in_code(&CONNECT_FAILURES));
        let causes = CAUSES.map(crate::health::Cause::as_str);
        assert_eq!(EVICTIONS.values, in_code(&causes));
        assert_eq!(REINSTATEMENTS.values, in_code(&causes));
        assert_eq!(CHECKS.values, in_code(&CheckResult::ALL.map(CheckResult::as_str)));
        assert_eq!(ACTIONS.values, in_code(&ACTION_RESULTS));
        assert_eq!(STATE.values, in_code(&State::ALL.map(State::as_str)));
    }
}
