//! What a process was stopped at in the middle of: actions across an upgrade, a restart and a stop.

use std::time::Instant;

use rustix::process::Signal;

use super::{checking, expect_checks, expect_service_of, pool, standby, who};
use crate::support::setup::Scratch;
use crate::support::{Answers, Node, PATIENCE, Proxy, Setup, eventually, ms, throughout};
use crate::upgrade::upgrade;

/// A directory where actions write what they do and wait for what they are told.
struct Stage(Scratch);

impl Stage {
    fn new() -> Self {
        Self(Scratch::new())
    }

    /// An action that runs `script` in the directory, with the backend as `$2`.
    fn action(&self, script: &str, keys: &str) -> String {
        let directory = self.0.path().display();
        let command =
            format!("[sh, -c, 'cd \"$1\"; {script}', hook, \"{directory}\", \"{{backend}}\"]");
        format!("{{exec: {{command: {command}{keys}}}}}")
    }

    /// An action before traffic that says for whom it begins and ends as `end` says: at once, or once
    /// there is a file of that name.
    fn hook(&self, end: &str) -> String {
        let action = self.action(&format!("echo $2 >> begun; {end}"), ", before_traffic: true");
        format!("recovery: {{on_takeover: [{action}]}}")
    }

    fn begun(&self) -> String {
        let begun = std::fs::read_to_string(self.0.path().join("begun")).unwrap_or_default();
        begun.replace('\n', "")
    }

    #[track_caller]
    fn expect_begun(&self, names: &str) {
        eventually(PATIENCE, "the action runs", || self.begun() == names);
    }

    fn state_file(&self) -> String {
        format!("state_file: \"{}/state.json\"", self.0.path().display())
    }

    fn saved(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.0.path().join("state.json")).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()["pools"]["app"].clone()
    }
}

const UNTIL_GO: &str = "until [ -e go ]; do sleep 0.02; done";

#[track_caller]
fn stop(mut proxy: Proxy) {
    proxy.signal(Signal::TERM);
    assert!(proxy.expect_exit(PATIENCE).success());
}

fn pair() -> [Node; 2] {
    ["a", "b"].map(Node::named)
}

#[test]
fn a_standby_whose_action_failed_has_no_traffic_after_an_upgrade() {
    let (nodes, stage) = (pair(), Stage::new());
    let mut proxy = standby(&nodes).pool(&stage.hook("exit 1")).start();
    assert_eq!(who(&proxy), "a");
    nodes[0].kill();
    assert_eq!(who(&proxy), "");
    stage.expect_begun("b");
    let _successor = upgrade(&mut proxy);
    throughout(ms(300), "nobody serves", || who(&proxy).is_empty());
    assert_eq!((nodes[1].accepted(), stage.begun().as_str()), (0, "b"));
}

#[test]
fn a_standby_whose_action_failed_has_no_traffic_after_a_restart() {
    let (nodes, stage) = (pair(), Stage::new());
    let setup = standby(&nodes).pool(&stage.hook("exit 1")).head(&stage.state_file());
    let proxy = setup.clone().start();
    assert_eq!(who(&proxy), "a");
    nodes[0].kill();
    assert_eq!(who(&proxy), "");
    stop(proxy);
    assert_eq!(stage.saved()["barred"][0], "b");
    let proxy = setup.start();
    throughout(ms(300), "nobody serves", || who(&proxy).is_empty());
    assert_eq!((nodes[1].accepted(), stage.begun().as_str()), (0, "b"));
}

#[test]
fn an_action_before_traffic_begins_anew_after_an_upgrade() {
    let (nodes, stage) = (pair(), Stage::new());
    let setup = standby(&nodes).pool(&stage.hook(UNTIL_GO)).pool("queue: {timeout: 20s}");
    let mut proxy = setup.runtime("shutdown_grace: 0s").start();
    nodes[0].kill();
    let early = proxy.client();
    stage.expect_begun("b");
    let _successor = upgrade(&mut proxy);
    drop(early);
    let client = proxy.client();
    stage.expect_begun("bb");
    client.expect_silence(ms(100));
    assert_eq!(nodes[1].accepted(), 0);
    stage.0.write("go", "");
    client.expect("b");
    let told = proxy.expect_told("takeover", "b");
    assert_eq!(told.cause, "outlier", "why it moved is not forgotten: {told:?}");
}

#[test]
fn an_action_before_traffic_begins_anew_after_a_restart() {
    let (nodes, stage) = (pair(), Stage::new());
    let setup = standby(&nodes).pool(&stage.hook(UNTIL_GO)).head(&stage.state_file());
    let setup = setup.pool("queue: {timeout: 20s}").runtime("shutdown_grace: 0s");
    let proxy = setup.clone().start();
    nodes[0].kill();
    let early = proxy.client();
    stage.expect_begun("b");
    stop(proxy);
    drop(early);
    assert_eq!(stage.saved()["preparing"]["backend"], "b");
    let proxy = setup.start();
    let client = proxy.client();
    stage.expect_begun("bb");
    client.expect_silence(ms(100));
    assert_eq!(nodes[1].accepted(), 0);
    stage.0.write("go", "");
    client.expect("b");
    expect_service_of(&proxy, "b");
}

/// Two nodes of which the first is checked by `answers`.
fn checked(nodes: &[Node; 2], answers: &Answers, fine: &Answers) -> Setup {
    let port = format!("health_port: {}", answers.port());
    let setup = Setup::to([nodes[0].entry(&port), nodes[1].entry("")]);
    setup.pool(&checking(fine, ", fall: 2, rise: 1"))
}

/// The backend is restored as `unhealthy`: nothing evicts it again, so nothing else would repair it.
#[test]
fn a_repair_begins_anew_after_an_upgrade_and_its_verdict_is_told() {
    let (nodes, stage) = (pair(), Stage::new());
    let (answers, fine) = (Answers::by("P"), Answers::by("P"));
    let action = stage.action(&format!("echo $2 >> begun; {UNTIL_GO}"), "");
    let setup = checked(&nodes, &answers, &fine);
    let mut proxy = setup.pool(&format!("recovery: {{on_evict: [{action}]}}")).start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    stage.expect_begun("a");
    let _successor = upgrade(&mut proxy);
    stage.expect_begun("aa");
    stage.0.write("go", "");
    eventually(PATIENCE, "it is done", || {
        proxy.told("recovery", "a").iter().any(|told| told.more.starts_with("on_evict success"))
    });
    answers.go_on("P");
    eventually(PATIENCE, "it is verified", || {
        proxy.told("recovery", "a").iter().any(|told| told.more.starts_with("on_evict repaired"))
    });
    assert_eq!(proxy.told("evicted", "a").len(), 1);
}

/// Those of the list that were through are not run again, and the limit goes on.
#[test]
fn a_repair_goes_on_after_a_restart_where_it_was_stopped() {
    let (nodes, stage) = (pair(), Stage::new());
    let (answers, fine) = (Answers::by("P"), Answers::by("P"));
    let first = stage.action("echo $2 >> first", ", max_per_hour: 1");
    let second = stage.action(&format!("echo $2 >> begun; {UNTIL_GO}"), "");
    let keys = format!("recovery: {{on_evict: [{first}, {second}]}}");
    let setup = checked(&nodes, &answers, &fine).pool(&keys).head(&stage.state_file());
    let proxy = setup.clone().start();
    expect_checks(&answers, 1);
    answers.go_on("F");
    stage.expect_begun("a");
    stop(proxy);
    let proxy = setup.start();
    stage.expect_begun("aa");
    stage.0.write("go", "");
    answers.go_on("P");
    proxy.expect_told("reinstated", "a");
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    eventually(PATIENCE, "the limit is reached", || {
        proxy.told("recovery", "a").iter().any(|told| told.more.starts_with("on_evict suppressed"))
    });
    let first = std::fs::read_to_string(stage.0.path().join("first")).unwrap();
    assert_eq!(first, "a\n");
}

fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !pid.trim().is_empty() && !stat.is_empty() && !stat.contains(") Z ")
}

/// As the page says: `SIGTERM`, then, two seconds later, `SIGKILL`.
#[test]
fn a_stop_ends_actions_by_sigterm_and_then_by_sigkill() {
    for (trap, is_stubborn) in [("echo $2 >> ended; exit 1", false), ("echo $2 >> ended", true)] {
        let (nodes, stage) = (pair(), Stage::new());
        let script = format!("trap \"{trap}\" TERM; echo $$ > pid; while :; do sleep 0.02; done");
        let keys = format!("recovery: {{on_evict: [{}]}}", stage.action(&script, ""));
        let mut proxy = pool(&nodes).pool(&keys).start();
        nodes[0].kill();
        let read = |name| std::fs::read_to_string(stage.0.path().join(name)).unwrap_or_default();
        eventually(PATIENCE, "it runs", || {
            let _ = who(&proxy);
            is_running(&read("pid"))
        });
        let start = Instant::now();
        proxy.signal(Signal::TERM);
        assert!(proxy.expect_exit(PATIENCE).success());
        assert_eq!(read("ended"), "a\n", "it is asked first");
        assert!(!is_running(&read("pid")));
        assert_eq!(start.elapsed() > ms(1_900), is_stubborn, "{:?}", start.elapsed());
    }
}
