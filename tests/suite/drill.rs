//! `demo --drill`: the play comes to its end, says what matters, and leaves no process behind.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::cli::{check, tidegate};
use crate::support::eventually;
use crate::support::log::Log;

/// How long a play may take on a machine that is busy with other tests.
const PLAY: Duration = Duration::from_secs(120);

/// A drill that runs; killed when dropped.
struct Drill {
    child: Child,
    out: Log,
    err: Log,
}

impl Drill {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo", "--drill", "--fast"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = (Log::default(), Log::default());
        out.collect(child.stdout.take().unwrap());
        err.collect(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// Waits until it has said this.
    fn until(&self, words: &str) {
        eventually(PLAY, words, || {
            self.out.whole().contains(words) || self.out.is_complete() || self.err.len() > 0
        });
        assert!(self.out.whole().contains(words), "{}{}", self.out.whole(), self.err.whole());
    }

    /// Waits for its end: the exit code.
    fn end(&mut self) -> Option<i32> {
        let mut status = None;
        eventually(PLAY, "it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        eventually(PLAY, "its output ends", || self.out.is_complete() && self.err.is_complete());
        status.unwrap().code()
    }

    /// Its worker nodes, each with when it started: numbers of processes are used again.
    fn nodes(&self) -> BTreeSet<(u32, String)> {
        let of = self.child.id().to_string();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_node = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&str> = line.split_terminator('\0').collect();
            words.get(1) == Some(&"demo-node") && words.last() == Some(&&*of)
        };
        pids.filter(is_node).filter_map(|pid| Some((pid, born(pid)?))).collect()
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When a process that is no zombie started: field 22 of its `stat` (proc(5)).
fn born(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (fields[0] != "Z").then(|| fields[19].to_owned())
}

fn all_gone(nodes: &BTreeSet<(u32, String)>) -> bool {
    nodes.iter().all(|(pid, start)| born(*pid).as_ref() != Some(start))
}

#[test]
fn a_drill_ends_well_and_says_what_happened() {
    let mut drill = Drill::start();
    drill.until("ALL IS WELL");
    let nodes = drill.nodes();
    assert_eq!(nodes.len(), 5);
    let code = drill.end();
    let told = drill.out.whole();
    assert_eq!(code, Some(0), "{told}{}", drill.err.whole());
    for words in [
        "evicted web-2: ",
        "reinstated web-2: ",
        "evicted web-3: ",
        "reinstated web-3: ",
        "evicted db-1: ",
        "takeover by db-2: first failure, +",
        "recovery: `tidegate demo-restart db-1` succeeded in ",
        "reinstated db-1: ",
        "recovery: db-1 is repaired\n",
        "takeover by db-1: an operator's word, +",
        "No user saw a failure: ",
    ] {
        assert!(told.contains(words), "no {words:?} in\n{told}");
    }
    assert_eq!(told.matches(" served, 0 failed, ").count(), 5, "{told}");
    assert!(!told.contains('\u{1b}'), "no terminal, and yet:\n{told}");
    assert_eq!(drill.err.whole(), "", "the log of the balancer is not asked for");
    eventually(PLAY, "its nodes end with it", || all_gone(&nodes));
}

#[test]
fn nodes_end_with_a_drill_that_is_killed_even_a_frozen_one() {
    let mut drill = Drill::start();
    drill.until("evicted web-3");
    let nodes = drill.nodes();
    assert_eq!(nodes.len(), 5);
    drill.child.kill().unwrap();
    eventually(PLAY, "the nodes end", || all_gone(&nodes));
}

#[test]
fn a_drill_that_is_stopped_is_no_success() {
    let mut drill = Drill::start();
    drill.until("evicted web-2");
    let nodes = drill.nodes();
    let pid = rustix::process::Pid::from_child(&drill.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(drill.end(), Some(1));
    assert!(drill.err.whole().contains("stopped before its end"), "{}", drill.err.whole());
    eventually(PLAY, "the nodes end", || all_gone(&nodes));
}

#[test]
fn the_configuration_of_the_drill_is_shown_and_valid() {
    let shown = tidegate(&["demo", "--drill", "--show-config"]);
    assert_eq!((shown.code, &*shown.stderr), (0, ""));
    let outcome = check(&shown.stdout);
    assert_eq!(outcome.code, 0, "{}{outcome:?}", shown.stdout);
    assert_eq!(tidegate(&["demo", "--show-config"]).code, 2, "of nothing but the drill");
}
