//! Another configuration while the program runs.

mod load;
mod state;
mod storm;

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

#[test]
fn a_refused_reload_names_the_file_with_every_problem() {
    let one = TestBackend::named("one");
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let url = format!("http://{}", admin.address());
    let file = proxy.directory().join("tidegate.yaml").display().to_string();
    let good = setup(&[&one]).file();
    write(&proxy, &format!("nope: 1\n{good}"));
    let answer = admin.post("/api/v1/reload", "{}");
    assert_eq!(answer.code, 422, "{answer:?}");
    assert_eq!(answer.json()["file"].as_str(), Some(&*file));
    let done = tidegate(&["reload", "--admin", &url]);
    let line = format!("{file}:1:1: nope: unknown key");
    assert!(done.code == 1 && done.stderr.contains(&line), "{done:?}");
    proxy.expect_line(&line);
    // What the file names is read as well.
    let head = "admin: {bind: \"127.0.0.1:0\", token_file: /nowhere/token}";
    write(&proxy, &Setup::to([one.address()]).head(head).file());
    let answer = admin.post("/api/v1/reload", "{}");
    assert_eq!(answer.code, 422, "{answer:?}");
    let problem = &answer.json()["problems"][0];
    assert_eq!(problem["path"], "admin.token_file", "{problem}");
    assert!(problem["line"].as_u64() > Some(0), "{problem}");
    std::fs::remove_file(&file).unwrap();
    let done = tidegate(&["reload", "--admin", &url]);
    assert!(done.code == 1 && done.stderr.contains(&format!("cannot read {file}")), "{done:?}");
    assert_eq!(proxy.client().receive(3), b"one");
}

#[test]
fn a_reload_tells_what_of_the_process_has_changed_and_what_needs_a_restart() {
    let one = TestBackend::named("one");
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let url = format!("http://{}", admin.address());
    let threads = || setup(&[&one]).threads(3);
    write(&proxy, &threads().runtime("max_connections: 50").file());
    let done = tidegate(&["reload", "--admin", &url]);
    assert!(done.stdout.contains("settings changed: runtime.max_connections"), "{done:?}");
    assert!(done.stdout.contains("needs a restart: runtime.threads"), "{done:?}");
    proxy.expect_line("runtime.threads has changed");
    let done = tidegate(&["reload", "--admin", &url]);
    assert!(done.stdout.contains("nothing has changed"), "{done:?}");
}

#[test]
fn a_weight_that_is_in_force_already_is_no_news() {
    let one = TestBackend::named("one");
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let status = admin.get("/api/v1/status").ok();
    let (pool, backend) = (&status["pools"][0]["name"], &status["pools"][0]["backends"][0]);
    assert_eq!(backend["reason"], "no health_check, and nothing has failed so far", "{backend}");
    let (pool, name) = (pool.as_str().unwrap(), backend["name"].as_str().unwrap());
    let path = format!("/api/v1/pools/{pool}/backends/{name}/weight");
    for weight in [1, 2, 2, 1] {
        let answer = admin.ask("PUT", &path, "", &format!("{{\"weight\": {weight}}}"));
        assert_eq!(answer.code, 200, "{answer:?}");
    }
    let events = admin.get("/api/v1/events").ok();
    let told = events.as_array().unwrap().iter().filter(|event| event["kind"] == "weight");
    assert_eq!(told.map(|event| event["weight"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_name_that_resolves_to_its_own_listener_is_warned_of() {
    let one = TestBackend::named("one");
    let proxy = setup(&[&one]).start();
    let admin = Admin::of(&proxy);
    let (_, port) = proxy.address().rsplit_once(':').unwrap();
    let name = format!("localhost:{port}");
    write(&proxy, &Setup::to([one.address(), &name]).head(HEAD).file());
    admin.post("/api/v1/reload", "{}").ok();
    proxy.expect_line("a name resolves to a listener that leads to it");
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
