//! Another configuration while the program runs.

use rustix::process::Signal;

use super::support::admin::Admin;
use super::support::cli::tidegate;
use super::support::{End, PATIENCE, Proxy, Setup, TestBackend, eventually, procfs};

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
    let before = procfs::descriptors(proxy.pid()).len();
    for round in 0..100 {
        let (bad, code) = match round % 2 {
            0 => (good.replace("backends:", "backend:"), 422),
            _ => (blocked.clone(), 409),
        };
        write(&proxy, &bad);
        let answer = admin.post("/api/v1/reload", "{}");
        assert_eq!(answer.code, code, "{answer:?}");
        if code == 422 {
            assert!(answer.json()["problems"][0]["line"].is_u64(), "{answer:?}");
        }
    }
    eventually(PATIENCE, "as many descriptors as before", || {
        procfs::descriptors(proxy.pid()).len() <= before
    });
    assert_eq!(proxy.client().receive(3), b"one");
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

/// [RL-6] What is counted of a backend goes on when it is back while its connections are still open.
#[test]
fn a_backend_that_is_back_while_its_connections_go_on_is_the_same_one() {
    let (one, two) = (TestBackend::named("one"), TestBackend::named("two"));
    let both = setup(&[&one, &two]).pool("strategy: least_connections");
    let proxy = both.clone().start();
    let admin = Admin::of(&proxy);
    let clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    clients.iter().for_each(|client| drop(client.receive(3)));
    let name = one.address().to_string();
    let backend = format!("backend=\"{name}\"");
    let open = || admin.metric("tidegate_backend_connections_active", &[&backend]);
    assert!((open() - 2.0).abs() < 0.1);
    for _ in 0..3 {
        write(&proxy, &setup(&[&two]).pool("strategy: least_connections").file());
        admin.post("/api/v1/reload", "{}").ok();
        assert!(!admin.get("/metrics").body.contains(&backend), "no series of one that is gone");
        write(&proxy, &both.file());
        admin.post("/api/v1/reload", "{}").ok();
    }
    assert!((open() - 2.0).abs() < 0.1);
    let more: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    let mut names: Vec<_> = more.iter().map(|client| client.receive(3)).collect();
    names.sort();
    assert_eq!(names, [b"one", b"two"], "each had two");
    let path = format!("/api/v1/pools/app/backends/{name}/kill");
    let killed = admin.post(&path, "{}").ok();
    assert_eq!(killed["connections_total"], 3, "{killed}");
    eventually(PATIENCE, "all of one are closed", || open() < 0.1);
    let listed = admin.get("/api/v1/connections").ok();
    assert_eq!(listed.as_array().unwrap().len(), 3, "those of two go on: {listed}");
}

/// [RL-6] Whoever is listed can be closed.
#[test]
fn connections_of_a_backend_that_is_gone_can_be_killed() {
    let (one, two) = (TestBackend::named("one"), TestBackend::named("two"));
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let client = proxy.client();
    assert_eq!(client.receive(3), b"one");
    write(&proxy, &setup(&[&two]).file());
    admin.post("/api/v1/reload", "{}").ok();
    let listed = admin.get("/api/v1/connections").ok();
    assert_eq!(listed[0]["backend"], one.address(), "{listed}");
    let path = |verb| format!("/api/v1/pools/app/backends/{}/{verb}", one.address());
    let refused = admin.post(&path("drain"), "{}");
    assert_eq!(refused.code, 404, "{refused:?}");
    let killed = admin.post(&path("kill"), "{}").ok();
    assert_eq!((&killed["in_rotation"], &killed["usable"]), (&false.into(), &false.into()));
    assert_eq!(killed["reason"], "no longer configured", "{killed}");
    client.expect_end(End::Fin);
    eventually(PATIENCE, "it is forgotten", || admin.post(&path("kill"), "{}").code == 404);
}
