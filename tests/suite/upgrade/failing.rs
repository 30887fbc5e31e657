//! Upgrades that go wrong: the old process goes on as if nothing had been.

use super::*;
use crate::support::{End, SLACK, ms, pause};

/// A program whose binary can be replaced, and its admin endpoint.
fn start(backend: &TestBackend, more: impl FnOnce(Setup) -> Setup) -> (Proxy, Admin) {
    let setup = Setup::to([backend.address()]).head(ADMIN).replaceable();
    let proxy = more(setup).start();
    let admin = Admin::of(&proxy);
    (proxy, admin)
}

/// Asks for an upgrade that goes wrong, and waits until that is said, with these words.
#[track_caller]
fn fail_to_upgrade(proxy: &Proxy, why: &str) {
    let failures = || {
        let lines = proxy.log().lines();
        lines.iter().filter(|line| said(line, "this process goes on") && said(line, why)).count()
    };
    let before = failures();
    proxy.signal(Signal::USR2);
    eventually(PATIENCE, why, || failures() > before);
}

/// The process serves, answers, takes an operator's word, has no child and no descriptor more than
/// before, and hands over when the binary is a good one again.
#[track_caller]
fn expect_unharmed(mut proxy: Proxy, admin: &Admin, old: &Peer, sockets: usize) {
    old.expect_echo("still");
    proxy.client().expect("one");
    assert_eq!(admin.get("/livez").code, 200);
    eventually(PATIENCE, "an operator's word is taken", || {
        admin.post("/api/v1/reload", "{}").code == 200
    });
    let children = format!("/proc/{0}/task/{0}/children", proxy.pid());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    assert_eq!(children, "", "the new process is gone");
    eventually(PATIENCE, "no socket more", || procfs::socket_count(proxy.pid()) <= sockets);
    proxy.signal(Signal::USR2);
    let _successor = Successor::of(&proxy, 1);
    proxy.client().expect("one");
    old.fin();
    old.expect_end(End::Fin);
    proxy.expect_exit(PATIENCE);
    proxy.allow_errors();
}

/// A client of the old process, and the sockets that process has with it.
fn settled(proxy: &Proxy) -> (Peer, usize) {
    let old = proxy.client();
    old.expect("one");
    eventually(PATIENCE, "its sockets are open", || proxy.extra_sockets() >= 2);
    let admin = 1;
    (old, procfs::socket_count(proxy.pid()) + admin)
}

fn restore_binary(proxy: &Proxy) {
    let restore = "ln -f \"$0\" tidegate || cp \"$0\" new && mv new tidegate";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", restore, env!("CARGO_BIN_EXE_tidegate")]).current_dir(proxy.directory());
    shell.stderr(std::process::Stdio::null());
    let _ = shell.status();
    let (own, program) = (proxy.directory().join("tidegate"), env!("CARGO_BIN_EXE_tidegate"));
    let size = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(size(&own), size(program.as_ref()));
}

#[test]
fn a_new_process_that_exits_at_once_leaves_the_old_one_serving() {
    let backend = TestBackend::named("one");
    let (proxy, admin) = start(&backend, |setup| setup);
    let (old, sockets) = settled(&proxy);
    proxy.replace_binary("exit 3");
    for _ in 0..5 {
        fail_to_upgrade(&proxy, "ended before it served (exit status: 3)");
    }
    restore_binary(&proxy);
    expect_unharmed(proxy, &admin, &old, sockets);
}

#[test]
fn a_new_process_that_hangs_is_ended_after_five_seconds() {
    let backend = TestBackend::named("one");
    let (proxy, admin) = start(&backend, |setup| setup);
    let (old, sockets) = settled(&proxy);
    // It reads the offer and answers nothing: the harder case than one that reads nothing.
    proxy.replace_binary("cat > /dev/null & exec sleep 600");
    let begun = std::time::Instant::now();
    fail_to_upgrade(&proxy, "did not serve within 5s");
    let took = begun.elapsed();
    assert!(took > ms(4900) && took < ms(5000) + SLACK * 3, "{took:?}");
    restore_binary(&proxy);
    expect_unharmed(proxy, &admin, &old, sockets);
}

#[test]
fn a_new_process_that_answers_nonsense_is_ended() {
    let backend = TestBackend::named("one");
    let (proxy, admin) = start(&backend, |setup| setup);
    let (old, sockets) = settled(&proxy);
    for (script, why) in [
        ("printf 'HTTP/1.1 400 Bad Request' >&0; sleep 600", "could not be talked to"),
        ("printf '\\\\004\\\\000\\\\000\\\\000nope' >&0; sleep 600", "could not be talked to"),
        ("kill -9 $$", "ended before it served (signal: 9"),
    ] {
        proxy.replace_binary(script);
        fail_to_upgrade(&proxy, why);
    }
    std::fs::remove_file(proxy.directory().join("tidegate")).unwrap();
    fail_to_upgrade(&proxy, "cannot start");
    restore_binary(&proxy);
    expect_unharmed(proxy, &admin, &old, sockets);
}

#[test]
fn a_configuration_that_is_refused_leaves_the_old_process_serving() {
    let backend = TestBackend::named("one");
    let (proxy, admin) = start(&backend, |setup| setup);
    let (old, sockets) = settled(&proxy);
    let file = proxy.directory().join("tidegate.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let occupier = TestBackend::manual();
    let taken = occupier.address();
    let other = format!("listeners:\n  other: {{bind: \"{taken}\", pool: app}}");
    for (bad, said) in [
        ("nonsense: 1\n".to_owned(), "unknown key"),
        (good.replace("listeners:", &other), "listener other: cannot listen on"),
    ] {
        std::fs::write(&file, bad).unwrap();
        fail_to_upgrade(&proxy, "ended before it served");
        proxy.expect_line(said);
    }
    std::fs::write(&file, good).unwrap();
    expect_unharmed(proxy, &admin, &old, sockets);
}

#[test]
fn while_an_upgrade_is_under_way_a_second_one_and_operators_are_told_so_and_sighup_follows() {
    let backend = TestBackend::named("one");
    let (proxy, admin) = start(&backend, |setup| setup);
    let (old, sockets) = settled(&proxy);
    proxy.replace_binary("while [ ! -e go ]; do sleep 0.02; done; exit 3");
    proxy.signal(Signal::USR2);
    let status = admin.get("/api/v1/status").ok();
    let name = status["pools"][0]["backends"][0]["name"].as_str().unwrap().to_owned();
    let drain = format!("/api/v1/pools/app/backends/{name}/drain");
    eventually(PATIENCE, "the upgrade is under way", || {
        admin.post("/api/v1/reload", "{}").code == 409
    });
    let refused = admin.post(&drain, "{}");
    assert!(refused.code == 409 && refused.body.contains("an upgrade is under way"), "{refused:?}");
    proxy.signal(Signal::USR2);
    proxy.expect_line("an upgrade is under way");
    proxy.signal(Signal::HUP);
    // Both are heard: they come to the same task, one after the other.
    pause(ms(50));
    proxy.client().expect("one");
    let reloads = || admin.metric("tidegate_config_reloads_total", &["success"]);
    assert_eq!(reloads(), 0.0);
    std::fs::write(proxy.directory().join("go"), "").unwrap();
    proxy.expect_line("this process goes on");
    eventually(PATIENCE, "the reload follows", || reloads() == 1.0);
    let starts =
        proxy.log().lines().iter().filter(|l| said(l, "the binary is started anew")).count();
    assert_eq!(starts, 1);
    restore_binary(&proxy);
    expect_unharmed(proxy, &admin, &old, sockets);
}

#[test]
fn sigterm_during_an_upgrade_ends_both_and_drains() {
    let backend = TestBackend::named("one");
    let (mut proxy, _) = start(&backend, |setup| setup);
    let (old, _) = settled(&proxy);
    proxy.replace_binary("echo $$ > pid; exec sleep 600");
    proxy.signal(Signal::USR2);
    let file = proxy.directory().join("pid");
    let mut pid = None;
    eventually(PATIENCE, "the new process runs", || {
        pid = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    proxy.signal(Signal::TERM);
    eventually(PATIENCE, "the new process is ended", || !procfs::runs(pid.unwrap()));
    proxy.expect_line("stopping: no new connections");
    old.expect_echo("is served to the end");
    old.fin();
    old.expect_end(End::Fin);
    assert!(proxy.expect_exit(PATIENCE).success());
    assert!(Peer::connect_with(proxy.address(), Default::default()).is_err());
    proxy.allow_errors();
}

#[test]
fn an_old_process_that_is_killed_amid_the_upgrade_takes_the_new_one_with_it() {
    let backend = TestBackend::named("one");
    let (mut proxy, _) = start(&backend, |setup| setup);
    let program = env!("CARGO_BIN_EXE_tidegate");
    // The new one is a good one that comes late: its parent is gone by then.
    proxy.replace_binary(&format!(
        "echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; exec {program} \"$@\""
    ));
    proxy.signal(Signal::USR2);
    let file = proxy.directory().join("pid");
    eventually(PATIENCE, "the new process is on its way", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
    });
    let pid: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    proxy.signal(Signal::KILL);
    proxy.expect_exit(PATIENCE);
    std::fs::write(proxy.directory().join("go"), "").unwrap();
    eventually(PATIENCE, "no half upgraded process stays", || !procfs::runs(pid));
    proxy.allow_errors();
}

/// As it is done by hand: the old one is moved aside, and the new one put in its place.
#[test]
fn what_is_started_is_at_the_path_and_not_what_was_moved_aside() {
    let backend = TestBackend::named("one");
    let (mut proxy, _admin) = start(&backend, |setup| setup);
    let binary = proxy.directory().join("tidegate");
    std::fs::rename(&binary, proxy.directory().join("tidegate.old")).unwrap();
    restore_binary(&proxy);
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&proxy, 1);
    let runs = std::fs::read_link(format!("/proc/{}/exe", successor.pid())).unwrap();
    assert_eq!(runs.file_name(), binary.file_name(), "{runs:?}");
    proxy.expect_exit(PATIENCE);
}
