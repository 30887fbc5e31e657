//! Recovery actions: real programs and a real webhook.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{checking, expect_checks, pool, sequence, who};
use crate::support::setup::Scratch;
use crate::support::{
    Answers, Node, PATIENCE, Proxy, SLACK, Setup, TestBackend, eventually, ms, throughout,
};

/// A directory for what actions write.
struct Notes(Scratch);

impl Notes {
    fn new() -> Self {
        Self(Scratch::new())
    }

    /// An action that runs `script` in the directory, with the event and the backend as `$2`, `$3`.
    fn action(&self, script: &str, keys: &str) -> String {
        let directory = self.0.path().display();
        let command = format!(
            "[sh, -c, 'cd \"$1\"; {script}', hook, \"{directory}\", \"{{event}}\", \"{{backend}}\"]"
        );
        format!("{{exec: {{command: {command}{keys}}}}}")
    }

    /// An action that writes a line of the event and the backend.
    fn noting(&self) -> String {
        self.action("echo $2 $3 >> notes", "")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }

    fn lines(&self) -> Vec<String> {
        self.read("notes").lines().map(str::to_owned).collect()
    }
}

fn running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !pid.trim().is_empty() && !stat.is_empty() && !stat.contains(") Z ")
}

/// Two nodes of which the first is checked by `answers`.
fn checked(nodes: &[Node; 2], answers: &Answers, fine: &Answers, keys: &str) -> Setup {
    let port = format!("health_port: {}", answers.port());
    let setup = Setup::to([nodes[0].entry(&port), nodes[1].entry("")]);
    setup.pool(&checking(fine, keys))
}

fn results(proxy: &Proxy) -> Vec<String> {
    let events = proxy.events().into_iter().filter(|event| event.kind == "recovery");
    events.map(|event| event.more.split(" (").next().unwrap().to_owned()).collect()
}

#[test]
fn actions_are_as_many_as_transitions() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    let setup = checked(&nodes, &answers, &fine, ", fall: 2, rise: 2");
    let action = notes.noting();
    let keys = format!("recovery: {{on_evict: [{action}], on_reinstate: [{action}]}}");
    let proxy = setup.pool(&keys).start();
    expect_checks(&answers, 2);
    let mut expected = Vec::new();
    for round in 1..=3 {
        for (script, kind, word) in [("F", "evicted", "evict"), ("P", "reinstated", "reinstate")] {
            answers.go_on(script);
            proxy.expect_told_again(kind, "a", round);
            expected.push(format!("{word} a"));
            eventually(PATIENCE, "the action ran", || notes.lines().len() >= expected.len());
            expect_checks(&answers, 4);
        }
    }
    assert_eq!(notes.lines(), expected);
    let done = results(&proxy);
    assert_eq!(done.iter().filter(|result| *result == "on_evict success").count(), 3, "{done:?}");
    assert_eq!(done.iter().filter(|result| *result == "on_reinstate success").count(), 3);
}

#[test]
fn an_action_is_told_what_happened() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let script =
        "env | grep ^TIDEGATE_ | sort > env; echo \"$4\" \"$5\" > args; ls -l /proc/self/fd > fds";
    let directory = notes.0.path().display();
    let command = format!(
        "[sh, -c, 'cd \"$1\"; {script}', hook, \"{directory}\", \"{{event}}\", \"{{backend}}\", \
         \"{{pool}}|{{host}}|{{port}}\", \"{{cause}}\"]"
    );
    let keys = format!("recovery: {{on_evict: [{{exec: {{command: {command}}}}}]}}");
    let proxy = pool(&nodes).pool(&keys).start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    let told = proxy.expect_told("recovery", "a");
    assert!(told.more.starts_with("on_evict success (attempt 1"), "{told:?}");
    let address = nodes[0].address();
    let (host, port) = address.split_once(':').unwrap();
    assert_eq!(notes.read("args").trim(), format!("app|{host}|{port} outlier"));
    let env = notes.read("env");
    for line in ["EVENT=evict", "POOL=app", "BACKEND=a", "CAUSE=outlier"] {
        assert!(env.contains(&format!("TIDEGATE_{line}\n")), "{env}");
    }
    assert!(!notes.read("fds").contains("socket:"), "{}", notes.read("fds"));
}

#[test]
fn an_action_is_stopped_when_the_state_changes_back() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    // A child of its own: the whole group has to go.
    let script = "sleep 600 & echo $! > child; echo $$ > pid; wait";
    let keys = format!("recovery: {{on_evict: [{}]}}", notes.action(script, ""));
    let proxy = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1").pool(&keys).start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    eventually(PATIENCE, "it runs", || !notes.read("pid").is_empty());
    let (pid, child) = (notes.read("pid"), notes.read("child"));
    assert!(running(&pid) && running(&child));
    answers.go_on("P");
    proxy.expect_told("reinstated", "a");
    proxy.expect_line("recovery actions were stopped");
    eventually(PATIENCE, "it and its child are gone", || !running(&pid) && !running(&child));
    let told = proxy.expect_told("recovery", "a");
    assert!(told.more.starts_with("on_evict cancelled (attempt 1, "), "{told:?}");
    assert_eq!(told.evidence, "stopped: what it was for has passed");
    throughout(ms(200), "nothing else is told", || proxy.told("recovery", "a").len() == 1);
}

/// The second waits for the first, and is left out when that is stopped: one event for the run.
#[test]
fn an_action_whose_turn_never_came_is_told_as_cancelled() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    let failing = notes.action("echo begun >> notes; exit 1", ", attempts: 9, backoff: 10m");
    let keys = format!("recovery: {{on_evict: [{failing}, {}]}}", notes.noting());
    let proxy = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1").pool(&keys).start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    eventually(PATIENCE, "it waits for its second attempt", || notes.lines() == ["begun"]);
    proxy.expect_line("attempt of a recovery action");
    answers.go_on("P");
    let told = proxy.expect_told("recovery", "a");
    assert!(told.more.starts_with("on_evict cancelled (attempt 1, "), "{told:?}");
    throughout(ms(200), "and no other is begun or told", || {
        notes.lines() == ["begun"] && proxy.told("recovery", "a").len() == 1
    });
}

#[test]
fn an_event_names_the_command_as_it_was_run() {
    let nodes = [Node::named("a"), Node::named("b")];
    let command = "[\"true\", \"{event}\", \"{pool}/{backend}\", \"{host}:{port}\", \"{cause}\"]";
    let keys = format!("recovery: {{on_evict: [{{exec: {{command: {command}}}}}]}}");
    let proxy = pool(&nodes).pool(&keys).start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    let told = proxy.expect_told("recovery", "a");
    let ran = format!(": true evict app/a {} outlier", nodes[0].address());
    assert!(told.more.ends_with(&ran), "{told:?}");
}

/// Ejected by traffic, found `unhealthy` by checks a moment later: it is as much out as before, and the
/// restart under way is still what it needs.
#[test]
fn an_action_goes_on_when_the_backend_is_out_for_another_reason_too() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    let script = "echo begun >> notes; until [ -e go ]; do sleep 0.02; done; echo ended >> notes";
    let keys = format!("recovery: {{on_evict: [{}]}}", notes.action(script, ""));
    let proxy = checked(&nodes, &answers, &fine, ", fall: 2").pool(&keys).start();
    expect_checks(&answers, 1);
    expect_checks(&fine, 1);
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    assert_eq!(proxy.expect_told("evicted", "a").cause, "outlier");
    eventually(PATIENCE, "it runs", || notes.lines() == ["begun"]);
    answers.go_on("F");
    proxy.expect_line("\"to\":\"unhealthy\"");
    notes.0.write("go", "");
    eventually(PATIENCE, "it ran to its end, once", || notes.lines() == ["begun", "ended"]);
    proxy.expect_told("recovery", "a");
}

#[test]
fn max_per_hour_suppresses_and_says_so() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    let action = notes.action("echo $2 >> notes", ", max_per_hour: 2");
    let keys = format!("recovery: {{on_evict: [{action}]}}");
    let proxy = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1").pool(&keys).start();
    expect_checks(&answers, 1);
    for round in 1..=4 {
        answers.go_on("F");
        proxy.expect_told_again("evicted", "a", round);
        let ran = round.min(2);
        eventually(PATIENCE, "it ran", || notes.lines().len() == ran);
        eventually(PATIENCE, "it is told", || {
            results(&proxy).iter().filter(|result| *result != "on_evict repaired").count() == round
        });
        answers.go_on("P");
        proxy.expect_told_again("reinstated", "a", round);
    }
    assert_eq!(notes.lines().len(), 2);
    let suppressed =
        results(&proxy).iter().filter(|result| *result == "on_evict suppressed").count();
    assert_eq!(suppressed, 2, "{:?}", results(&proxy));
}

#[test]
fn attempts_are_repeated_until_one_succeeds() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    let script = "echo try >> notes; [ $(wc -l < notes) -ge 3 ]";
    let action = notes.action(script, ", attempts: 5, backoff: 100ms");
    let keys = format!("recovery: {{on_evict: [{action}]}}");
    let proxy = checked(&nodes, &answers, &fine, ", fall: 1").pool(&keys).start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    let start = Instant::now();
    let told = proxy.expect_told("recovery", "a");
    assert!(told.more.starts_with("on_evict success (attempt 3,"), "{told:?}");
    // The backoff doubles: 100 and 200.
    assert!(start.elapsed() > ms(250) && start.elapsed() < ms(300) + 2 * SLACK);
    assert_eq!(notes.lines().len(), 3);
}

/// The restart works: a real one, of the node that was killed.
#[test]
fn a_repair_that_works_is_told_once_the_checks_have_seen_it() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let check =
        "health_check: {interval: 100ms, fast_interval: 50ms, timeout: 100ms, rise: 2, fall: 2}";
    let keys = format!("recovery: {{on_evict: [{}]}}", notes.noting());
    let proxy = pool(&nodes).pool(check).pool(&keys).start();
    super::expect_service_of(&proxy, "a");
    nodes[0].kill();
    eventually(PATIENCE, "the restart is asked for", || notes.lines() == ["evict a"]);
    proxy.expect_told("recovery", "a");
    nodes[0].restart();
    let told = proxy.expect_told_again("recovery", "a", 2);
    assert!(told.more.starts_with("on_evict repaired"), "{told:?}");
    assert_eq!(notes.lines(), ["evict a"]);
}

#[test]
fn a_repair_that_does_not_work_is_told_too() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let check =
        "health_check: {interval: 100ms, fast_interval: 50ms, timeout: 100ms, rise: 2, fall: 2}";
    let keys = format!("recovery: {{on_evict: [{}]}}", notes.noting());
    let proxy = pool(&nodes).pool(check).pool(&keys).start();
    super::expect_service_of(&proxy, "a");
    nodes[0].kill();
    let told = proxy.expect_told_again("recovery", "a", 2);
    assert!(told.more.starts_with("on_evict not repaired"), "{told:?}");
    throughout(ms(400), "and once", || proxy.told("recovery", "a").len() == 2);
}

/// Its checks pass, its connections fail: what put it out decides whether it is repaired.
#[test]
fn one_trial_that_fails_shows_it_though_checks_pass() {
    let nodes = [Node::named("a"), Node::named("b")];
    let (answers, fine, notes) = (Answers::by("P"), Answers::by("P"), Notes::new());
    let keys = format!(
        "recovery: {{on_evict: [{}]}}, outlier_detection: {{base_ejection: 2s, max_ejection: 2s}}",
        notes.noting()
    );
    let proxy = checked(&nodes, &answers, &fine, ", fall: 20").pool(&keys).start();
    expect_checks(&answers, 1);
    expect_checks(&fine, 1);
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    proxy.expect_told("recovery", "a");
    eventually(PATIENCE, "the trial fails", || {
        assert_eq!(who(&proxy), "b");
        proxy.told("recovery", "a").len() == 2
    });
    let told = proxy.expect_told_again("recovery", "a", 2);
    assert!(told.more.starts_with("on_evict not repaired"), "{told:?}");
    assert_eq!(told.evidence, "the trial after the ejection failed");
}

/// Without checks it is the trial that shows it.
#[test]
fn a_trial_that_fails_shows_that_a_repair_has_not_worked() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let keys = format!("recovery: {{on_evict: [{}]}}", notes.noting());
    let proxy = pool(&nodes).pool("outlier_detection: {base_ejection: 300ms}").pool(&keys).start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    proxy.expect_told("recovery", "a");
    eventually(PATIENCE, "the trial fails", || {
        assert_eq!(who(&proxy), "b");
        proxy.told("recovery", "a").len() == 2
    });
    let told = proxy.expect_told_again("recovery", "a", 2);
    assert!(told.more.starts_with("on_evict not repaired"), "{told:?}");
}

#[test]
fn a_pool_that_goes_down_and_comes_up_runs_its_actions() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let action = notes.noting();
    let check =
        "health_check: {interval: 80ms, fast_interval: 40ms, timeout: 80ms, rise: 1, fall: 1}";
    let keys = format!("recovery: {{on_pool_down: [{action}], on_pool_up: [{action}]}}");
    let proxy = pool(&nodes).pool(check).pool(&keys).start();
    super::expect_service_of(&proxy, "b");
    super::expect_service_of(&proxy, "a");
    nodes[0].kill();
    proxy.expect_told("evicted", "a");
    nodes[1].kill();
    proxy.expect_told("evicted", "b");
    eventually(PATIENCE, "down", || notes.lines() == ["pool_down b"]);
    nodes[0].restart();
    eventually(PATIENCE, "up", || notes.lines() == ["pool_down b", "pool_up a"]);
    nodes[1].restart();
    proxy.expect_told("reinstated", "b");
    throughout(ms(200), "and no more", || notes.lines().len() == 2);
}

#[test]
fn a_takeover_runs_its_actions_after_traffic_too() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let slow = notes.action("sleep 0.3; echo $2 $3 >> notes", "");
    let keys = format!("recovery: {{on_takeover: [{slow}]}}");
    let proxy = super::standby(&nodes).pool(&keys).start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 5), "bbbbb");
    assert!(notes.lines().is_empty(), "traffic does not wait for it");
    eventually(PATIENCE, "it ran", || notes.lines() == ["takeover b"]);
}

#[test]
fn a_webhook_is_posted_as_json() {
    let nodes = [Node::named("a"), Node::named("b")];
    let posted = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&posted);
    let server = TestBackend::scripted(move |peer| {
        let mut text = Vec::new();
        while !text.ends_with(b"}") {
            let mut buffer = [0; 4096];
            match peer.try_read(&mut buffer) {
                Ok(count @ 1..) => text.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        seen.lock().unwrap().push(String::from_utf8(text).unwrap());
        let _ = peer.try_send("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
    });
    let hook = format!("{{webhook: {{url: \"http://{}/hook\"}}}}", server.address());
    let proxy = pool(&nodes).pool(&format!("recovery: {{on_evict: [{hook}]}}")).start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    let told = proxy.expect_told("recovery", "a");
    assert!(told.more.starts_with("on_evict success"), "{told:?}");
    let posted = posted.lock().unwrap();
    let (head, body) = posted[0].split_once("\r\n\r\n").unwrap();
    assert!(posted.len() == 1 && head.starts_with("POST /hook HTTP/1.1\r\n"), "{posted:?}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["event"], &body["backend"]), (&"evict".into(), &"a".into()), "{body}");
    assert_eq!((&body["pool"], &body["cause"]), (&"app".into(), &"outlier".into()), "{body}");
}

/// While an action hangs, connections are served as ever.
#[test]
fn an_action_that_hangs_holds_nobody_up() {
    let nodes = [Node::named("a"), Node::named("b")];
    let notes = Notes::new();
    let keys = format!("recovery: {{on_evict: [{}]}}", notes.action("exec sleep 600", ""));
    let proxy = pool(&nodes).pool(&keys).start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    let start = Instant::now();
    assert_eq!(sequence(&proxy, 50), "b".repeat(50));
    assert!(start.elapsed() < ms(500) + SLACK, "{:?}", start.elapsed());
}
