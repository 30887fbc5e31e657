//! What is said of takeovers and of who is usable, and when.

use serde_json::Value;

use super::{checking, client_of, expect_service_of, pool, standby, who};
use crate::support::admin::Admin;
use crate::support::cli::tidegate;
use crate::support::setup::Scratch;
use crate::support::{
    Answers, End, Node, PATIENCE, Proxy, Setup, eventually, ms, pause, throughout,
};

const HEAD: &str = "admin: {bind: \"127.0.0.1:0\"}";
const NEXT: &str = "/api/v1/pools/app/failover";

/// A script that writes down what it was told, and then waits until it may go on.
fn hook(scratch: &Scratch, keys: &str) -> String {
    let script = "cd \"$1\"; echo $TIDEGATE_BACKEND: $TIDEGATE_CAUSE: $TIDEGATE_EVIDENCE >> told; \
                  until [ -e open ]; do sleep 0.01; done";
    let directory = scratch.path().display();
    format!("{{exec: {{command: [sh, -c, '{script}', hook, \"{directory}\"]{keys}}}}}")
}

fn told(scratch: &Scratch) -> String {
    std::fs::read_to_string(scratch.path().join("told")).unwrap_or_default()
}

/// By name: usable, in rotation, why.
fn explained(admin: &Admin) -> Vec<(String, bool, bool, String)> {
    let path = "/api/v1/explain?listener=web&source=127.0.0.1";
    let explained = admin.get(path).ok();
    let status = admin.get("/api/v1/pools/app").ok();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let both = explained["candidates"].as_array().unwrap().iter();
    both.zip(status["backends"].as_array().unwrap())
        .map(|(explained, status)| {
            assert_eq!(explained["backend"], status["name"]);
            assert_eq!(explained["usable"], status["usable"], "{explained} but {status}");
            let usable = status["usable"].as_bool().unwrap();
            let in_rotation = status["in_rotation"].as_bool().unwrap();
            (text(&status["name"]), usable, in_rotation, text(&explained["reason"]))
        })
        .collect()
}

/// The same as one text, without what is left of a reason after its first words.
fn usability(admin: &Admin) -> String {
    let words = explained(admin).into_iter().map(|(name, usable, in_rotation, _)| {
        let usable = if usable { "usable" } else { "not" };
        format!("{name} {usable}{}", if in_rotation { " in" } else { "" })
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The demotion goes on for long after.
#[test]
fn a_takeover_is_counted_at_once_and_reported_with_its_first_connection() {
    let nodes = ["a", "b"].map(Node::named);
    let keys = "failover: {demotion: {connections: close, grace: 1m}}";
    let proxy = standby(&nodes).pool(keys).head(HEAD).start();
    let admin = Admin::of(&proxy);
    let clients: Vec<_> = (0..4).map(|_| client_of(&proxy, "a")).collect();
    admin.post(NEXT, "{}").ok();
    let total = admin.metric("tidegate_takeovers_total", &["pool=\"app\""]);
    assert!((total - 1.0).abs() < 0.1, "{total}");
    throughout(ms(300), "nobody has connected", || proxy.told("takeover", "b").is_empty());
    let start = std::time::Instant::now();
    assert_eq!(who(&proxy), "b");
    let report = proxy.expect_told("takeover", "b");
    assert!(start.elapsed() < ms(1_500), "{:?}", start.elapsed());
    assert_eq!(report.number("cut"), 4, "{report:?}");
    assert!(report.more.ends_with("(4 of those cut are yet to be closed)"), "{report:?}");
    let events = admin.get("/api/v1/events").ok();
    let event = events.as_array().unwrap().iter().find(|e| e["kind"] == "takeover").unwrap();
    assert_eq!(event["demoting"], 4, "{event}");
    let count = admin.metric("tidegate_takeover_seconds_count", &["pool=\"app\""]);
    assert!((count - 1.0).abs() < 0.1, "{count}");
    // The role goes back: the demotion is over, and nothing is told as cut.
    admin.post(NEXT, "{}").ok();
    assert_eq!(who(&proxy), "a");
    assert_eq!(proxy.expect_told("takeover", "a").number("cut"), 0);
    clients.iter().for_each(|client| client.expect_echo("still here"));
}

#[test]
fn actions_before_traffic_are_told_the_cause_of_the_takeover() {
    let (nodes, scratch) = (["a", "b"].map(Node::named), Scratch::new());
    scratch.write("open", "");
    let hook = hook(&scratch, ", before_traffic: true");
    let keys = format!("recovery: {{on_takeover: [{hook}]}}");
    let proxy = standby(&nodes).pool(&keys).head(HEAD).start();
    let admin = Admin::of(&proxy);
    admin.post(NEXT, "{}").ok();
    expect_service_of(&proxy, "b");
    nodes[1].kill();
    expect_service_of(&proxy, "a");
    let expected = "b: operator: operator\na: outlier: 3 connections failed in a row: refused\n";
    assert_eq!(told(&scratch), expected);
}

#[test]
fn a_move_that_waits_for_an_action_says_whom_it_prepares() {
    let (nodes, scratch) = (["a", "b"].map(Node::named), Scratch::new());
    let hook = hook(&scratch, ", before_traffic: true");
    let keys = format!("recovery: {{on_takeover: [{hook}]}}");
    let proxy = standby(&nodes).pool(&keys).head(HEAD).start();
    let admin = Admin::of(&proxy);
    assert_eq!(who(&proxy), "a");
    let url = format!("http://{}", admin.address());
    let done = tidegate(&["failover", "app", "--admin", &url]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.starts_with("b is being prepared in pool app"), "{done:?}");
    let status = admin.get("/api/v1/pools/app").ok();
    assert_eq!((&status["active"], &status["preparing"]), (&Value::Null, &"b".into()), "{status}");
    assert_eq!(usability(&admin), "a usable, b usable");
    let reasons: Vec<_> = explained(&admin).into_iter().map(|(.., reason)| reason).collect();
    assert_eq!(reasons[0], "standby: b is about to be active");
    assert!(reasons[1].starts_with("about to be active"), "{reasons:?}");
    scratch.write("open", "");
    expect_service_of(&proxy, "b");
    let status = admin.get("/api/v1/pools/app").ok();
    assert_eq!((&status["active"], status.get("preparing")), (&"b".into(), None), "{status}");
    assert_eq!(usability(&admin), "a usable, b usable in");
    assert_eq!(explained(&admin)[0].3, "standby: b is active");
}

#[test]
fn an_action_is_told_as_it_was_run_whatever_is_configured_when_it_ends() {
    let (nodes, scratch) = (["a", "b"].map(Node::named), Scratch::new());
    let with = |action: &str| {
        let keys = format!("recovery: {{on_takeover: [{action}]}}");
        standby(&nodes).pool(&keys).head(HEAD)
    };
    let proxy = with(&hook(&scratch, "")).start();
    let admin = Admin::of(&proxy);
    admin.post(NEXT, "{}").ok();
    eventually(PATIENCE, "the action runs", || !told(&scratch).is_empty());
    write(&proxy, &with("{exec: {command: [/bin/false]}}"));
    admin.post("/api/v1/reload", "{}").ok();
    scratch.write("open", "");
    let event = proxy.expect_told("recovery", "b");
    assert!(event.more.contains("on_takeover success"), "{event:?}");
    assert!(event.more.contains("TIDEGATE_BACKEND") && !event.more.contains("false"), "{event:?}");
}

#[test]
fn what_ran_for_the_active_role_is_stopped_with_the_hot_standby() {
    for before in ["", ", before_traffic: true"] {
        let (nodes, scratch) = (["a", "b"].map(Node::named), Scratch::new());
        let keys = format!("recovery: {{on_takeover: [{}]}}", hook(&scratch, before));
        let proxy = standby(&nodes).pool(&keys).head(HEAD).start();
        let admin = Admin::of(&proxy);
        admin.post(NEXT, "{}").ok();
        eventually(PATIENCE, "the action runs", || !told(&scratch).is_empty());
        write(&proxy, &pool(&nodes).head(HEAD));
        admin.post("/api/v1/reload", "{}").ok();
        let event = proxy.expect_told("recovery", "b");
        assert!(event.more.contains("on_takeover cancelled"), "{event:?}");
        assert!(event.more.contains("TIDEGATE_BACKEND"), "{event:?}");
        let found: String = (0..4).map(|_| who(&proxy)).collect();
        assert!(found.contains('a') && found.contains('b'), "{found}");
    }
}

fn write(proxy: &Proxy, setup: &Setup) {
    std::fs::write(proxy.directory().join("tidegate.yaml"), setup.file()).unwrap();
}

#[test]
fn status_and_explain_agree_on_who_is_usable() {
    // A priority that is not in use, and a weight of 0.
    let nodes = ["a", "b", "c"].map(Node::named);
    let entries = [nodes[0].entry(""), nodes[1].entry("backup: true"), nodes[2].entry("weight: 0")];
    let proxy = Setup::to(entries).head(HEAD).start();
    let admin = Admin::of(&proxy);
    assert_eq!(usability(&admin), "a usable in, b usable, c usable");
    let reasons: Vec<_> = explained(&admin).into_iter().map(|(.., reason)| reason).collect();
    assert_eq!(reasons[1], "priority 0 is in use, it has priority 1");
    assert_eq!(reasons[2], "its weight is 0");
    admin.post("/api/v1/pools/app/backends/a/drain", "{}").ok();
    assert_eq!(usability(&admin), "a not, b usable in, c usable");
    assert_eq!(explained(&admin)[0].3, "draining: operator");
}

/// The answers of `b` come too late to be known.
#[test]
fn one_that_is_unknown_is_usable_while_its_priority_has_no_healthy_one() {
    let nodes = ["a", "b"].map(Node::named);
    let (fine, slow) = (Answers::by("P"), Answers::by("S"));
    let entry = |(node, answers): (&Node, &Answers)| {
        node.entry(&format!("health_port: {}", answers.port()))
    };
    let check = checking(&fine, "").replace("timeout: 400ms", "timeout: 8s");
    let setup = Setup::to(nodes.iter().zip([&fine, &slow]).map(entry));
    let proxy = setup.pool(&check).head(HEAD).start();
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "a is healthy", || usability(&admin) == "a usable in, b not");
    let reason = &explained(&admin)[1].3;
    assert!(reason.starts_with("unknown, and its priority has a healthy one"), "{reason}");
    admin.post("/api/v1/pools/app/backends/a/drain", "{}").ok();
    assert_eq!(usability(&admin), "a not, b usable in");
}

#[test]
fn panic_uses_who_is_not_usable_and_says_so() {
    let nodes = [Node::named("a"), Node::dead("b")];
    let check = "health_check: {interval: 60ms, fast_interval: 30ms, fall: 1, jitter: 0}";
    let proxy = pool(&nodes).pool(check).pool("panic_threshold: 80").head(HEAD).start();
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "panic", || usability(&admin) == "a usable in, b not in");
    let why = admin.get("/api/v1/explain?listener=web&source=127.0.0.1").ok()["why"].to_string();
    assert!(why.contains("panic_threshold"), "{why}");
    let reason = &explained(&admin)[1].3;
    assert!(reason.contains("panic_threshold") && reason.contains("unhealthy"), "{reason}");
}

#[test]
fn a_state_that_goes_on_has_begun_at_one_moment() {
    let nodes = ["a", "b"].map(Node::named);
    let proxy = pool(&nodes).head(HEAD).start();
    let admin = Admin::of(&proxy);
    let since = || admin.get("/api/v1/pools/app").ok()["backends"][0]["since"].to_string();
    let first = since();
    for _ in 0..60 {
        assert_eq!(since(), first);
        pause(ms(1));
    }
    pause(ms(2));
    admin.post("/api/v1/pools/app/backends/a/drain", "{}").ok();
    assert_ne!(since(), first);
}

#[test]
fn connections_of_what_there_is_not_are_not_found() {
    let nodes = ["a", "b"].map(Node::named);
    let proxy = pool(&nodes).head(HEAD).start();
    let admin = Admin::of(&proxy);
    let found = |query: &str| admin.get(&format!("/api/v1/connections?{query}")).code;
    for known in ["pool=app", "backend=b", "pool=app&backend=a"] {
        assert_eq!(found(known), 200, "{known}");
    }
    for unknown in ["pool=nix", "backend=nix", "pool=app&backend=nix", "pool=nix&backend=a"] {
        assert_eq!(found(unknown), 404, "{unknown}");
    }
    // What was configured is known by its connections.
    let client = client_of(&proxy, "a");
    write(&proxy, &pool(&nodes[1..]).head(HEAD));
    admin.post("/api/v1/reload", "{}").ok();
    assert_eq!(found("backend=a"), 200);
    admin.post("/api/v1/pools/app/backends/a/kill", "{}").ok();
    client.expect_end(End::Fin);
    eventually(PATIENCE, "it is forgotten", || found("backend=a") == 404);
}
