//! Another configuration while the program runs.

mod load;
mod state;
mod storm;

use rustix::process::Signal;

use super::support::admin::Admin;
use super::support::cli::tidegate;
use super::support::{PATIENCE, Proxy, Setup, TestBackend, eventually, procfs};

const HEAD: &str = "admin: {bind: \"127.0.0.1:0\"}";

fn setup(backends: &[&TestBackend]) -> Setup {
    Setup::to(backends.iter().map(|backend| backend.address())).head(HEAD)
}

fn write(proxy: &Proxy, text: &str) {
    std::fs::write(proxy.directory().join("tidegate.yaml"), text).unwrap();
}

#[test]
fn signal_request_and_command_reload_and_open_connections_go_on() {
    let (one, two) = (TestBackend::named("one"), TestBackend::named("two"));
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let old = proxy.client();
    assert_eq!(old.receive(3), b"one");
    write(&proxy, &setup(&[&one, &two]).file());
    let changed = admin.post("/api/v1/reload", "{}").ok();
    assert_eq!(changed["changed"]["backends"]["added"].as_array().unwrap().len(), 1, "{changed}");
    write(&proxy, &setup(&[&two]).file());
    proxy.signal(Signal::HUP);
    eventually(PATIENCE, "only two is used", || {
        let status = admin.get("/api/v1/status").ok();
        status["pools"][0]["backends"].as_array().unwrap().len() == 1
    });
    let client = proxy.client();
    assert_eq!(client.receive(3), b"two");
    let url = format!("http://{}", admin.address());
    let done = tidegate(&["reload", "--admin", &url]);
    assert!(done.code == 0 && done.stdout.contains("nothing has changed"), "{done:?}");
    old.send("still");
    assert_eq!(old.receive(5), b"still");
}

#[test]
fn a_hundred_bad_reloads_leave_nothing_behind() {
    let one = TestBackend::named("one");
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let good = setup(&[&one]).file();
    let taken = one.address().to_owned();
    let blocked =
        good.replace("admin: {bind: \"127.0.0.1:0\"}", &format!("admin: {{bind: \"{taken}\"}}"));
    admin.get("/livez");
    let counts =
        || (procfs::descriptors(proxy.pid()).len(), procfs::thread_times(proxy.pid()).len());
    let (before, file) = (counts(), proxy.directory().join("tidegate.yaml"));
    let resident = proxy.resident();
    for round in 0..100 {
        let (bad, code) = match round % 5 {
            0 => (Some(good.replace("backends:", "backend:")), 422),
            1 => (Some(format!("{good}\n: [")), 422),
            2 => (Some(good.replace("app: {backends", "other: {backends")), 422),
            3 => (Some(blocked.clone()), 409),
            // It is not there at all.
            _ => (None, 409),
        };
        match bad {
            Some(bad) => write(&proxy, &bad),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let answer = admin.post("/api/v1/reload", "{}");
        assert_eq!(answer.code, code, "{answer:?}");
        if code == 422 {
            assert!(answer.json()["problems"][0]["line"].is_u64(), "{answer:?}");
        }
    }
    // Threads for reading files stay a while; there are never more of them than one at a time needs.
    eventually(PATIENCE * 2, "as many descriptors and threads as before", || {
        let now = counts();
        now.0 <= before.0 && now.1 <= before.1 + 1
    });
    let grown = proxy.resident().saturating_sub(resident);
    assert!(grown < 4 << 20, "{grown} bytes more");
    assert_eq!(proxy.client().receive(3), b"one");
    let two = TestBackend::named("two");
    write(&proxy, &setup(&[&two]).file());
    admin.post("/api/v1/reload", "{}").ok();
    assert_eq!(proxy.client().receive(3), b"two", "a good one is put in force after all of them");
    assert_eq!(admin.metric("tidegate_config_reloads_total", &["failure"]), 100.0);
}

#[test]
fn the_admin_endpoint_moves_and_goes() {
    let one = TestBackend::named("one");
    let proxy = setup(&[&one]).start();
    let first = Admin::of(&proxy);
    let path = proxy.directory().join("admin.sock");
    let head = format!("admin: {{bind: \"unix:{}\"}}", path.display());
    write(&proxy, &Setup::to([one.address()]).head(&head).file());
    first.post("/api/v1/reload", "{}").ok();
    eventually(PATIENCE, "the log names the new one", || {
        Admin::of(&proxy).address().starts_with("unix:")
    });
    let second = Admin::of(&proxy);
    assert_eq!(second.get("/livez").code, 200);
    eventually(PATIENCE, "the old one is closed", || {
        first.try_ask("GET", "/livez", "", "").is_err()
    });
    write(&proxy, &Setup::to([one.address()]).file());
    second.post("/api/v1/reload", "{}").ok();
    eventually(PATIENCE, "its file is gone", || !path.exists());
}
