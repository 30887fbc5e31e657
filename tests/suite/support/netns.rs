//! Tests that need a network of their own: run again inside fresh user and network namespaces.

use std::process::Command;

use super::skipped;

const MARK: &str = "TIDEGATE_TEST_NAMESPACE";

/// Whether the calling test runs inside a namespace of its own, with loopback up.
///
/// Outside it, runs the test `name` (its full path) again inside one, needs no root for that, and
/// answers no; says why when the machine does not allow it.
#[track_caller]
pub(crate) fn entered(name: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let possible = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).output();
    match possible {
        Ok(output) if output.status.success() => {}
        _ => {
            skipped("no user and network namespaces here (unshare -rn ip …)");
            return false;
        }
    }
    let name = name.split_once("::").map_or(name, |(_, path)| path);
    let output = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inside the namespace:\n{text}");
    assert!(text.contains("1 passed"), "no such test: {name}\n{text}");
    false
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// Sets the range of ports that connections leave from.
pub(crate) fn set_local_ports(first: u16, last: u16) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write(range, format!("{first} {last}")).unwrap();
}
