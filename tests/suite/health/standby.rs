//! Hot standby: who takes over, what the report says, demotion, actions before traffic.

use std::time::{Duration, Instant};

use super::{checking, client_of, expect_checks, expect_service_of, sequence, standby, who};
use crate::support::admin::Admin;
use crate::support::setup::Scratch;
use crate::support::{
    Answers, End, Mode, Node, PATIENCE, Peer, Proxy, SLACK, Setup, at_once, eventually, ms, pause,
    throughout,
};

fn trio() -> [Node; 3] {
    ["a", "b", "c"].map(Node::named)
}

/// A hot standby of these nodes, of which the first is checked by `answers`, the others by answers
/// that pass.
fn checked(nodes: &[Node], answers: &Answers, fine: &Answers, keys: &str) -> Setup {
    let entry = |(index, node): (usize, &Node)| {
        let port = if index == 0 { answers.port() } else { fine.port() };
        node.entry(&format!("health_port: {port}"))
    };
    let setup = Setup::to(nodes.iter().enumerate().map(entry)).pool("strategy: hot_standby");
    setup.pool(&checking(fine, keys))
}

#[test]
fn the_connection_that_notices_is_served_by_the_standby() {
    for threads in [1, 2, 4] {
        let nodes = trio();
        let proxy = standby(&nodes).threads(threads).start();
        assert_eq!(sequence(&proxy, 3), "aaa");
        proxy.expect_ends(&["client_closed"; 3]);
        nodes[0].kill();
        let start = Instant::now();
        assert_eq!(who(&proxy), "b", "the very first one");
        assert!(start.elapsed() < ms(20) + SLACK, "{:?}", start.elapsed());
        assert_eq!(sequence(&proxy, 5), "bbbbb");
        let told = proxy.expect_told("takeover", "b");
        assert_eq!(told.cause, "outlier");
        assert_eq!(told.evidence, "3 connections failed in a row: refused");
        assert!(told.more.starts_with("a -> b: "), "{told:?}");
        let figures = ["retried", "cut", "lost"].map(|word| told.number(word));
        assert_eq!(figures, [1, 0, 0], "{told:?}");
        assert!(told.number("ms, first") < 100 + 400, "{told:?}");
    }
}

#[test]
fn a_takeover_under_load_loses_nobody() {
    for threads in [1, 4] {
        let nodes = trio();
        let proxy = standby(&nodes).threads(threads).start();
        let clients: Vec<_> = (0..10).map(|_| client_of(&proxy, "a")).collect();
        let names = at_once(8, |index| {
            let mut names = String::new();
            for round in 0..60 {
                if (index, round) == (0, 20) {
                    nodes[0].kill();
                }
                let name = who(&proxy);
                names.push_str(if name.is_empty() { "!" } else { &name });
            }
            names
        });
        clients.iter().for_each(|client| client.expect_end(End::Reset));
        let told = proxy.expect_told("takeover", "b");
        assert_eq!(told.number("lost"), 0, "{told:?}");
        assert!(told.number("cut") >= 10, "{told:?}");
        assert!(told.number("retried") >= 1, "{told:?}");
        // Who was accepted by the old one and then cut before its greeting got nothing, as anybody's
        // client whose server dies.
        let cut: usize = names.iter().map(|names| names.matches('!').count()).sum();
        assert!(cut <= 8, "{names:?}");
        let reasons = proxy.reasons();
        assert!(!reasons.contains_key("connect_failed") && !reasons.contains_key("no_backend"));
    }
}

#[test]
fn a_takeover_by_checks_needs_no_client() {
    let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
    let proxy = checked(&nodes, &answers, &fine, ", fall: 3").start();
    expect_checks(&answers, 2);
    assert_eq!(who(&proxy), "a");
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    expect_service_of(&proxy, "b");
    let told = proxy.expect_told("takeover", "b");
    assert_eq!(told.cause, "probe");
    assert!(told.evidence.starts_with("3 checks failed in a row"), "{told:?}");
    // The first of the three failures was two fast intervals before the decision.
    assert!((40..600).contains(&told.number("ms, first")), "{told:?}");
    assert_eq!(["retried", "lost"].map(|word| told.number(word)), [0, 0]);
}

#[test]
fn a_silent_active_one_is_left_by_first_byte() {
    let nodes = trio();
    let detection = "outlier_detection: {first_byte: 100ms, base_ejection: 1m}";
    let proxy = standby(&nodes).pool(detection).start();
    assert_eq!(who(&proxy), "a");
    nodes[0].set(Mode::Silent);
    let clients: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| client.send("hello"));
    expect_service_of(&proxy, "b");
    let told = proxy.expect_told("takeover", "b");
    assert_eq!(told.evidence, "3 connections failed in a row: no first byte within 100ms");
    drop(clients);
}

#[test]
fn standbys_follow_in_order_of_priority_then_of_the_list() {
    let nodes = ["a", "b", "c", "d"].map(Node::named);
    let priorities = ["priority: 5", "priority: 1", "priority: 1", "backup: false"];
    let entries = nodes.iter().zip(priorities).map(|(node, keys)| node.entry(keys));
    let proxy = Setup::to(entries).pool("strategy: hot_standby").start();
    let mut order = String::new();
    for name in ["d", "b", "c", "a"] {
        order.push_str(&who(&proxy));
        nodes.iter().filter(|node| node.name() == name).for_each(Node::kill);
    }
    assert_eq!(order, "dbca");
    assert_eq!(who(&proxy), "", "nobody is left");
}

#[test]
fn without_anybody_the_first_to_be_back_takes_the_role() {
    let nodes = [Node::named("a"), Node::named("b")];
    let check = "health_check: {interval: 80ms, fast_interval: 40ms, timeout: 80ms, fall: 2}";
    let proxy = standby(&nodes).pool(check).start();
    eventually(PATIENCE, "both are checked", || nodes.iter().all(|node| node.accepted() > 1));
    nodes.iter().for_each(Node::kill);
    eventually(PATIENCE, "both are gone", || {
        ["a", "b"].iter().all(|name| !proxy.told("evicted", name).is_empty())
    });
    assert_eq!(who(&proxy), "");
    nodes[1].restart();
    expect_service_of(&proxy, "b");
    nodes[0].restart();
    proxy.expect_told("reinstated", "a");
    throughout(ms(200), "failback is manual", || who(&proxy) == "b");
}

#[test]
fn failback_is_manual_unless_it_is_automatic_and_then_waits_for_its_delay() {
    for (keys, returns) in
        [("", false), ("failover: {failback: auto, failback_delay: 700ms}", true)]
    {
        let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
        let mut setup = checked(&nodes, &answers, &fine, ", fall: 2, rise: 2");
        if returns {
            setup = setup.pool(keys);
        }
        let proxy = setup.start();
        expect_checks(&answers, 1);
        answers.go_on("F");
        expect_service_of(&proxy, "b");
        answers.go_on("P");
        proxy.expect_told("reinstated", "a");
        let start = Instant::now();
        if returns {
            eventually(PATIENCE, "a is active again", || who(&proxy) == "a");
            let waited = start.elapsed();
            assert!(waited > ms(600) && waited < ms(700) + SLACK, "{waited:?}");
            let told = proxy.expect_told("takeover", "a");
            assert_eq!(told.cause, "failback");
            assert!(told.more.starts_with("b -> a: "), "{told:?}");
        } else {
            throughout(ms(500), "b goes on", || who(&proxy) == "b");
        }
    }
}

/// A failback that waits is forgotten when the preferred one fails again.
#[test]
fn a_preferred_one_that_flaps_does_not_get_the_role_back() {
    let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
    let setup = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1");
    let proxy = setup.pool("failover: {failback: auto, failback_delay: 600ms}").start();
    expect_checks(&answers, 1);
    for round in 1..=5 {
        answers.go_on("F");
        proxy.expect_told_again("evicted", "a", round);
        answers.go_on("P");
        proxy.expect_told_again("reinstated", "a", round);
        throughout(ms(150), "b goes on", || who(&proxy) == "b");
    }
    assert!(proxy.told("takeover", "a").is_empty());
    expect_service_of(&proxy, "a");
}

/// Closed from the grace on; what was on its way is delivered, and the report counts them.
#[test]
fn connections_on_the_old_one_are_closed_after_the_grace() {
    let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
    let setup = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1");
    let proxy = setup.pool("failover: {demotion: {grace: 500ms}}").start();
    expect_checks(&answers, 1);
    let clients: Vec<_> = (0..5).map(|_| client_of(&proxy, "a")).collect();
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    let start = Instant::now();
    expect_service_of(&proxy, "b");
    clients.iter().for_each(|client| client.expect_echo("go on until then"));
    clients.iter().for_each(|client| client.expect_end(End::Fin));
    let took = start.elapsed();
    assert!(took > ms(400) && took < ms(550) + SLACK, "{took:?}");
    eventually(PATIENCE, "five were demoted", || proxy.reasons().get("demoted") == Some(&5));
    let told = proxy.expect_told("takeover", "b");
    assert_eq!(told.number("cut"), 5, "{told:?}");
}

#[test]
fn connections_on_the_old_one_may_be_kept() {
    let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
    let setup = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1");
    let proxy = setup.pool("failover: {demotion: {connections: keep, grace: 0s}}").start();
    expect_checks(&answers, 1);
    let client = client_of(&proxy, "a");
    answers.go_on("F");
    expect_service_of(&proxy, "b");
    throughout(ms(300), "it goes on", || {
        client.expect_echo("x");
        true
    });
    drop(client);
    assert_eq!(proxy.expect_told("takeover", "b").number("cut"), 0);
}

/// Twenty a second, those first on which no byte has moved for the longest.
#[test]
fn demoted_connections_are_closed_at_a_rate_and_idle_ones_first() {
    let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
    let setup = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1");
    let proxy = setup.pool("failover: {demotion: {grace: 100ms, rate: 20/s}}").start();
    expect_checks(&answers, 1);
    let clients: Vec<_> = (0..20).map(|_| client_of(&proxy, "a")).collect();
    // The even ones move a byte later than the odd ones.
    pause(ms(30));
    clients.iter().step_by(2).for_each(|client| client.expect_echo("x"));
    answers.go_on("F");
    proxy.expect_told("evicted", "a");
    let start = Instant::now();
    let ended: Vec<Duration> = at_once(clients.len(), |index| {
        clients[index].expect_end(End::Fin);
        start.elapsed()
    });
    let last = ended.iter().max().unwrap();
    assert!(*last > ms(900) && *last < ms(1100) + SLACK, "{last:?}");
    let idle = ended.iter().skip(1).step_by(2).max().unwrap();
    let busy = ended.iter().step_by(2).min().unwrap();
    assert!(idle < busy, "idle until {idle:?}, busy from {busy:?}");
    let told = proxy.expect_told("takeover", "b");
    assert_eq!(told.number("cut"), 20, "{told:?}");
}

/// Whoever has the role again keeps the connections that the demotion has not reached.
#[test]
fn a_demotion_ends_when_its_backend_is_active_again() {
    let (nodes, answers, fine) = (trio(), Answers::by("P"), Answers::by("P"));
    let setup = checked(&nodes, &answers, &fine, ", fall: 1, rise: 1");
    let keys = "failover: {failback: auto, demotion: {grace: 600ms}}";
    let proxy = setup.pool(keys).start();
    expect_checks(&answers, 1);
    let client = client_of(&proxy, "a");
    answers.go_on("F");
    expect_service_of(&proxy, "b");
    answers.go_on("P");
    expect_service_of(&proxy, "a");
    throughout(ms(900), "it goes on", || {
        client.expect_echo("x");
        true
    });
}

/// A file that an action waits for.
struct Gate(Scratch);

impl Gate {
    fn new() -> Self {
        Self(Scratch::new())
    }

    /// An action before traffic: says that it has begun for which backend, waits until the gate is
    /// open for it, and ends with what was put in.
    fn action(&self) -> String {
        let script = "cd \"$1\"; echo $2 >> begun; until [ -e open-$2 ]; do sleep 0.01; done; \
                      exit $(cat open-$2)";
        let command =
            format!("[sh, -c, '{script}', hook, \"{}\", \"{{backend}}\"]", self.0.path().display());
        format!(
            "recovery: {{on_takeover: [{{exec: {{command: {command}, before_traffic: true}}}}]}}"
        )
    }

    fn open(&self, backend: &str, status: u8) {
        // Written whole: the action may look at any moment.
        let path = self.0.write("next", status.to_string());
        std::fs::rename(path, self.0.path().join(format!("open-{backend}"))).unwrap();
    }

    fn begun(&self) -> String {
        std::fs::read_to_string(self.0.path().join("begun")).unwrap_or_default()
    }

    #[track_caller]
    fn expect_begun(&self, names: &str) {
        eventually(PATIENCE, "the action runs", || self.begun().replace('\n', "") == names);
    }
}

/// Clients that are waiting for somebody to serve them.
fn waiting(proxy: &Proxy, count: usize) -> Vec<Peer> {
    (0..count).map(|_| proxy.client()).collect()
}

#[test]
fn connections_wait_for_an_action_before_traffic_and_are_served_then() {
    let (nodes, gate) = (trio(), Gate::new());
    let proxy = standby(&nodes).pool(&gate.action()).start();
    assert_eq!(who(&proxy), "a");
    assert_eq!(gate.begun(), "", "nothing runs at start");
    nodes[0].kill();
    let clients = waiting(&proxy, 5);
    gate.expect_begun("b");
    clients.iter().for_each(|client| client.expect_silence(ms(40)));
    assert_eq!(nodes[1].accepted(), 0);
    gate.open("b", 0);
    clients.iter().for_each(|client| client.expect("b"));
    let told = proxy.expect_told("takeover", "b");
    assert_eq!(told.number("lost"), 0, "{told:?}");
    let told = proxy.expect_told("recovery", "b");
    assert!(told.more.starts_with("on_takeover success"), "{told:?}");
}

#[test]
fn whoever_waits_longer_than_three_seconds_for_an_action_is_let_go() {
    let (nodes, gate) = (trio(), Gate::new());
    let proxy = standby(&nodes).pool(&gate.action()).start();
    nodes[0].kill();
    let waited = proxy.client().time_to_end(End::Reset);
    assert!(waited > ms(2_900) && waited < ms(3_050) + SLACK, "{waited:?}");
    proxy.expect_ends(&["queue_timeout"]);
    gate.open("b", 0);
    expect_service_of(&proxy, "b");
    assert_eq!(proxy.expect_told("takeover", "b").number("lost"), 1);
}

#[test]
fn no_more_wait_for_an_action_than_the_queue_has_places() {
    let (nodes, gate) = (trio(), Gate::new());
    let setup = standby(&nodes).pool(&gate.action()).head("admin: {bind: \"127.0.0.1:0\"}");
    let proxy = setup.pool("queue: {timeout: 30s, max: 3}").start();
    let admin = Admin::of(&proxy);
    nodes[0].kill();
    // The one that notices waits as well.
    let first = proxy.client();
    gate.expect_begun("b");
    let more = waiting(&proxy, 4);
    eventually(PATIENCE, "two find no place", || proxy.reasons().get("queue_full") == Some(&2));
    assert!((admin.metric("tidegate_queued_connections", &[]) - 3.0).abs() < 0.1);
    gate.open("b", 0);
    first.expect("b");
    let served = more.iter().filter(|client| client.receive_all_within(ms(300)) == b"b").count();
    assert_eq!(served, 2);
    assert!(admin.metric("tidegate_queued_connections", &[]) < 0.1);
}

#[test]
fn the_deadline_of_a_connection_begins_after_the_wait() {
    let (nodes, gate) = (trio(), Gate::new());
    let setup = standby(&nodes).pool(&gate.action()).pool("connect: {deadline: 300ms}");
    let proxy = setup.start();
    nodes[0].kill();
    let client = proxy.client();
    gate.expect_begun("b");
    client.expect_silence(ms(700));
    gate.open("b", 0);
    client.expect("b");
}

#[test]
fn when_the_action_fails_the_next_standby_is_tried() {
    let (nodes, gate) = (trio(), Gate::new());
    let proxy = standby(&nodes).pool(&gate.action()).start();
    nodes[0].kill();
    let clients = waiting(&proxy, 3);
    gate.expect_begun("b");
    gate.open("b", 7);
    gate.expect_begun("bc");
    gate.open("c", 0);
    clients.iter().for_each(|client| client.expect("c"));
    assert_eq!(nodes[1].accepted(), 0, "never had traffic");
    proxy.expect_told("takeover", "c");
    assert!(proxy.told("takeover", "b").is_empty());
}

#[test]
fn when_the_action_has_failed_for_all_there_is_no_backend() {
    let (nodes, gate) = (trio(), Gate::new());
    let proxy = standby(&nodes).pool(&gate.action()).start();
    nodes[0].kill();
    let clients = waiting(&proxy, 3);
    gate.open("b", 1);
    gate.open("c", 1);
    clients.iter().for_each(|client| client.expect_end(End::Reset));
    proxy.expect_ends(&["no_backend"; 3]);
    assert_eq!((nodes[1].accepted(), nodes[2].accepted()), (0, 0));
    assert_eq!(who(&proxy), "");
}

/// A client that goes away while it waits takes its attempt with it.
#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten() {
    let (nodes, gate) = (trio(), Gate::new());
    let proxy = standby(&nodes).pool(&gate.action()).start();
    nodes[0].kill();
    let client = proxy.client();
    gate.expect_begun("b");
    client.reset();
    proxy.expect_ends(&["client_reset"]);
    gate.open("b", 0);
    expect_service_of(&proxy, "b");
}

/// What clients send while they wait is kept for whoever serves them.
#[test]
fn what_clients_send_while_they_wait_is_not_lost() {
    let (nodes, gate) = (trio(), Gate::new());
    let proxy = standby(&nodes).pool(&gate.action()).start();
    nodes[0].kill();
    let client = proxy.client();
    client.send("sent while waiting");
    gate.expect_begun("b");
    client.send(", and later");
    gate.open("b", 0);
    client.expect("bsent while waiting, and later");
}

/// The check that is the trial of a standby cannot be made for want of descriptors: it is made again
/// after a while, not at once and again and again.
#[test]
fn a_trial_that_cannot_be_made_is_not_tried_without_a_pause() {
    let nodes = [Node::dead("a"), Node::named("b")];
    let detection = "outlier_detection: {base_ejection: 300ms, max_ejection: 300ms}";
    let proxy = standby(&nodes).pool(detection).start();
    assert_eq!(who(&proxy), "b");
    proxy.expect_ends(&["client_closed"]);
    proxy.leave_descriptors(0);
    // From 240 ms to 360 ms after the ejection its trial begins.
    pause(ms(500));
    let share = proxy.processor_share(ms(500));
    assert!(share < 0.1, "{share} of a core");
    proxy.leave_all_descriptors();
    nodes[0].restart();
    proxy.expect_told("reinstated", "a");
}
