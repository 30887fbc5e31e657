use std::time::Duration;

use super::*;
use crate::health::Cause;
use crate::net::dial::ConnectError;

fn backend(name: &str, state: State) -> BackendView {
    BackendView {
        name: name.into(),
        address: "127.0.0.1:1".into(),
        state,
        in_rotation: state == State::Healthy,
        load: Arc::default(),
        totals: Arc::default(),
        counters: Arc::default(),
    }
}

/// A listener, a hot standby of two, and a pool of as many other backends as asked for.
pub(crate) fn view(others: usize) -> View {
    let standby = [backend("db-1", State::Unhealthy), backend("db-2", State::Healthy)];
    let others = (0..others).map(|n| backend(&format!("app-{n}"), State::Healthy));
    let pool = |name: &str, backends: Vec<BackendView>| PoolView {
        name: name.into(),
        is_hot_standby: name == "db",
        active: (name == "db").then(|| "db-2".into()),
        counters: Arc::default(),
        backends,
    };
    View {
        listeners: vec![ListenerView { name: "web".into(), counters: Arc::default() }],
        pools: vec![pool("db", standby.into()), pool("app", others.collect())],
        process: Arc::default(),
    }
}

/// Whether the text has this line.
#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn live_numbers_are_read_when_asked_for() {
    let view = view(1);
    let listener = &view.listeners[0].counters;
    (0..3).for_each(|_| listener.accept());
    listener.end(Ending::NoBackend, Duration::from_millis(20));
    let app = &view.pools[1].backends[0];
    crate::net::relay::Meter::new(0).count_into(&app.totals);
    app.counters.fail(ConnectError::Refused);
    app.counters.turn(Turn::Evicted, Cause::Probe);
    app.counters.check(CheckResult::Pass);
    assert!(app.load.take(None));
    view.pools[1].counters.connect.record(Duration::from_micros(70));
    view.pools[1].counters.act("evict", "success");
    view.process.reloads.add();
    view.process.configured(1_700_000_000);
    let text = render(&view).unwrap();
    for line in [
        r#"tidegate_connections_accepted_total{listener="web"} 3"#,
        r#"tidegate_connections_active{listener="web"} 2"#,
        r#"tidegate_connections_ended_total{listener="web",reason="no_backend"} 1"#,
        r#"tidegate_connection_duration_seconds_bucket{listener="web",le="0.01"} 0"#,
        r#"tidegate_connection_duration_seconds_bucket{listener="web",le="0.1"} 1"#,
        r#"tidegate_connection_duration_seconds_sum{listener="web"} 0.02"#,
        r#"tidegate_backend_connections_total{pool="app",backend="app-0"} 1"#,
        r#"tidegate_backend_connections_active{pool="app",backend="app-0"} 1"#,
        r#"tidegate_backend_connect_failures_total{pool="app",backend="app-0",reason="refused"} 1"#,
        r#"tidegate_backend_connect_seconds_bucket{pool="app",le="0.0001"} 1"#,
        r#"tidegate_backend_connect_seconds_count{pool="app"} 1"#,
        r#"tidegate_backend_evictions_total{pool="app",backend="app-0",cause="probe"} 1"#,
        r#"tidegate_health_checks_total{pool="app",backend="app-0",result="pass"} 1"#,
        r#"tidegate_recovery_actions_total{pool="app",event="evict",result="success"} 1"#,
        r#"tidegate_config_reloads_total{result="success"} 1"#,
        "tidegate_config_last_reload_success_timestamp_seconds 1700000000",
        r#"tidegate_backend_state{pool="db",backend="db-1",state="unhealthy"} 1"#,
        r#"tidegate_backend_state{pool="db",backend="db-1",state="healthy"} 0"#,
        r#"tidegate_pool_active_backend{pool="db",backend="db-2"} 1"#,
        r#"tidegate_pool_active_backend{pool="db",backend="db-1"} 0"#,
    ] {
        assert_line(&text, line);
    }
}

#[test]
fn every_metric_of_the_catalogue_is_there_in_its_order_with_its_kind() {
    let text = render(&view(1)).unwrap();
    let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let expected: Vec<_> =
        CATALOG.iter().map(|m| format!("{} {}", m.name, m.kind.as_str())).collect();
    assert_eq!(types, expected);
}

#[test]
fn only_a_hot_standby_has_an_active_backend() {
    let text = render(&view(1)).unwrap();
    assert!(!text.contains(r#"tidegate_pool_active_backend{pool="app""#));
}

#[test]
fn the_series_of_a_vanished_backend_are_gone() {
    let mut view = view(500);
    let with_all = series(&render(&view).unwrap());
    view.pools[1].backends.truncate(1);
    let text = render(&view).unwrap();
    assert!(!text.contains("app-1\""));
    assert_eq!(with_all - series(&text), 499 * 27);
}

#[test]
fn the_number_of_series_depends_on_the_configuration_alone() {
    let view = view(3);
    let before = series(&render(&view).unwrap());
    for _ in 0..1000 {
        view.listeners[0].counters.accept();
        view.listeners[0].counters.end(Ending::BadProxyHeader, Duration::from_secs(1));
        view.pools[1].backends[0].counters.fail(ConnectError::Timeout);
    }
    assert_eq!(series(&render(&view).unwrap()), before);
}

#[test]
fn a_label_is_escaped_as_the_format_asks() {
    let mut view = view(0);
    view.pools[1].backends.push(backend("a\"b\\c\nd", State::Healthy));
    assert!(render(&view).unwrap().contains(r#"backend="a\"b\\c\nd""#));
}
