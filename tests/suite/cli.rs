//! The command line: exit codes, where files are looked for, what is printed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::cli::{check, tidegate, tidegate_with};
use crate::support::log::Log;
use crate::support::setup::Scratch;
use crate::support::{PATIENCE, Peer, Setup, TestBackend, eventually, skipped};

const VALID: &str = "\
listeners:
  web:
    bind: 127.0.0.1:0
    pool: app
pools:
  app:
    backends: [127.0.0.1:9]
";

/// A file with two mistakes, on lines 4 and 6.
const INVALID: &str = "\
listeners:
  web:
    bind: 127.0.0.1:0
    pool: ap
pools:
  app: {strategy: leastconn, backends: [127.0.0.1:9]}
";

#[test]
fn check_accepts_a_valid_file() {
    let outcome = check(VALID);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn check_prints_every_problem_with_its_place() {
    let outcome = check(INVALID);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    for part in [
        "FILE:4:11: listeners.web.pool: ",
        "FILE:6:19: pools.app.strategy: ",
        "did you mean \"least_connections\"?",
    ] {
        assert!(outcome.stderr.contains(part), "no {part:?} in {}", outcome.stderr);
    }
}

#[test]
fn run_prints_the_same_problems_and_does_not_start() {
    let scratch = Scratch::new();
    let file = scratch.write("bad.yaml", INVALID);
    let run = tidegate(&["run", "-c", &file]);
    let check = tidegate(&["check", "-c", &file]);
    assert_eq!((run.code, check.code), (2, 2));
    for line in check.stderr.lines().filter(|line| line.starts_with(&file)) {
        assert!(run.stderr.contains(line), "no {line:?} in {}", run.stderr);
    }
}

#[test]
fn without_a_file_it_says_where_it_looked() {
    for command in ["run", "check"] {
        let outcome = tidegate(&[command]);
        if Path::new("/etc/tidegate/tidegate.yaml").exists() {
            return skipped("there is a /etc/tidegate/tidegate.yaml on this machine");
        }
        assert_eq!(outcome.code, 2, "{outcome:?}");
        for place in ["TIDEGATE_CONFIG", "conf/tidegate.yaml", "/etc/tidegate/tidegate.yaml"] {
            assert!(outcome.stderr.contains(place), "no {place} in {}", outcome.stderr);
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let outcome = tidegate(&["check", "-c", "nowhere.yaml"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("nowhere.yaml"), "{}", outcome.stderr);
}

#[test]
fn the_environment_names_the_file() {
    let scratch = Scratch::new();
    let good = scratch.write("good.yaml", VALID);
    let bad = scratch.write("bad.yaml", INVALID);
    assert_eq!(tidegate_with(&["check"], &[("TIDEGATE_CONFIG", &good)]).code, 0);
    assert_eq!(tidegate_with(&["check"], &[("TIDEGATE_CONFIG", &bad)]).code, 2);
    // What is typed wins over the environment.
    assert_eq!(tidegate_with(&["check", "-c", &good], &[("TIDEGATE_CONFIG", &bad)]).code, 0);
}

#[test]
fn the_file_of_the_working_directory_is_found() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("conf")).unwrap();
    scratch.write("conf/tidegate.yaml", VALID);
    let binary = env!("CARGO_BIN_EXE_tidegate");
    let mut command = Command::new(binary);
    command.arg("check").current_dir(scratch.path()).env_remove("TIDEGATE_CONFIG");
    assert_eq!(command.output().unwrap().status.code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_an_error_of_running() {
    let other = TestBackend::echo();
    let scratch = Scratch::new();
    let file = scratch.write("taken.yaml", VALID.replace("127.0.0.1:0", other.address()));
    let outcome = tidegate(&["run", "-c", &file]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains(other.address()), "{}", outcome.stderr);
    assert!(outcome.stderr.to_lowercase().contains("in use"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn a_limit_beyond_the_descriptors_is_refused_at_start() {
    let scratch = Scratch::new();
    let file = scratch.write("big.yaml", format!("runtime: {{max_connections: 1000000}}\n{VALID}"));
    let script = format!("ulimit -n 256; exec \"$0\" run -c {file}");
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_tidegate")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Log::default();
    log.collect(child.stderr.take().unwrap());
    let mut code = None;
    let waited = std::time::Instant::now();
    while code.is_none() && waited.elapsed() < Duration::from_secs(3) {
        code = child.try_wait().unwrap().map(|status| status.code());
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(matches!(code, Some(Some(1 | 2))), "ended with {code:?}:\n{}", log.tail());
    eventually(PATIENCE, "its output ends", || log.is_complete());
    assert!(log.whole().contains("max_connections"), "{}", log.whole());
}

#[test]
fn the_schema_is_json_schema_2020_12() {
    let outcome = tidegate(&["schema"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let schema: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let dialect = "https://json-schema.org/draft/2020-12/schema";
    assert_eq!(schema["$schema"], dialect);
    for section in ["runtime", "log", "defaults", "listeners", "pools"] {
        assert!(schema["properties"].get(section).is_some(), "no {section} in the schema");
    }
}

#[test]
fn wrong_usage_is_told_apart() {
    for arguments in [&["serve"][..], &[], &["run", "--nonsense"], &["check", "-c"]] {
        let outcome = tidegate(arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {outcome:?}");
        let help = outcome.stderr.contains("Usage") || outcome.stderr.contains("--help");
        assert!(help, "{arguments:?}: {}", outcome.stderr);
    }
    assert_eq!(tidegate(&["--help"]).code, 0);
    assert!(tidegate(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_file_and_a_listener_on_the_command_line_exclude_each_other() {
    let scratch = Scratch::new();
    let file = scratch.write("good.yaml", VALID);
    let backend = ["--backend", "127.0.0.1:9"];
    let both = ["run", "-c", &file, "--listen", "127.0.0.1:0", backend[0], backend[1]];
    assert_eq!(tidegate(&both).code, 2);
    assert_eq!(tidegate(&["run", "--listen", "127.0.0.1:0"]).code, 2, "no backend");
    assert_eq!(tidegate(&["run", backend[0], backend[1]]).code, 2, "no listener");
    let wrong = ["run", "--listen", "nonsense", backend[0], backend[1]];
    assert_eq!(tidegate(&wrong).code, 2, "no address");
    let strategy = ["--strategy", "leastconn"];
    let wrong = [&both[..1], &both[3..], &strategy].concat();
    let outcome = tidegate(&wrong);
    assert_eq!(outcome.code, 2, "no strategy");
    assert!(outcome.stderr.contains("least_connections"), "{}", outcome.stderr);
}

/// A `tidegate` with these arguments that serves until it is dropped.
struct Serving {
    child: Child,
    log: Log,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::default();
        log.collect(child.stdout.take().unwrap());
        log.collect(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// The addresses it listens on, once there are so many.
    fn addresses(&self, count: usize) -> Vec<String> {
        let find = || {
            let lines = self.log.lines();
            let listening = lines.iter().filter(|line| line.text().contains("listening"));
            listening.filter_map(|line| line.field("address")).collect::<Vec<_>>()
        };
        eventually(PATIENCE, "it listens", || find().len() >= count);
        find()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the last lines of the log:\n{}", self.log.tail());
        }
    }
}

#[test]
fn listeners_and_backends_may_be_given_without_a_file() {
    let backends = ["a", "b"].map(TestBackend::named);
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let [a, b] = backends.each_ref().map(TestBackend::address);
    let rest = ["--backend", a, "--backend", b, "--strategy", "first_available"];
    let serving = Serving::start(&[&["run"], &listen[..], &rest].concat());
    for address in serving.addresses(2) {
        Peer::connect(&address).expect("a");
        Peer::connect(&address).expect("a");
    }
}

#[test]
fn the_text_log_names_the_listener_and_its_address() {
    let backend = TestBackend::echo();
    let listen = ["run", "--listen", "127.0.0.1:0", "--backend", backend.address()];
    let serving = Serving::start(&listen);
    let address = serving.addresses(1).remove(0);
    Peer::connect(&address).expect_echo("hello");
    let lines = serving.log.lines();
    let line = lines.iter().find(|line| line.text().contains("listening")).unwrap();
    assert!(line.text().contains(&format!("address={address}")), "{}", line.text());
    assert!(!line.text().contains('\u{1b}'), "colours where no terminal is: {}", line.text());
}

#[test]
fn at_level_error_nothing_is_logged_of_a_good_start() {
    let backend = TestBackend::echo();
    let port = crate::support::proxy::free_ports(1);
    let address = format!("127.0.0.1:{}", port.start());
    let text = VALID.replace("127.0.0.1:0", &address).replace("127.0.0.1:9", backend.address());
    let scratch = Scratch::new();
    let file = scratch.write("quiet.yaml", format!("log: {{level: error}}\n{text}"));
    let serving = Serving::start(&["run", "-c", &file]);
    let options = crate::support::peer::Options::default();
    eventually(PATIENCE, "it listens", || Peer::connect_with(&address, options).is_ok());
    assert_eq!(serving.log.len(), 0, "{}", serving.log.tail());
}

#[test]
fn demo_serves_three_named_workers() {
    if std::net::TcpListener::bind("127.0.0.1:9501").is_err() {
        return skipped("port 9501 is in use");
    }
    let demo = Serving::start(&["demo"]);
    eventually(PATIENCE, "it shows what to type", || demo.log.whole().contains("curl"));
    let get = || {
        let client = Peer::connect("127.0.0.1:9501");
        client.send("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = String::from_utf8(client.receive_all().0).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
    };
    let answers: std::collections::BTreeSet<_> = (0..6).map(|_| get()).collect();
    assert_eq!(answers.len(), 3, "each answer names its worker: {answers:?}");
    drop(demo);
}

#[test]
fn the_example_of_the_suite_is_valid() {
    // What the other tests start with is what `check` accepts.
    let file = Setup::to(["127.0.0.1:9"]).listener("timeouts: {idle: 1s}").file();
    let outcome = check(&file);
    assert_eq!(outcome.code, 0, "{file}{outcome:?}");
}

/// What is shipped gives no cause for a warning, but for descriptors, of which this machine may have
/// few.
#[test]
fn check_has_no_warning_for_what_is_shipped() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let examples = std::fs::read_dir(root.join("examples")).unwrap();
    let mut files: Vec<_> = examples.map(|entry| entry.unwrap().path()).collect();
    files.push(root.join("tidegate.yaml"));
    assert!(files.len() > 7, "{files:?}");
    // Files that are named are looked at, and are not on this machine.
    let scratch = Scratch::new();
    scratch.write("token", "secret");
    let here = scratch.path().to_str().unwrap();
    let folders = ["/etc/tidegate", "/run/tidegate", "/var/lib/tidegate", "/var/log/tidegate"];
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = folders.iter().fold(text, |text, folder| text.replace(folder, here));
        let copy = scratch.write("tidegate.yaml", text);
        let outcome = tidegate_with(&["check", "-c", &copy], &[("HOST", "h")]);
        let told = outcome.stderr.lines().filter(|line| !line.contains("file descriptors"));
        assert_eq!((outcome.code, told.collect::<Vec<_>>()), (0, vec![]), "{}", file.display());
    }
}

/// One warning of each kind that is worth one, as `check` prints them.
#[test]
fn check_warns_of_what_is_valid_and_suspicious() {
    let outcome = check(
        "\
runtime: { max_connections: 4000000000 }
listeners:
  edge:
    bind: 127.0.0.1:0
    timeouts: { idle: 10s }
    routes:
      - { match: { sni: \"*.example.com\" }, pool: app }
      - { match: { sni: \"*.api.example.com\" }, pool: app }
      - { match: { tls: false, alpn: h2 }, pool: app }
      - { pool: hash }
pools:
  app: { strategy: hot_standby, backends: [127.0.0.1:9] }
  hash: { strategy: source_hash, backends: [127.0.0.1:9, 127.0.0.2:9] }
",
    );
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let expected = [
        "FILE:1:29: runtime.max_connections: warning: 4000000000 connections need more file",
        "FILE:5:23: listeners.edge.timeouts.idle: warning: an idle connection is closed after",
        "FILE:8:9: listeners.edge.routes[1]: warning: this route can never match: routes[0]",
        "FILE:9:9: listeners.edge.routes[2]: warning: this route can never match: what is no TLS",
        "FILE:10:17: listeners.edge.routes[3].pool: warning: pool \"hash\" has the strategy",
        "FILE:12:43: pools.app.backends: warning: a hot standby with one backend has nobody",
    ];
    for (line, start) in outcome.stderr.lines().zip(expected) {
        assert!(line.starts_with(start), "{start}\n{}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.lines().count(), expected.len(), "{}", outcome.stderr);
}
