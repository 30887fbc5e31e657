use super::super::load_with_places;
use super::super::tests::{env, registry};
use super::*;

/// The warnings of a text, where so many connections are possible.
fn warned(text: &str) -> Vec<String> {
    let loaded = load_with_places(text.as_bytes(), &env, &registry())
        .unwrap_or_else(|problems| panic!("{}", super::super::render("f", &problems)));
    let facts = Facts { connections: Some(1_000) };
    warnings(&loaded, &facts).iter().map(ToString::to_string).collect()
}

/// A file with these keys of the listener and of the pool.
fn file(listener: &str, pool: &str) -> String {
    let bind = if listener.contains("bind:") { "" } else { "bind: 0.0.0.0:80, " };
    let pool_key = if listener.contains("routes:") { "" } else { "pool: app, " };
    let backends = match pool.contains("backends:") {
        true => "",
        false => "backends: [10.0.0.1:80, 10.0.0.2:80], ",
    };
    format!(
        "listeners:\n  web: {{ {bind}{pool_key}{listener} }}\npools:\n  app: {{ {backends}{pool} }}\n"
    )
}

#[test]
fn what_can_hardly_be_meant_is_told_at_its_place() {
    for (listener, pool, warning) in [
        ("max_connections: 1001", "", "2:56: listeners.web.max_connections: 1001 are never"),
        (
            "timeouts: { idle: 30s }",
            "",
            "2:57: listeners.web.timeouts.idle: an idle connection is closed after 30s, before",
        ),
        (
            "bind: \"unix:/run/a\", connection_rate_per_source: 5/s",
            "",
            "2:70: listeners.web.connection_rate_per_source: clients of a unix socket have no",
        ),
        (
            "allow: 10.0.0.9",
            "strategy: source_hash",
            "2:34: listeners.web.pool: pool \"app\" has the strategy source_hash, and all its \
             connections come from 10.0.0.9",
        ),
        (
            "bind: 127.0.0.1:80",
            "strategy: source_hash",
            "2:16: listeners.web.pool: pool \"app\" has the strategy source_hash, and all its \
             connections come from this machine",
        ),
        (
            "routes: [{ match: { source: \"::1\" }, pool: app }]",
            "strategy: source_hash",
            "2:71: listeners.web.routes[0].pool: pool \"app\" has the strategy source_hash, and",
        ),
        (
            "",
            "strategy: hot_standby, backends: [10.0.0.1:80]",
            "4:43: pools.app.backends: a hot standby with one backend has nobody",
        ),
        (
            "",
            "strategy: hot_standby, outlier_detection: off",
            "4:58: pools.app.strategy: without health_check and outlier_detection nobody",
        ),
        (
            "",
            "failover: { failback: manual }",
            "4:70: pools.app.failover.failback: all backends have one priority",
        ),
        (
            "",
            "recovery: { on_takeover: [{ webhook: { url: http://a } }] }",
            "4:73: pools.app.recovery.on_takeover: only a pool with the strategy hot_standby",
        ),
        (
            "",
            "backends: [{ address: 10.0.0.1:80, health_port: 81 }]",
            "4:58: pools.app.backends[0].health_port: the pool has no health_check",
        ),
        (
            "",
            "backends: [{ address: 10.0.0.1:80, disabled: true }]",
            "4:20: pools.app.backends: every backend is disabled",
        ),
        ("", "resolve: {}", "4:57: pools.app.resolve: no backend of this pool is a name"),
        ("", "queue: {}", "4:55: pools.app.queue: a backend without max_connections is never full"),
        (
            "",
            "connect: { timeout: 9s, hedge: off }",
            "4:68: pools.app.connect.timeout: an attempt never gets 9s: connect.deadline (5s)",
        ),
        (
            "",
            "connect: { hedge: 2s }",
            "4:66: pools.app.connect.hedge: no attempt lasts 2s: connect.timeout (1s)",
        ),
    ] {
        let text = file(listener, pool);
        let warnings = warned(&text);
        assert_eq!(warnings.len(), 1, "{text}{warnings:#?}");
        assert!(warnings[0].starts_with(warning), "{text}{warnings:#?}");
    }
}

#[test]
fn what_may_well_be_meant_is_not_told() {
    for (listener, pool) in [
        ("", ""),
        ("max_connections: 1000, timeouts: { idle: 60s }", ""),
        ("timeouts: { idle: 1s }, tcp: { keepalive: off }", ""),
        ("allow: 10.0.0.0/8", "strategy: source_hash"),
        ("allow: 10.0.0.9, accept_proxy_protocol: 10.0.0.9", "strategy: source_hash"),
        ("bind: [127.0.0.1:80, 10.0.0.9:80]", "strategy: source_hash"),
        ("bind: 127.0.0.1:80", "strategy: source_hash, backends: [10.0.0.1:80]"),
        ("", "strategy: hot_standby"),
        ("", "strategy: hot_standby, backends: [\"app:80\"]"),
        ("", "strategy: hot_standby, outlier_detection: off, health_check: {}"),
        (
            "",
            "failover: { failback: manual }, \
             backends: [10.0.0.1:80, { address: 10.0.0.2:80, backup: true }]",
        ),
        ("", "resolve: {}, backends: [\"app:80\"]"),
        ("", "queue: {}, backends: [{ address: 10.0.0.1:80, max_connections: 5 }]"),
        ("", "connect: { timeout: 200ms }"),
    ] {
        let text = file(listener, pool);
        assert_eq!(warned(&text), [""; 0], "{text}");
    }
}

#[test]
fn a_pool_without_a_listener_is_told() {
    let text = file("", "") + "  other: { backends: [10.0.0.1:80] }\n";
    assert_eq!(warned(&text), ["5:10: pools.other: no listener leads to this pool"]);
}

#[test]
fn the_process_and_its_endpoint_are_looked_at() {
    let text = file("", "")
        + "runtime: { max_connections: 1001 }\nadmin: { public_metrics: true }\nlog: {}\n";
    let warnings = warned(&text);
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("5:29: runtime.max_connections: 1001 connections need more"));
    assert!(warnings[1].starts_with("6:26: admin.public_metrics: without token_file"));
}

#[test]
fn what_comes_from_the_defaults_is_told_there() {
    let text =
        format!("defaults: {{ listener: {{ timeouts: {{ idle: 5s }} }} }}\n{}", file("", ""));
    let warnings = warned(&text);
    assert!(warnings[0].starts_with("1:43: listeners.web.timeouts.idle: "), "{warnings:#?}");
    let everywhere = text.replace("pools:", "  two: { bind: 0.0.0.0:81, pool: app }\npools:");
    assert_eq!(warned(&everywhere).len(), 2, "a listener each");
}
