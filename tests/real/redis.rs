//! Redis behind it: its own benchmark, and a long pipeline whose every answer is checked.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::server::{Server, program, run};
use crate::support::setup::Scratch;
use crate::support::{Peer, Setup};

fn redis(binary: &Path, folder: &Scratch) -> Server {
    Server::start(|address| {
        let mut command = Command::new(binary);
        command.current_dir(folder.path());
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        command.args(["--bind", &host, "--port", &port]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command
    })
}

#[test]
fn redis_benchmark_runs_through_it() {
    let Some(server) = program("redis-server", "redis-server") else { return };
    let Some(benchmark) = program("redis-benchmark", "redis-tools") else { return };
    let folder = Scratch::new();
    let server = redis(&server, &folder);
    let proxy = Setup::to([server.address()]).start();
    let (host, port) = proxy.address().rsplit_once(':').unwrap();
    for pipeline in ["1", "32"] {
        let mut command = Command::new(&benchmark);
        command.args(["-h", host, "-p", port, "-c", "50", "-n", "10000", "-P", pipeline, "--csv"]);
        command.args(["-d", "200", "-t", "ping_mbulk,set,get,lpush,lrange_100,mset"]);
        let results = run(&mut command);
        let tests = results.lines().filter(|line| line.starts_with('"')).count();
        assert!(tests >= 7, "its header and six tests or more:\n{results}");
        assert!(!results.to_lowercase().contains("error"), "{results}");
    }
}

#[test]
fn every_answer_of_a_redis_pipeline_arrives_in_order() {
    const COMMANDS: usize = 50_000;
    let Some(server) = program("redis-server", "redis-server") else { return };
    let folder = Scratch::new();
    let server = redis(&server, &folder);
    let proxy = Setup::to([server.address()]).start();

    // Values of 0 to 299 bytes, so that answers fall anywhere in a buffer.
    let value = |i: usize| format!("{i:x}").repeat(300)[..i * 7 % 300].to_owned();
    let (mut commands, mut answers) = (String::new(), String::new());
    for i in 0..COMMANDS {
        let (key, value) = (format!("key:{i}"), value(i));
        let set = ["SET", &key, &value].map(bulk).concat();
        let get = ["GET", &key].map(bulk).concat();
        let _ = write!(commands, "*3\r\n{set}*2\r\n{get}");
        let _ = write!(answers, "+OK\r\n{}", bulk(&value));
    }
    let client: Peer = proxy.client();
    thread::scope(|scope| {
        scope.spawn(|| client.send(&commands));
        client.expect(&answers);
    });
}

/// A string as the protocol has it: its length, then its bytes.
fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
