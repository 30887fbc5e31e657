use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use tokio::runtime::{Builder, LocalOptions};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn on_control_thread<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = Builder::new_current_thread();
    runtime
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
        .block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

fn shell(script: &str) -> Child {
    Child::start(&["/bin/sh", "-c", script].map(str::to_owned), []).unwrap()
}

/// What a program writes, and how it ends.
fn run(argv: &[&str], variables: &[(&str, &str)]) -> (String, ExitStatus) {
    on_control_thread(async {
        let argv: Vec<_> = argv.iter().map(|&part| part.to_owned()).collect();
        let mut child = Child::start(&argv, variables.iter().copied()).unwrap();
        let mut output = Vec::new();
        child.ended(|bytes| output.extend_from_slice(bytes)).await;
        (String::from_utf8(output).unwrap(), child.reap().await.unwrap())
    })
}

/// Whether a process is there and no zombie.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn exists(pid: &str) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits on the runtime, which reaps meanwhile.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The first line that a program writes, which goes on.
async fn first_line(child: &mut Child) -> String {
    let output = std::cell::RefCell::new(Vec::new());
    tokio::select! {
        () = child.ended(|bytes| output.borrow_mut().extend_from_slice(bytes)) => panic!("ended"),
        () = eventually("a line", || output.borrow().ends_with(b"\n")) => {}
    }
    String::from_utf8(output.into_inner()).unwrap().trim().to_owned()
}

#[test]
fn both_outputs_and_the_exit_status_are_told() {
    let (output, status) = run(&["/bin/sh", "-c", "echo one; echo two >&2; exit 3"], &[]);
    assert_eq!((output.as_str(), status.code()), ("one\ntwo\n", Some(3)));
}

#[test]
fn arguments_and_variables_are_passed_as_they_are() {
    let hostile = "-rf; $(id) `id` \"'\n\\ *";
    let script = r#"printf '%s|%s|%s' "$1" "$GIVEN" "$#""#;
    let (output, _) = run(&["/bin/sh", "-c", script, "sh", hostile], &[("GIVEN", hostile)]);
    assert_eq!(output, format!("{hostile}|{hostile}|1"));
}

#[test]
fn a_variable_with_a_nul_does_not_keep_the_program_from_starting() {
    let (output, _) = run(&["/bin/sh", "-c", "printf %s \"$GIVEN\""], &[("GIVEN", "a\0b")]);
    assert_eq!(output, "a\u{fffd}b");
}

#[test]
fn a_program_gets_the_standard_descriptors_alone_and_reads_nothing() {
    // What this process was born with, and what it opens afterwards by its own means.
    inherit_nothing().unwrap();
    let pipes = std::rc::Rc::new(crate::net::pipe::PipePool::new(1)).lend(0).unwrap();
    // The directory itself is the fourth.
    let (output, _) = run(&["/bin/sh", "-c", "cat; ls /proc/self/fd | tr '\\n' ' '"], &[]);
    assert_eq!(output, "0 1 2 3 ");
    drop(pipes);
}

#[test]
fn a_program_that_is_dropped_is_killed_with_its_group_and_leaves_no_zombie() {
    on_control_thread(async {
        let mut child = shell("sleep 1000 & trap '' TERM; echo $$ $!; wait; sleep 1000");
        let pids = first_line(&mut child).await;
        let (leader, other) = pids.split_once(' ').unwrap();
        assert!(is_running(leader) && is_running(other));
        drop(child);
        eventually("the group is killed", || !is_running(leader) && !is_running(other)).await;
        eventually("it is reaped", || !exists(leader)).await;
    });
}

#[test]
fn what_a_program_leaves_behind_goes_on_and_is_not_waited_for() {
    let started = Instant::now();
    let (output, status) = run(&["/bin/sh", "-c", "sleep 1000 & echo $!"], &[]);
    assert!(status.success() && started.elapsed() < PATIENCE / 2);
    assert!(is_running(output.trim()));
    let pid = output.trim().parse().ok().and_then(Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_group_can_be_killed_after_the_program_has_ended_and_before_it_is_reaped() {
    on_control_thread(async {
        let mut child = shell("sleep 1000 & echo $!");
        let mut output = Vec::new();
        child.ended(|bytes| output.extend_from_slice(bytes)).await;
        let left = String::from_utf8(output).unwrap();
        assert!(is_running(left.trim()));
        child.kill();
        eventually("it is killed", || !is_running(left.trim())).await;
        assert!(child.reap().await.unwrap().success());
    });
}

#[test]
fn a_group_that_is_asked_to_end_ends_by_that_signal() {
    on_control_thread(async {
        let mut child = shell("echo; exec sleep 1000");
        first_line(&mut child).await;
        child.terminate();
        child.ended(|_| {}).await;
        assert_eq!(child.reap().await.unwrap().signal(), Some(15));
    });
}

#[test]
fn a_flood_of_output_is_slowed_down() {
    on_control_thread(async {
        let mut child = shell("exec yes");
        let mut bytes = 0;
        let flood = child.ended(|part| bytes += part.len());
        let time = Duration::from_millis(300);
        assert!(tokio::time::timeout(time, flood).await.is_err());
        let most = CHUNK * 2 * (time.as_millis() as usize);
        assert!((1..most).contains(&bytes), "{bytes} bytes");
    });
}

#[test]
fn a_program_that_is_not_there_is_an_error_and_no_shortage() {
    on_control_thread(async {
        let error = Child::start(&["/no/such/program".to_owned()], []).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!is_shortage(&error));
        assert!(is_shortage(&io::Error::from_raw_os_error(libc::EAGAIN)));
    });
}
