//! The access log of the real program.

use rustix::process::Signal;
use serde_json::Value;

use super::guard::routes::hello;
use super::support::admin::Admin;
use super::support::setup::Scratch;
use super::support::{
    BlackHole, End, PATIENCE, Refusing, Setup, TestBackend, eventually, ms, pause,
};

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
fn an_attempt_that_the_deadline_cuts_off_is_in_the_line() {
    let (hole, scratch) = (BlackHole::new(), Scratch::new());
    let path = scratch.path().join("access.log").to_str().unwrap().to_owned();
    let setup = Setup::to([hole.address()]).with_log(&format!(", access: \"{path}\""));
    let proxy = setup.pool("connect: {timeout: 30s, deadline: 200ms}").start();
    proxy.client().expect_end(End::Reset);
    eventually(PATIENCE, "it has its line", || lines(&path).len() == 1);
    let line: Value = serde_json::from_str(&lines(&path)[0]).unwrap();
    assert_eq!(
        (&line["end"], &line["tried"][0]["error"]),
        (&"connect_failed".into(), &"timeout".into())
    );
    assert!(line["tried"][0]["ms"].as_u64().unwrap() >= 190, "{line}");
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

/// A file as `Setup` writes it, but with the log as text.
fn in_text(setup: &Setup) -> String {
    setup.file().replace("format: json", "format: text")
}

#[test]
fn in_text_a_connection_is_a_line_of_keys_and_values() {
    let backend = TestBackend::named("one");
    let scratch = Scratch::new();
    let path = scratch.path().join("access.log").to_str().unwrap().to_owned();
    let setup = Setup::to([format!("{{name: one, address: \"{}\"}}", backend.address())])
        .with_log(&format!(", access: \"{path}\""));
    let proxy = setup.clone().start();
    std::fs::write(proxy.directory().join("tidegate.yaml"), in_text(&setup)).unwrap();
    proxy.signal(Signal::HUP);
    let mut source = String::new();
    // Until the reload is done lines are JSON.
    eventually(PATIENCE, "a line in text", || {
        let client = proxy.client();
        client.expect("one");
        client.expect_echo("hello");
        source = client.local().to_string();
        client.fin();
        client.expect_end(End::Fin);
        let seen = lines(&path).len();
        eventually(PATIENCE, "its line", || lines(&path).iter().any(|l| l.contains(&source)));
        seen < 1000 && lines(&path).last().unwrap().starts_with("time=")
    });
    let line = lines(&path).pop().unwrap();
    let pairs: Vec<_> = line.split(' ').map(|pair| pair.split_once('=').unwrap()).collect();
    let keys: Vec<_> = pairs.iter().map(|(key, _)| *key).collect();
    assert_eq!(
        keys.join(" "),
        "time listener local source peer pool backend backend_address tried connect_ms \
         first_byte_ms bytes_in bytes_out duration_ms end sni"
    );
    let value = |key: &str| pairs.iter().find(|(k, _)| *k == key).unwrap().1;
    assert_eq!(value("source"), source, "{line}");
    assert_eq!(value("local"), proxy.address(), "{line}");
    assert_eq!(value("backend_address"), backend.address(), "{line}");
    assert_eq!([value("peer"), value("tried"), value("sni")], ["-"; 3], "{line}");
    assert_eq!([value("bytes_in"), value("bytes_out")], ["5", "8"], "{line}");
    assert!(value("time").len() == 24 && value("time").ends_with('Z'), "{line}");
}

#[test]
fn a_name_from_the_wire_stays_in_its_line_in_both_formats() {
    let backend = TestBackend::echo();
    // Only what is a host name is matched; whatever else was asked for may stand in the log.
    let names = ["a.example", "x end=killed sni=y", "a\r\nb\u{1b}[2J", "\u{202e}\"},{\"end\":\"x"];
    for format in ["json", "text"] {
        let scratch = Scratch::new();
        let path = scratch.path().join("access.log").to_str().unwrap().to_owned();
        let text = format!(
            "listeners: {{web: {{bind: \"127.0.0.1:0\", routes: [{{match: {{tls: true}}, pool: app}}]}}}}\n\
             pools: {{app: {{backends: [\"{}\"]}}}}\n",
            backend.address()
        );
        let setup = Setup::yaml(text).with_log(&format!(", access: \"{path}\""));
        let proxy = setup.clone().start();
        if format == "text" {
            std::fs::write(proxy.directory().join("tidegate.yaml"), in_text(&setup)).unwrap();
            proxy.signal(Signal::HUP);
            eventually(PATIENCE, "a line in text", || {
                proxy.client().fin();
                pause(ms(30));
                lines(&path).last().is_some_and(|line| line.starts_with("time="))
            });
        }
        let before = lines(&path).len();
        for name in names {
            let client = proxy.client();
            let begin = hello(Some(name), None, 4096);
            client.send(&begin);
            client.expect(&begin);
            client.fin();
            client.expect_end(End::Fin);
        }
        let all = before + names.len();
        eventually(PATIENCE, "a line each", || lines(&path).len() >= all);
        assert_eq!(lines(&path).len(), all, "no name has made a line of its own");
        for line in &lines(&path)[before..] {
            assert!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line:?}");
            if format == "json" {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["end"], "client_closed", "{line}");
            } else {
                assert!(line.contains(" end=client_closed sni="), "{line}");
            }
        }
        assert!(lines(&path)[before].contains("a.example"), "{:?}", lines(&path));
    }
}

#[test]
fn while_the_reader_of_a_pipe_stalls_connections_go_on_and_lost_lines_are_counted() {
    const CONNECTIONS: usize = 24_000;
    let backend = TestBackend::echo();
    let scratch = Scratch::new();
    let path = scratch.path().join("access.pipe").to_str().unwrap().to_owned();
    make_pipe(&path);
    // Both ends, so that whoever opens it to write need not wait; nothing is read yet.
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let proxy = Setup::to([backend.address()])
        .listener("deny: [127.0.0.0/8]")
        .with_log(&format!(", access: \"{path}\""))
        .head("admin: {bind: \"127.0.0.1:0\"}")
        .start();
    let admin = Admin::of(&proxy);
    let dropped = || admin.metric("tidegate_access_log_dropped_total", &[]) as usize;
    let each = super::support::at_once(4, |_| {
        (0..CONNECTIONS / 4).for_each(|_| proxy.client().expect_end(End::Reset));
        CONNECTIONS / 4
    });
    assert_eq!(each.iter().sum::<usize>(), CONNECTIONS);
    eventually(PATIENCE, "lines are lost", || dropped() > 0);
    let lost = dropped();
    // The reader is there again: what waited is written, all of it, and no more is lost.
    let (to, from) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::Read;
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            let lines = buffer[..count].iter().filter(|byte| **byte == b'\n').count();
            if to.send(lines).is_err() {
                return;
            }
        }
    });
    let mut read = 0;
    eventually(PATIENCE, "every line was written or counted", || {
        read += from.try_iter().sum::<usize>();
        read + lost == CONNECTIONS
    });
    assert_eq!(dropped(), lost);
}

fn make_pipe(path: &str) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_pipe_that_nobody_reads_is_refused_and_waited_for_by_nobody() {
    let backend = TestBackend::named("one");
    let scratch = Scratch::new();
    let path = scratch.path().join("access.pipe").to_str().unwrap().to_owned();
    make_pipe(&path);
    let plain = Setup::to([backend.address()]).head("admin: {bind: \"127.0.0.1:0\"}");
    let logging = plain.clone().with_log(&format!(", access: \"{path}\"")).file();
    let file = scratch.write("tidegate.yaml", &logging);
    let refused = super::support::cli::tidegate(&["run", "-c", &file]);
    assert!(refused.code == 1 && refused.stderr.contains("nobody reads this pipe"), "{refused:?}");

    let proxy = plain.start();
    let admin = Admin::of(&proxy);
    std::fs::write(proxy.directory().join("tidegate.yaml"), logging).unwrap();
    let refused = admin.post("/api/v1/reload", "{}");
    assert!(refused.code == 409 && refused.body.contains("nobody reads this pipe"), "{refused:?}");
    proxy.client().expect("one");
    assert_eq!(admin.get("/livez").code, 200, "the control thread goes on");
}
