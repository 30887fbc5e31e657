//! No program that is started gets a descriptor of this one.

use std::fs;
use std::net::TcpListener;

use crate::support::admin::Admin;
use crate::support::{PATIENCE, Setup, TestBackend, eventually, procfs};

/// `O_CLOEXEC` as `/proc/PID/fdinfo` tells it.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

#[test]
fn every_descriptor_of_a_process_at_work_closes_when_a_program_is_started() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).start();
    let clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| client.expect_echo("at work"));
    let pid = proxy.pid();
    let descriptors = procfs::descriptors(pid);
    let sockets = descriptors.values().filter(|what| what.starts_with("socket:"));
    assert!(sockets.count() >= 9, "a listener, and two for each of four connections");
    for (number, what) in descriptors.into_iter().filter(|(number, _)| *number > 2) {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert!(flags & CLOSE_ON_EXEC != 0, "{number}: {what} is handed down");
    }
}

/// 200 black holes, each of whose checks holds its socket for as long as it may, beside as many
/// connections as there may be: nobody takes the other's descriptors.
#[test]
fn checks_of_many_and_connections_leave_each_other_their_descriptors() {
    let echo = TestBackend::echo();
    // Nobody accepts here: connecting works, or is never answered.
    let hole = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = hole.local_addr().unwrap().port();
    let holes: Vec<_> = (1..=200).map(|n| format!("\"127.0.1.{n}:{port}\"")).collect();
    let check = "{probe: {send_expect: {send: x, expect: y}}, interval: 400ms, fast_interval: 200ms, \
                 timeout: 300ms, fall: 2}";
    let setup = Setup::yaml(format!(
        "listeners:\n  web: {{bind: \"127.0.0.1:0\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n  holes: {{backends: [{}], health_check: {check}}}\n",
        echo.address(),
        holes.join(", ")
    ));
    let setup = setup.head("admin: {bind: \"127.0.0.1:0\"}").threads(1);
    let proxy = setup.descriptors(400, 400).start();
    // More than there may be: the rest waits to be accepted.
    let clients: Vec<_> = (0..150).map(|_| proxy.client()).collect();
    clients.iter().take(90).for_each(|client| client.expect_echo("served"));
    eventually(PATIENCE, "all are evicted", || {
        proxy.events().iter().filter(|event| event.kind == "evicted").count() == 200
    });
    let metrics = Admin::of(&proxy).get("/metrics").body;
    let unjudged: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("tidegate_health_checks_total"))
        .filter(|line| line.contains("unjudged") && !line.ends_with(" 0"))
        .collect();
    assert!(unjudged.is_empty(), "{unjudged:?}");
    let lines = proxy.log().lines();
    assert!(!lines.iter().any(|line| line.text().contains("accepting is paused")));
    proxy.expect_line("checks may have to wait for each other");
    drop(clients);
}
