//! What `docs/swoole.md` says of a service of PHP workers, on `conf/examples/swoole.yaml` itself.
//!
//! Debian has no Swoole: `tests/data/php/manager.php` stands for it, with a manager, forked workers that
//! serve, and SIGUSR1. tidegate runs within the test, so that operators' words can be given.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tidegate::balance::Registry;
use tidegate::control::handle::{BackendStatus, Operation};
use tidegate::process::Server as Balancer;
use tokio::runtime::{Builder, Runtime};

use crate::http::Http;
use crate::server::{Server, program};
use crate::support::setup::Scratch;
use crate::support::{End, PATIENCE, Peer, eventually, ms, throughout};

const EXAMPLE: &str = include_str!("../../conf/examples/swoole.yaml");
const WORKERS: usize = 2;
const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A node: a manager with its workers.
fn node(php: &Path, address: SocketAddr) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/php/manager.php");
    let mut command = Command::new(php);
    command.args([script, &address.to_string(), &WORKERS.to_string()]);
    command
}

/// Sends a signal to each worker of a node.
fn signal_workers(node: &Server, signal: Signal) {
    let pid = node.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids: Vec<i32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() >= WORKERS);
    for pid in pids {
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

/// tidegate on the example, with what is this test's own in place of addresses and times.
struct Service {
    balancer: Option<Balancer>,
    runtime: Runtime,
    address: String,
}

impl Service {
    fn start(nodes: &[Server], changes: &[(&str, &str)]) -> Self {
        let mut text = EXAMPLE.to_owned();
        let mut change = |from: &str, to: &str| {
            assert!(text.contains(from), "the example has no {from:?}");
            text = text.replace(from, to);
        };
        change("state_file: ${TIDEGATE_STATE:-/var/lib/tidegate/state.json}", "");
        change("admin: { bind: 127.0.0.1:9900 }", "");
        change("0.0.0.0:9501", "127.0.0.1:0");
        for (number, node) in nodes.iter().enumerate() {
            change(&format!("10.0.0.1{}:9501", number + 1), &node.address());
        }
        change("interval: 2s", "interval: 200ms");
        change("slow_start: 10s", "slow_start: off");
        change("failback_delay: 10s", "failback_delay: 200ms");
        changes.iter().for_each(|(from, to)| change(from, to));
        let registry = Registry::default();
        let config = tidegate::config::load(&text, &|_| None, &registry).unwrap();
        let balancer = Balancer::start(&config, &registry).unwrap();
        let address = balancer.addresses()[0].1.to_string();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { balancer: Some(balancer), runtime, address }
    }

    fn control(&self) -> &tidegate::control::Handle {
        self.balancer.as_ref().unwrap().control().unwrap()
    }

    fn backend(&self, name: &str) -> BackendStatus {
        let pool = self.runtime.block_on(self.control().pool("swoole".into())).unwrap();
        pool.backends.into_iter().find(|backend| &*backend.name == name).unwrap()
    }

    #[track_caller]
    fn until(&self, name: &str, state: &str) {
        eventually(PATIENCE, state, || self.backend(name).state == state);
    }

    fn operate(&self, name: &str, operation: Operation) {
        let done = self.control().operate("swoole".into(), name.into(), operation);
        self.runtime.block_on(done).unwrap();
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let events = self.control().events().since(0);
        events.iter().map(|event| serde_json::to_value(&**event).unwrap()).collect()
    }

    /// The generation that answers, and whom it takes the client for.
    fn ask(address: &str) -> (String, String) {
        let (head, body) = Http::connect(address).get("/");
        assert_eq!(head.status(), "200");
        let body = String::from_utf8(body).unwrap();
        let (generation, peer) = body.split_once(' ').unwrap();
        (generation.to_owned(), peer.to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut balancer) = self.balancer.take() {
            self.runtime.block_on(balancer.stop(Some(ms(100))));
        }
    }
}

fn start(php: &Path) -> Vec<Server> {
    (0..3).map(|_| Server::start(|address| node(php, address))).collect()
}

fn php() -> Option<PathBuf> {
    program("php", "php-cli")
}

/// Clients that ask all the time; each failure fails the test. Dropping it ends them.
struct Clients<'s> {
    over: &'s AtomicBool,
    served: &'s AtomicUsize,
}

impl<'s> Clients<'s> {
    fn start(
        scope: &'s thread::Scope<'s, '_>,
        address: &'s str,
        (over, served, gate): (&'s AtomicBool, &'s AtomicUsize, &'s RwLock<()>),
    ) -> Self {
        for _ in 0..3 {
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let _request = gate.read().unwrap();
                    Service::ask(address);
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        Self { over, served }
    }

    /// Waits until so many more requests have been answered.
    #[track_caller]
    fn go_on(&self, more: usize) {
        let before = self.served.load(SeqCst);
        eventually(PATIENCE, "clients are served", || self.served.load(SeqCst) >= before + more);
    }
}

impl Drop for Clients<'_> {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
    }
}

#[test]
fn a_connect_passes_while_every_worker_hangs_and_a_request_does_not() {
    let Some(php) = php() else { return };
    let nodes = start(&php);
    let shallow = [("probe: { http: { path: /health } }", "probe: tcp")];
    let quiet = [("[systemctl, restart, \"swoole@{backend}\"]", "[\"true\"]")];
    let by_request = Service::start(&nodes, &quiet);
    let by_connect = Service::start(&nodes, &[shallow, quiet].concat());
    by_connect.until("node-1", "healthy");
    by_request.until("node-1", "healthy");
    signal_workers(&nodes[0], Signal::STOP);
    by_request.until("node-1", "unhealthy");
    throughout(ms(1000), "connects pass", || by_connect.backend("node-1").state == "healthy");
    signal_workers(&nodes[0], Signal::CONT);
    by_request.until("node-1", "healthy");
}

#[test]
fn nodes_that_are_drained_reloaded_and_enabled_one_by_one_lose_no_request() {
    let Some(php) = php() else { return };
    let mut nodes = start(&php);
    let service = Service::start(&nodes, &[]);
    ["node-1", "node-2", "standby"].iter().for_each(|name| service.until(name, "healthy"));
    let (over, served, gate) = (AtomicBool::default(), AtomicUsize::default(), RwLock::default());
    thread::scope(|scope| {
        let clients = Clients::start(scope, &service.address, (&over, &served, &gate));
        for (index, name) in ["node-1", "node-2"].iter().enumerate() {
            clients.go_on(20);
            service.operate(name, Operation::Drain);
            eventually(PATIENCE, "drained", || service.backend(name).connections_active == 0);
            let before = service.backend(name).connections_total;
            clients.go_on(20);
            assert_eq!(service.backend(name).connections_total, before, "it is drained");
            if index == 0 {
                // As `kill -USR1` or `systemctl reload`: new workers of the same manager.
                let manager = Pid::from_raw(i32::try_from(nodes[index].pid()).unwrap()).unwrap();
                kill_process(manager, Signal::USR1).unwrap();
                eventually(PATIENCE, "new workers", || {
                    Service::ask(&nodes[index].address()).0 == "2"
                });
            } else {
                // As `systemctl restart`: another manager.
                signal_workers(&nodes[index], Signal::KILL);
                let old = nodes.remove(index);
                nodes.insert(index, old.start_again(|address| node(&php, address)));
                assert_eq!(Service::ask(&nodes[index].address()).0, "1");
            }
            // A node that was away for its checks has to pass them first.
            service.operate(name, Operation::Enable);
            service.until(name, "healthy");
            eventually(PATIENCE, "it serves", || service.backend(name).connections_total > before);
        }
        clients.go_on(20);
    });
    assert!(service.backend("standby").connections_total == 0, "a node was there at all times");
}

#[test]
fn a_long_connection_outlives_a_drain_and_is_ended_in_order_by_kill() {
    let Some(php) = php() else { return };
    let nodes = start(&php);
    let service = Service::start(&nodes, &[]);
    service.until("node-1", "healthy");
    service.operate("node-2", Operation::Drain);
    service.operate("standby", Operation::Drain);
    let long = Peer::connect(&service.address);
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n1 127.0.0.1";
    long.send(GET);
    long.expect(answer);
    service.operate("node-2", Operation::Enable);
    service.operate("node-1", Operation::Drain);
    long.send(GET);
    long.expect(answer);
    assert_eq!(service.backend("node-1").connections_active, 1);
    service.operate("node-1", Operation::Kill { idle: None });
    long.expect_end(End::Fin);
    eventually(PATIENCE, "gone", || service.backend("node-1").connections_active == 0);
}

#[test]
fn a_node_whose_workers_hang_is_restarted_and_known_to_be_repaired() {
    let Some(php) = php() else { return };
    let mut nodes = start(&php);
    let folder = Scratch::new();
    // Stands for systemctl: says what is wanted, and waits until it is done.
    let systemctl = folder.write(
        "systemctl",
        "#!/bin/sh\nd=${0%/*}\necho \"$*\" >$d/new && mv $d/new $d/wanted\n\
         until [ -e $d/done ]; do sleep 0.02; done\n",
    );
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let service = Service::start(&nodes, &[("[systemctl,", &format!("[{systemctl},"))]);
    ["node-1", "node-2"].iter().for_each(|name| service.until(name, "healthy"));
    // A client inside the node when that hangs: `evicted_connections: close` tells it to come again.
    service.operate("node-2", Operation::Drain);
    let inside = Peer::connect(&service.address);
    inside.send(GET);
    inside.expect("HTTP/1.1 200 OK\r\n");
    service.operate("node-2", Operation::Enable);
    signal_workers(&nodes[0], Signal::STOP);
    let wanted = folder.path().join("wanted");
    eventually(PATIENCE, "the action runs", || wanted.exists());
    assert_eq!(fs::read_to_string(&wanted).unwrap(), "restart swoole@node-1\n");
    let _ = inside.receive_all();
    Service::ask(&service.address);
    let results = || -> BTreeSet<String> {
        let about =
            |event: &serde_json::Value| event["backend"] == "node-1" && event["kind"] == "recovery";
        let events = service.events().into_iter().filter(about);
        events.map(|event| event["result"].as_str().unwrap().to_owned()).collect()
    };
    folder.write("done", "");
    // Before the node is back: an action that still runs then is stopped.
    eventually(PATIENCE, "success", || results() == ["success"].map(String::from).into());
    signal_workers(&nodes[0], Signal::KILL);
    let old = nodes.remove(0);
    nodes.insert(0, old.start_again(|address| node(&php, address)));
    service.until("node-1", "healthy");
    let both: BTreeSet<String> = ["repaired", "success"].map(String::from).into();
    eventually(PATIENCE, "repaired", || results() == both);
}

#[test]
fn the_standby_serves_while_both_nodes_are_away_and_no_longer() {
    let Some(php) = php() else { return };
    let mut nodes = start(&php);
    let service =
        Service::start(&nodes, &[("[systemctl, restart, \"swoole@{backend}\"]", "[\"true\"]")]);
    ["node-1", "node-2", "standby"].iter().for_each(|name| service.until(name, "healthy"));
    let (over, served, gate) = (AtomicBool::default(), AtomicUsize::default(), RwLock::default());
    thread::scope(|scope| {
        let clients = Clients::start(scope, &service.address, (&over, &served, &gate));
        clients.go_on(20);
        assert_eq!(service.backend("standby").connections_total, 0);
        // Between two requests: what is inside a node dies with it.
        let quiet = gate.write().unwrap();
        for node in &mut nodes[..2] {
            signal_workers(node, Signal::KILL);
            node.kill();
        }
        // A worker that is being killed still takes connections, which it then resets.
        eventually(PATIENCE, "nobody listens", || {
            nodes[..2].iter().all(|node| TcpStream::connect(node.address()).is_err())
        });
        drop(quiet);
        clients.go_on(20);
        assert!(service.backend("standby").connections_total > 0);
        ["node-1", "node-2"].iter().for_each(|name| service.until(name, "unhealthy"));
        for index in 0..2 {
            let old = nodes.remove(index);
            nodes.insert(index, old.start_again(|address| node(&php, address)));
        }
        eventually(PATIENCE, "the nodes are back", || service.backend("node-1").in_rotation);
        eventually(PATIENCE, "the standby is out", || !service.backend("standby").in_rotation);
        let before = service.backend("standby").connections_total;
        clients.go_on(40);
        assert!(service.backend("standby").connections_total <= before + 3, "those under way");
    });
}

#[test]
fn workers_see_the_balancer_where_the_client_is() {
    let Some(php) = php() else { return };
    let nodes = start(&php);
    let strategy = "strategy: least_connections";
    let source = [(strategy, "strategy: least_connections\n    connect: { source: 127.0.0.9 }")];
    let service = Service::start(&nodes, &source);
    service.until("node-1", "healthy");
    let peers: BTreeSet<String> = (0..6).map(|_| Service::ask(&service.address).1).collect();
    assert_eq!(peers, ["127.0.0.9".to_owned()].into(), "one address, whoever the clients are");
}
