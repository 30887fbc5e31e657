//! PHP workers behind it, one of which dies and comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, RwLock};
use std::thread;

use crate::http::Http;
use crate::server::{Server, program};
use crate::support::setup::Scratch;
use crate::support::{PATIENCE, Setup, eventually};

const WORKERS: usize = 3;
const CLIENTS: usize = 4;

/// What a worker answers every request with: its number.
const PAGE: &str = "<?php $body = getenv('WORKER'); header('Content-Length: ' . strlen($body)); \
                    header('Connection: close'); echo $body;";

/// A worker: PHP's own web server, one process that answers one request at a time.
fn worker(binary: &Path, page: &str, number: usize, address: SocketAddr) -> Command {
    let mut command = Command::new(binary);
    command.args(["-q", "-S", &address.to_string(), page]);
    command.env("WORKER", number.to_string()).env_remove("PHP_CLI_SERVER_WORKERS");
    command
}

/// How many answers each worker has given.
type Answers = Mutex<BTreeMap<String, usize>>;

#[test]
fn a_php_worker_that_dies_costs_no_request() {
    let Some(php) = program("php", "php-cli") else { return };
    let folder = Scratch::new();
    let page = folder.write("worker.php", PAGE);
    let start = |number| Server::start(|address| worker(&php, &page, number, address));
    let mut workers: Vec<_> = (0..WORKERS).map(start).collect();
    // Ejected for less time than is waited for its return.
    let keys = "outlier_detection: {base_ejection: 1s}";
    let proxy = Setup::to(workers.iter().map(Server::address)).pool(keys).start();

    let answers = Answers::default();
    // Clients hold it to read during a request: whoever holds it to write knows that none is with
    // a worker. A request that is with a worker when that dies is lost with it.
    let requests = RwLock::new(());
    let over = AtomicBool::new(false);
    let served = |number: usize| *answers.lock().unwrap().get(&number.to_string()).unwrap_or(&0);
    let all_served = |more: usize, numbers: &[usize]| {
        let before: Vec<_> = numbers.iter().map(|number| served(*number)).collect();
        eventually(PATIENCE, "the workers answer", || {
            numbers.iter().zip(&before).all(|(number, before)| served(*number) >= before + more)
        });
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let _request = requests.read().unwrap();
                    let (head, body) = Http::connect(proxy.address()).get("/");
                    assert_eq!(head.status(), "200");
                    let name = String::from_utf8(body).unwrap();
                    *answers.lock().unwrap().entry(name).or_default() += 1;
                }
            });
        }
        let _end = Over(&over);
        all_served(20, &[0, 1, 2]);
        let quiet = requests.write().unwrap();
        workers[1].kill();
        drop(quiet);
        let at_death = served(1);
        all_served(50, &[0, 2]);
        assert_eq!(served(1), at_death);
        let back = workers.remove(1);
        workers.insert(1, back.start_again(|address| worker(&php, &page, 1, address)));
        all_served(20, &[0, 1, 2]);
    });
}

/// Ends the clients, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
