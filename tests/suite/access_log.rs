//! The access log of the real program.

use rustix::process::Signal;
use serde_json::Value;

use super::support::setup::Scratch;
use super::support::{PATIENCE, Refusing, Setup, TestBackend, eventually};

fn lines(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn each_connection_leaves_a_line_refused_ones_too() {
    let backend = TestBackend::named("one");
    let refusing = Refusing::new();
    let scratch = Scratch::new();
    let path = scratch.path().join("access.log").to_str().unwrap().to_owned();
    let text = format!(
        "listeners: {{web: {{bind: \"127.0.0.1:0\", pool: app, max_connections: 1, over_limit: close}}}}\n\
         pools: {{app: {{strategy: first_available, backends: [{{name: dead, address: \"{}\"}}, {{name: one, address: \"{}\"}}]}}}}\n",
        refusing.address(),
        backend.address()
    );
    let setup = Setup::yaml(text).with_log(&format!(", access: \"{path}\""));
    let proxy = setup.start();
    let client = proxy.client();
    client.send("hello");
    assert_eq!(client.receive(8), b"onehello");
    let refused = proxy.client();
    eventually(PATIENCE, "the second one is refused", || lines(&path).len() == 1);
    let line: Value = serde_json::from_str(&lines(&path)[0]).unwrap();
    assert_eq!((&line["end"], &line["pool"]), (&"over_limit".into(), &Value::Null), "{line}");
    assert_eq!(line["local"], proxy.address(), "{line}");
    drop(refused);
    client.fin();
    eventually(PATIENCE, "the first one has its line", || lines(&path).len() == 2);
    let line: Value = serde_json::from_str(&lines(&path)[1]).unwrap();
    assert_eq!(
        (&line["end"], &line["backend"]),
        (&"client_closed".into(), &"one".into()),
        "{line}"
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &8.into()), "{line}");
    assert_eq!(line["backend_address"], backend.address(), "{line}");
    assert_eq!(
        (&line["tried"][0]["backend"], &line["tried"][0]["error"]),
        (&"dead".into(), &"refused".into()),
        "{line}"
    );
    assert!(line["connect_ms"].is_u64() && line["first_byte_ms"].is_u64(), "{line}");
    assert!(line["duration_ms"].as_u64() >= line["first_byte_ms"].as_u64(), "{line}");
}

#[test]
fn a_renamed_log_is_opened_anew_on_sighup() {
    let backend = TestBackend::named("one");
    let scratch = Scratch::new();
    let path = scratch.path().join("access.log").to_str().unwrap().to_owned();
    let setup = Setup::to([backend.address()]).with_log(&format!(", access: \"{path}\""));
    let proxy = setup.start();
    let visit = || {
        let client = proxy.client();
        client.receive(3);
        client.fin();
    };
    visit();
    eventually(PATIENCE, "a line", || lines(&path).len() == 1);
    let old = format!("{path}.1");
    std::fs::rename(&path, &old).unwrap();
    proxy.signal(Signal::HUP);
    eventually(PATIENCE, "the log is there again", || std::fs::exists(&path).unwrap());
    visit();
    eventually(PATIENCE, "a line in the new one", || lines(&path).len() == 1);
    assert_eq!(lines(&old).len(), 1);
}
