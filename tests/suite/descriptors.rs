//! No program that is started gets a descriptor of this one.

use std::fs;

use crate::support::{Setup, TestBackend, procfs};

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
