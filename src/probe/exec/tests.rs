use std::time::Instant;

use super::super::peer::{PATIENCE, ask, assert_fails, ms, rest, target};
use super::*;
use crate::net::addr::Address;

fn somewhere() -> Target {
    target(&Address::parse("[::1]:9501").unwrap())
}

fn command(parts: &[&str]) -> model::Probe {
    let command = parts.iter().map(|&part| part.to_owned()).collect();
    model::Probe::Exec(model::ExecProbe { command })
}

fn shell(script: &str) -> model::Probe {
    // A script is no template.
    command(&["/bin/sh", "-c", &script.replace('{', "{{").replace('}', "}}")])
}

fn check(script: &str) -> Outcome {
    ask(&shell(script), &somewhere(), PATIENCE).0
}

#[test]
fn the_exit_status_decides_and_the_last_line_says_why() {
    assert_eq!(check("echo all is well"), Outcome::Pass);
    assert_fails(check("echo one; echo two >&2; exit 2"), "exit status 2: two");
    assert_fails(check("exit 1"), "exit status 1");
    assert_fails(check("kill -9 $$"), "killed by signal 9");
}

#[test]
fn what_is_checked_is_told_by_placeholders_and_by_the_environment() {
    let script = r#"printf '%s ' "$@" $TIDEGATE_POOL $TIDEGATE_BACKEND $TIDEGATE_HOST $TIDEGATE_PORT; exit 1"#;
    let options =
        command(&["/bin/sh", "-c", script, "sh", "{pool}/{backend}", "{host}", "p{port}", "{{x}}"]);
    let (outcome, _) = ask(&options, &somewhere(), PATIENCE);
    assert_fails(outcome, "exit status 1: app/app-1 ::1 p9501 {x} app app-1 ::1 9501");
}

#[test]
fn a_hostile_name_is_one_argument_and_runs_nothing() {
    let mut target = somewhere();
    target.backend = "-rf;$(echo no)`echo no`".into();
    let script = r#"echo "$# $1"; test "$1" = "$TIDEGATE_BACKEND" && exit 4"#;
    let options = command(&["/bin/sh", "-c", script, "sh", "{backend}"]);
    let (outcome, _) = ask(&options, &target, PATIENCE);
    assert_fails(outcome, "exit status 4: 1 -rf;$(echo no)`echo no`");
}

/// Whether a process is there and no zombie.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[track_caller]
fn assert_ends(pid: &str) {
    let start = Instant::now();
    while is_running(pid) {
        assert!(start.elapsed() < PATIENCE, "{pid} still runs");
        rest(ms(2));
    }
}

#[test]
fn at_the_timeout_the_whole_group_is_killed_whatever_it_ignores() {
    let script = "trap '' TERM; sleep 1000 & echo $$ $!; wait; sleep 1000";
    let (outcome, took) = ask(&shell(script), &somewhere(), ms(500));
    assert!((ms(500)..ms(550)).contains(&took), "{took:?}");
    let Outcome::Fail(words) = outcome else { panic!("{outcome:?}") };
    let begin = "timed out after 500ms while waiting for the program to end, which said: ";
    let pids = words.strip_prefix(begin).unwrap();
    pids.split(' ').for_each(assert_ends);
}

#[test]
fn what_a_check_leaves_behind_is_killed() {
    let outcome = check("sleep 1000 & echo $!; exit 1");
    let Outcome::Fail(words) = outcome else { panic!("{outcome:?}") };
    assert_ends(words.strip_prefix("exit status 1: ").unwrap());
}

#[test]
fn a_program_that_floods_its_output_is_ended_in_time() {
    let (outcome, took) = ask(&shell("exec yes"), &somewhere(), ms(500));
    assert!((ms(500)..ms(550)).contains(&took), "{took:?}");
    assert!(matches!(outcome, Outcome::Fail(words) if words.ends_with("which said: y")));
}

#[test]
fn a_program_that_cannot_be_run_is_a_failure() {
    let (outcome, _) = ask(&command(&["/no/such/check"]), &somewhere(), PATIENCE);
    let words = r#"cannot run "/no/such/check": No such file or directory (os error 2)"#;
    assert_fails(outcome, words);
}
