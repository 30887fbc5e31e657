//! What is between the keys of health, failover and recovery.

use std::time::Duration;

use super::super::model::{HealthCheck, OutlierDetection};
use super::super::problem::{Path, Problems, show};
use super::super::scalar::boolean;
use super::super::tree::Node;
use super::super::unit::{parse_duration, print_duration};
use super::address_of;

/// Checks a pool.
pub(super) fn check(pool: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    if let Some(check) = pool.get("health_check") {
        let path = path.key("health_check");
        check_intervals(check, &path, problems);
        check_port(pool, check, &path, problems);
        if let Some(probe) = check.get("probe") {
            check_probe(pool, probe, &path.key("probe"), problems);
        }
    }
    if let Some(outlier) = pool.get("outlier_detection") {
        check_ejections(outlier, &path.key("outlier_detection"), problems);
    }
    for (index, backend) in pool.get("backends").map_or(&[][..], Node::items).iter().enumerate() {
        let path = path.key("backends");
        check_backend(backend, &path.index(index), problems);
    }
    if let Some(recovery) = pool.get("recovery") {
        check_recovery(pool, recovery, &path.key("recovery"), problems);
    }
}

/// A faster pace that is slower.
fn check_intervals(check: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let Some(node) = check.get("fast_interval") else { return };
    let interval = duration(check, "interval", HealthCheck::default().interval);
    let (Some(interval), Some(fast)) = (interval, node.text().and_then(period)) else { return };
    if fast > interval {
        problems.add(node.pos, &path.key("fast_interval"), || {
            let interval = print_duration(interval);
            format!(
                "{} is longer than interval ({interval}); expected at most that",
                print_duration(fast)
            )
        });
    }
}

/// A port where nothing has one.
fn check_port(pool: &Node<'_>, check: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let Some(port) = check.get("port") else { return };
    let backends = pool.get("backends").map_or(&[][..], Node::items);
    if !backends.is_empty() && backends.iter().all(is_unix) {
        problems.add(port.pos, &path.key("port"), || {
            "every backend of this pool is a unix socket, which has no ports; leave it out".into()
        });
    }
}

fn check_probe(pool: &Node<'_>, probe: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    if let Some(exec) = probe.get("exec") {
        check_command(exec, &path.key("exec"), problems);
    }
    let http = probe.get("http");
    if let Some((http, body)) = http.and_then(|http| Some((http, http.get("expect_body")?)))
        && http.get("method").and_then(Node::text) == Some("HEAD")
    {
        problems.add(body.pos, &path.key("http").key("expect_body"), || {
            "the answer to HEAD has no body; leave it out, or take the method GET".into()
        });
    }
    let is_tls = probe.text() == Some("tls") || probe.get("tls").is_some();
    let options = probe.get("tls");
    let verify = options.and_then(|tls| tls.get("verify")).map(|node| node.text().map(boolean));
    let is_verified = matches!(verify, None | Some(Some(Some(true))));
    let is_named = options.is_some_and(|tls| tls.get("server_name").is_some());
    let backends = pool.get("backends").map_or(&[][..], Node::items);
    if is_tls && is_verified && !is_named && backends.iter().any(is_unix) {
        problems.add(probe.pos, path, || {
            "a unix socket has no name that its certificate could be verified for; give \
             server_name, or verify: false"
                .into()
        });
    }
}

fn check_ejections(outlier: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let (base, max) = (outlier.get("base_ejection"), outlier.get("max_ejection"));
    let Some((key, node)) =
        base.map(|node| ("base_ejection", node)).or(max.map(|node| ("max_ejection", node)))
    else {
        return;
    };
    let default = OutlierDetection::default();
    let base = duration(outlier, "base_ejection", default.base_ejection);
    let max = duration(outlier, "max_ejection", default.max_ejection);
    let (Some(base), Some(max)) = (base, max) else { return };
    if base > max {
        problems.add(node.pos, &path.key(key), || {
            format!(
                "the first ejection ({}) is longer than the longest ({}); expected base_ejection \
                 to be at most max_ejection",
                print_duration(base),
                print_duration(max)
            )
        });
    }
}

fn check_backend(backend: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    if let Some(port) = backend.get("health_port").filter(|_| is_unix(backend)) {
        problems.add(port.pos, &path.key("health_port"), || {
            "a unix socket has no ports; leave it out".into()
        });
    }
    if let (Some(backup), Some(_)) = (backend.get("backup"), backend.get("priority")) {
        problems.add(backup.pos, &path.key("backup"), || {
            "\"backup\" stands for priority 1, and \"priority\" is given too; leave one of them out"
                .into()
        });
    }
}

fn check_recovery(pool: &Node<'_>, recovery: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let strategy = pool.get("strategy");
    let strategy = strategy.and_then(|node| {
        node.text().or_else(|| node.entries().first().map(|entry| entry.key.as_ref()))
    });
    for list in recovery.entries() {
        let path = path.key(&list.key);
        for (index, action) in list.value.items().iter().enumerate() {
            let Some(exec) = action.get("exec") else { continue };
            let path = path.index(index);
            let path = path.key("exec");
            check_command(exec, &path, problems);
            let before = exec.get("before_traffic");
            let is_on = |node: &&Node<'_>| node.text().and_then(boolean) == Some(true);
            let Some(before) = before.filter(is_on) else { continue };
            let path = path.key("before_traffic");
            if list.key != "on_takeover" {
                problems.add(before.pos, &path, || {
                    format!("traffic waits for on_takeover only, not for {}", show(&list.key))
                });
            } else if strategy != Some("hot_standby") {
                problems.add(before.pos, &path, || {
                    "traffic waits only where one backend is active; expected strategy: \
                     hot_standby in this pool"
                        .into()
                });
            }
        }
    }
}

/// A command without a program.
fn check_command(exec: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let Some(first) = exec.get("command").and_then(|command| command.items().first()) else {
        return;
    };
    if first.text().is_some_and(|program| program.trim().is_empty()) {
        let path = path.key("command");
        problems.add(first.pos, &path.index(0), || {
            "the name of the program is empty; expected a path or a name on PATH".into()
        });
    }
}

fn is_unix(backend: &Node<'_>) -> bool {
    address_of(backend).and_then(Node::text).is_some_and(|text| text.starts_with("unix:"))
}

fn period(text: &str) -> Option<Duration> {
    parse_duration(text).ok()
}

/// The duration of a key; `None` where it cannot be read.
fn duration(section: &Node<'_>, key: &str, default: Duration) -> Option<Duration> {
    section.get(key).map_or(Some(default), |node| node.text().and_then(period))
}
