//! [RL-4] What survives a restart: the state file.

use rustix::process::Signal;

use super::{checking, expect_checks, expect_service_of, sequence, who};
use crate::support::setup::Scratch;
use crate::support::{Answers, Node, PATIENCE, Proxy, Setup, eventually, ms, pause};

/// A state file that is not there yet.
struct File {
    scratch: Scratch,
}

impl File {
    fn new() -> Self {
        Self { scratch: Scratch::new() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.scratch.path().join("state.json")
    }

    fn key(&self) -> String {
        format!("state_file: \"{}\"", self.path().display())
    }

    fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&std::fs::read_to_string(self.path()).ok()?).ok()
    }

    /// Waits until the pool `app` is written so that `holds`.
    #[track_caller]
    fn expect(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        eventually(PATIENCE, what, || self.json().is_some_and(|json| holds(&json["pools"]["app"])));
    }
}

/// Two nodes with checks of their own.
struct World {
    nodes: [Node; 2],
    answers: [Answers; 2],
    file: File,
}

impl World {
    fn new() -> Self {
        let nodes = ["a", "b"].map(Node::named);
        Self { nodes, answers: [Answers::by("P"), Answers::by("P")], file: File::new() }
    }

    fn setup(&self, keys: &str) -> Setup {
        let entry = |(node, answers): (&Node, &Answers)| {
            node.entry(&format!("health_port: {}", answers.port()))
        };
        let setup = Setup::to(self.nodes.iter().zip(&self.answers).map(entry));
        setup
            .pool(&checking(&self.answers[0], ", fall: 1, rise: 2"))
            .pool(keys)
            .head(&self.file.key())
    }
}

fn stop(mut proxy: Proxy) {
    proxy.signal(Signal::TERM);
    assert!(proxy.expect_exit(PATIENCE).success());
}

fn kill(mut proxy: Proxy) {
    proxy.signal(Signal::KILL);
    proxy.expect_exit(PATIENCE);
}

#[test]
fn a_restart_does_not_move_the_active_role() {
    for end in [stop, kill] {
        let world = World::new();
        let setup = world.setup("strategy: hot_standby");
        let proxy = setup.clone().start();
        expect_checks(&world.answers[0], 1);
        assert_eq!(who(&proxy), "a");
        world.answers[0].go_on("F");
        expect_service_of(&proxy, "b");
        world.answers[0].go_on("P");
        proxy.expect_told("reinstated", "a");
        world.file.expect("b is active", |pool| {
            pool["active"] == "b" && pool["backends"]["a"]["state"] == "healthy"
        });
        end(proxy);
        let before = world.nodes[0].accepted();
        let proxy = setup.start();
        assert_eq!(sequence(&proxy, 10), "b".repeat(10));
        assert_eq!(world.nodes[0].accepted(), before);
        proxy.expect_line("state restored");
        assert!(proxy.events().is_empty(), "no takeover: {:?}", proxy.events());
    }
}

/// The first client comes as soon as it listens, long before the first check could answer.
#[test]
fn a_restart_sends_nothing_to_a_backend_that_is_known_to_be_down() {
    for (end, strategy) in [(stop as fn(Proxy), "round_robin"), (kill, "hot_standby")] {
        let world = World::new();
        let setup = world.setup(&format!("strategy: {strategy}"));
        let proxy = setup.clone().start();
        expect_checks(&world.answers[0], 1);
        world.answers[0].go_on("F");
        proxy.expect_told("evicted", "a");
        world
            .file
            .expect("a is known to be down", |pool| pool["backends"]["a"]["state"] == "unhealthy");
        end(proxy);
        world.answers[0].go_on("S");
        let before = world.nodes[0].accepted();
        let proxy = setup.clone().start();
        assert_eq!(sequence(&proxy, 10), "b".repeat(10));
        assert_eq!(world.nodes[0].accepted(), before);
        // It comes back by evidence, `rise` passes of it, as ever.
        world.answers[0].go_on("P");
        let told = proxy.expect_told("reinstated", "a");
        assert_eq!(told.evidence, "2 checks passed in a row");
    }
}

/// [RL-4] One of three is known to be down and another ejected; the third is active, and stays so.
#[test]
fn ten_restarts_in_a_row_move_no_role_and_send_nothing_to_who_is_down() {
    let (nodes, file) = (["a", "b", "c"].map(Node::named), File::new());
    let answers = ["P", "P", "P"].map(Answers::by);
    let entry = |(node, answers): (&Node, &Answers)| {
        node.entry(&format!("health_port: {}", answers.port()))
    };
    let ejection = "base_ejection: 1h, max_ejection: 1h, max_ejected_percent: 100";
    let setup = Setup::to(nodes.iter().zip(&answers).map(entry))
        .pool(&checking(&answers[0], ", fall: 1, rise: 2"))
        .pool(&format!("strategy: hot_standby, outlier_detection: {{{ejection}}}"))
        .head(&file.key());
    let mut proxy = setup.clone().start();
    answers.iter().for_each(|answers| expect_checks(answers, 1));
    answers[0].go_on("F");
    expect_service_of(&proxy, "b");
    nodes[1].kill();
    expect_service_of(&proxy, "c");
    nodes[1].restart();
    file.expect("what is known of all", |pool| {
        let state = |name: &str| pool["backends"][name]["state"].clone();
        pool["active"] == "c" && state("a") == "unhealthy" && state("b") == "ejected"
    });
    let before = [nodes[0].accepted(), nodes[1].accepted()];
    for round in 0..10 {
        if round % 2 == 0 {
            stop(proxy);
        } else {
            kill(proxy);
        }
        proxy = setup.clone().start();
        assert_eq!(sequence(&proxy, 5), "ccccc", "restart {round}");
        assert!(proxy.events().is_empty(), "restart {round}: {:?}", proxy.events());
        // Not before the checks have said something, too.
        answers.iter().for_each(|answers| expect_checks(answers, 1));
        assert_eq!(sequence(&proxy, 5), "ccccc", "restart {round}");
    }
    assert_eq!([nodes[0].accepted(), nodes[1].accepted()], before);
}

#[test]
fn an_ejection_goes_on_after_a_restart() {
    let (nodes, file) = ([Node::named("a"), Node::named("b")], File::new());
    let setup = Setup::to(nodes.iter().map(|node| node.entry("")));
    let setup = setup.pool("outlier_detection: {base_ejection: 1h, max_ejection: 1h}");
    let setup = setup.head(&file.key());
    let proxy = setup.clone().start();
    nodes[0].kill();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    proxy.expect_told("evicted", "a");
    nodes[0].restart();
    file.expect("a is ejected", |pool| pool["backends"]["a"]["state"] == "ejected");
    kill(proxy);
    let before = nodes[0].accepted();
    let proxy = setup.start();
    assert_eq!(sequence(&proxy, 8), "bbbbbbbb");
    assert_eq!(nodes[0].accepted(), before);
}

/// Another address is another backend, whatever it is called.
#[test]
fn what_is_known_is_known_of_an_address() {
    let world = World::new();
    let setup = world.setup("strategy: round_robin");
    let proxy = setup.start();
    expect_checks(&world.answers[0], 1);
    world.answers[0].go_on("F");
    proxy.expect_told("evicted", "a");
    world.file.expect("a is down", |pool| pool["backends"]["a"]["state"] == "unhealthy");
    stop(proxy);
    let moved = World { nodes: ["a", "b"].map(Node::named), ..world };
    moved.answers[0].go_on("S");
    let proxy = moved.setup("strategy: round_robin").start();
    assert_eq!(moved.nodes[0].accepted(), 0);
    // Unknown, and so behind the one that is known to be healthy; until that one is gone.
    let _ = who(&proxy);
    moved.answers[1].go_on("F");
    expect_service_of(&proxy, "a");
}

#[test]
fn a_file_that_is_not_to_be_believed_is_reported_and_ignored() {
    let world = World::new();
    let setup = world.setup("strategy: hot_standby");
    let proxy = setup.clone().start();
    expect_checks(&world.answers[0], 1);
    world.answers[0].go_on("F");
    expect_service_of(&proxy, "b");
    world.file.expect("b is active", |pool| pool["active"] == "b");
    stop(proxy);
    world.answers[0].go_on("P");
    let good = world.file.json().unwrap();
    let altered = |key: &str, value: serde_json::Value| {
        let mut json = good.clone();
        assert!(json.get(key).is_some(), "{key}: {json}");
        json[key] = value;
        json.to_string()
    };
    let saved_at = good["saved_at"].as_u64().expect("milliseconds");
    let day = 24 * 3600 * 1000;
    let cases = [
        ("empty", String::new()),
        ("cut off", good.to_string()[..40].to_owned()),
        ("binary", "\u{0}\u{1}".repeat(100)),
        ("foreign", "{\"format\": \"another program\", \"version\": 1}".to_owned()),
        ("of a version to come", altered("version", 4711.into())),
        ("over a day old", altered("saved_at", (saved_at - day - 60_000).into())),
        ("from the future", altered("saved_at", (saved_at + 3_600_000).into())),
    ];
    for (name, text) in cases {
        std::fs::write(world.file.path(), text).unwrap();
        let proxy = setup.clone().start();
        assert_eq!(who(&proxy), "a", "{name}: it starts as without a file");
        let warned = proxy.log().lines().into_iter().any(|line| {
            line.level() == "WARN" && line.text().contains("state file is not believed")
        });
        assert!(warned, "{name}:\n{}", proxy.log().tail());
        kill(proxy);
    }
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_reported_and_nothing_else() {
    let world = World::new();
    std::fs::create_dir(world.file.path()).unwrap();
    let proxy = world.setup("strategy: hot_standby").start();
    assert_eq!(who(&proxy), "a");
    proxy.expect_line("cannot be read");
    proxy.expect_line("cannot be written");
    world.answers[0].go_on("F");
    expect_service_of(&proxy, "b");
    let said =
        || proxy.log().lines().iter().filter(|l| l.text().contains("cannot be written")).count();
    assert_eq!(said(), 1, "once, not for every change");
}

/// A reader finds the old one or the new one, never a part.
#[test]
fn the_file_is_whole_at_every_moment() {
    let world = World::new();
    let proxy = world.setup("strategy: hot_standby").pool("failover: {failback: auto}").start();
    world.file.expect("it is written", |pool| !pool.is_null());
    for round in 1..=4 {
        for (script, kind) in [("F", "evicted"), ("P", "reinstated")] {
            world.answers[0].go_on(script);
            eventually(PATIENCE, kind, || {
                assert!(world.file.json().is_some(), "a part of a file");
                proxy.told(kind, "a").len() == round
            });
        }
    }
    pause(ms(150));
    let beside = std::fs::read_dir(world.file.scratch.path()).unwrap().count();
    assert_eq!(beside, 1, "nothing is left beside it");
}

/// The file is written for a change, not by the clock: nothing happens, nothing is written.
#[test]
fn nothing_is_written_while_nothing_changes() {
    let world = World::new();
    let proxy = world.setup("strategy: round_robin").start();
    expect_checks(&world.answers[0], 2);
    expect_checks(&world.answers[1], 2);
    pause(ms(250));
    let written = || std::fs::metadata(world.file.path()).unwrap().modified().unwrap();
    let before = written();
    expect_checks(&world.answers[0], 5);
    assert_eq!(written(), before);
    drop(proxy);
}
