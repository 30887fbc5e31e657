//! What a wrong configuration is answered with: place, value, what was expected.

use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::cli::{check, tidegate, tidegate_with};
use crate::support::setup::Scratch;

/// A valid file; the cases below change one line of it.
const FILE: &str = "\
runtime:
  threads: 2
listeners:
  web:
    bind: 127.0.0.1:9511
    pool: app
    timeouts: {idle: 1h}
pools:
  app:
    strategy: round_robin
    backends:
      - 127.0.0.1:9601
      - {address: 127.0.0.1:9602, weight: 3}
    connect: {timeout: 1s}
";

/// Replaces a part of [`FILE`] and expects this beginning of a line of the answer, and these words
/// in that line.
#[track_caller]
fn expect_problem(old: &str, new: &str, place: &str, words: &[&str]) {
    assert!(FILE.contains(old), "{old:?} is not in the file");
    expect_problem_in(&FILE.replacen(old, new, 1), place, words);
}

#[track_caller]
fn expect_problem_in(text: &str, place: &str, words: &[&str]) {
    let outcome = check(text);
    assert_eq!(outcome.code, 2, "{text}{outcome:?}");
    let start = format!("FILE:{place}: ");
    let line = outcome.stderr.lines().find(|line| line.starts_with(&start));
    let Some(line) = line else { panic!("no line starts with {start:?}:\n{}", outcome.stderr) };
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line:?}");
    }
    let problems = outcome.stderr.lines().filter(|line| line.starts_with("FILE:")).count();
    assert_eq!(problems, 1, "one mistake, one problem:\n{}", outcome.stderr);
}

#[track_caller]
fn expect_valid(text: &str) {
    let outcome = check(text);
    assert_eq!(outcome.code, 0, "{text}{outcome:?}");
}

#[test]
fn the_file_itself_is_valid() {
    expect_valid(FILE);
}

#[test]
fn an_unknown_key_is_shown_at_the_key_with_the_nearest_name() {
    expect_problem("threads: 2", "thread: 2", "2:3: runtime.thread", &["thread", "threads"]);
    expect_problem(
        "    pool: app",
        "    pol: app\n    pool: app",
        "6:5: listeners.web.pol",
        &["pool"],
    );
    expect_problem(
        "{timeout: 1s}",
        "{timout: 1s}",
        "14:15: pools.app.connect.timout",
        &["timeout"],
    );
    expect_problem("weight: 3", "wieght: 3", "13:35: pools.app.backends[1].wieght", &["weight"]);
    expect_problem("runtime:", "run_time:", "1:1: run_time", &["runtime"]);
}

#[test]
fn keys_that_are_not_built_yet_are_unknown() {
    for key in ["health_chek: {}", "future: true"] {
        let (name, _) = key.split_once(':').unwrap();
        let place = format!("10:5: pools.app.{name}");
        let new = format!("{key}\n    strategy: round_robin");
        expect_problem("strategy: round_robin", &new, &place, &["unknown"]);
    }
}

#[test]
fn a_double_key_is_shown_where_it_comes_again() {
    let again = "    pool: app\n    pool: other";
    expect_problem("    pool: app", again, "7:5: listeners.web.pool", &["duplicate"]);
}

#[test]
fn an_unknown_strategy_is_shown_with_the_nearest_name() {
    let words = ["leastconn", "did you mean \"least_connections\"?"];
    expect_problem("round_robin", "leastconn", "10:15: pools.app.strategy", &words);
    let with = "{leastconn: {}}";
    expect_problem("round_robin", with, "10:16: pools.app.strategy", &["least_connections"]);
    let option = "{source_hash: {prefix_v5: 4}}";
    expect_problem(
        "round_robin",
        option,
        "10:30: pools.app.strategy.source_hash.prefix_v5",
        &["prefix_v4"],
    );
}

#[test]
fn a_pool_that_does_not_exist_is_shown_with_the_nearest_name() {
    expect_problem("pool: app", "pool: ap", "6:11: listeners.web.pool", &["\"ap\"", "app"]);
}

#[test]
fn a_pool_whose_weights_are_all_zero_is_refused() {
    let zero = "- {address: 127.0.0.1:9601, weight: 0}";
    let text = FILE.replace("- 127.0.0.1:9601", zero).replace("weight: 3", "weight: 0");
    let outcome = check(&text);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("pools.app"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("weight"), "{}", outcome.stderr);
}

#[test]
fn a_pool_without_backends_is_refused() {
    let start = FILE.find("    backends:").unwrap();
    let end = FILE.find("    connect:").unwrap();
    let empty = format!("{}    backends: []\n{}", &FILE[..start], &FILE[end..]);
    expect_problem_in(&empty, "11:15: pools.app.backends", &[]);
    let none = format!("{}{}", &FILE[..start], &FILE[end..]);
    expect_problem_in(&none, "10:5: pools.app.backends", &["missing"]);
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let two = "pool: app\n  other: {bind: 127.0.0.1:9511, pool: app}\n  last: {bind: 127.0.0.1:9512, pool: app}";
    let text = FILE.replace("    timeouts: {idle: 1h}\n", "");
    let text = text.replacen("pool: app", two, 1);
    expect_problem_in(&text, "7:17: listeners.other.bind", &["127.0.0.1:9511", "web"]);
    let within = "bind: [127.0.0.1:9511, \"127.0.0.1:9510-9512\"]";
    let outcome = check(FILE.replace("bind: 127.0.0.1:9511", within));
    assert_eq!(outcome.code, 2, "{outcome:?}");
    // Port 0 is another port each time.
    let free = "bind: [127.0.0.1:0, 127.0.0.1:0]";
    expect_valid(&FILE.replace("bind: 127.0.0.1:9511", free));
}

#[test]
fn a_listener_that_forwards_to_itself_is_refused() {
    let text = FILE.replace("- 127.0.0.1:9601", "- 127.0.0.1:9511");
    let outcome = check(&text);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("127.0.0.1:9511"), "{}", outcome.stderr);
    // All addresses include that one.
    let outcome = check(text.replace("bind: 127.0.0.1:9511", "bind: 0.0.0.0:9511"));
    assert_eq!(outcome.code, 2, "{outcome:?}");
}

#[test]
fn two_backends_of_one_name_are_refused() {
    let outcome = check(FILE.replace("127.0.0.1:9602", "127.0.0.1:9601"));
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("pools.app.backends[1]"), "{}", outcome.stderr);
}

#[test]
fn values_of_the_wrong_kind_are_shown_with_what_was_expected() {
    expect_problem("threads: 2", "threads: many", "2:12: runtime.threads", &["many"]);
    expect_problem("threads: 2", "threads: 0", "2:12: runtime.threads", &["0"]);
    expect_problem("threads: 2", "threads: -1", "2:12: runtime.threads", &["-1"]);
    expect_problem("idle: 1h", "idle: 1 hour", "7:22: listeners.web.timeouts.idle", &["1 hour"]);
    expect_problem("idle: 1h", "idle: 60", "7:22: listeners.web.timeouts.idle", &["60"]);
    expect_problem("timeout: 1s", "timeout: 0s", "14:24: pools.app.connect.timeout", &["0s"]);
    expect_problem("timeout: 1s", "timeout: off", "14:24: pools.app.connect.timeout", &["off"]);
    expect_problem("127.0.0.1:9511", "127.0.0.1", "5:11: listeners.web.bind", &["127.0.0.1"]);
    expect_problem("127.0.0.1:9511", "127.0.0.1:99999", "5:11: listeners.web.bind", &["99999"]);
    expect_problem("weight: 3", "weight: 4294967296", "13:43: pools.app.backends[1].weight", &[]);
    expect_problem("weight: 3", "weight: -1", "13:43: pools.app.backends[1].weight", &["-1"]);
    expect_problem("pool: app", "pool: [app]", "6:11: listeners.web.pool", &[]);
}

#[test]
fn backend_ports_are_from_1_to_65535() {
    for address in ["127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1"] {
        let new = format!("- {address}");
        expect_problem("- 127.0.0.1:9601", &new, "12:9: pools.app.backends[0]", &[address]);
    }
}

#[test]
fn names_keep_to_their_letters() {
    expect_valid(&FILE.replace("app", "App_1.b-c"));
    let outcome = check(FILE.replace("app", "\"a b\""));
    assert_eq!(outcome.code, 2, "{outcome:?}");
    let outcome = check(FILE.replace("app", &"x".repeat(129)));
    assert_eq!(outcome.code, 2, "{outcome:?}");
    expect_valid(&FILE.replace("app", &"x".repeat(128)));
}

#[test]
fn off_means_the_same_bare_and_quoted() {
    for off in ["off", "\"off\"", "'off'"] {
        expect_valid(&FILE.replace("idle: 1h", &format!("idle: {off}")));
    }
}

#[test]
fn durations_may_have_several_parts() {
    for duration in ["250ms", "2s", "1m30s", "1h", "1h2m3s4ms"] {
        expect_valid(&FILE.replace("idle: 1h", &format!("idle: {duration}")));
    }
}

#[test]
fn the_environment_fills_in_any_scalar() {
    let scratch = Scratch::new();
    let text = FILE
        .replace("threads: 2", "threads: ${TG_THREADS:-3}")
        .replace("127.0.0.1:9601", "${TG_HOST}:${TG_PORT:-9601}");
    let file = scratch.write("tidegate.yaml", text);
    let check = |environment: &[(&str, &str)]| tidegate_with(&["check", "-c", &file], environment);
    let good = check(&[("TG_HOST", "127.0.0.1")]);
    assert_eq!(good.code, 0, "{good:?}");
    let wrong = check(&[("TG_HOST", "127.0.0.1"), ("TG_THREADS", "many")]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.stderr.contains("2:12: runtime.threads: "), "{}", wrong.stderr);
    let missing = check(&[]);
    assert_eq!(missing.code, 2, "{missing:?}");
    assert!(missing.stderr.contains("TG_HOST"), "{}", missing.stderr);
}

#[test]
fn defaults_reach_listeners_and_pools_and_are_checked() {
    let defaults = "defaults:\n  listener: {timeouts: {idle: 5m}}\n  pool: {strategy: random}\n";
    expect_valid(&format!("{defaults}{FILE}"));
    let wrong = format!("defaults:\n  pool: {{strategy: randm}}\n{FILE}");
    expect_problem_in(&wrong, "2:20: defaults.pool.strategy", &["random"]);
}

#[test]
fn all_problems_of_a_file_come_at_once() {
    let text = FILE
        .replace("threads: 2", "thread: 2")
        .replace("pool: app", "pool: ap")
        .replace("round_robin", "robin")
        .replace("weight: 3", "weight: x")
        .replace("timeout: 1s", "timeout: soon");
    let outcome = check(text);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    let lines: Vec<_> = outcome.stderr.lines().collect();
    for place in ["2:3: ", "6:11: ", "10:15: ", "13:43: ", "14:24: "] {
        let found = lines.iter().any(|line| line.starts_with(&format!("FILE:{place}")));
        assert!(found, "nothing at {place}:\n{}", outcome.stderr);
    }
}

#[test]
fn broken_yaml_is_shown_with_its_place() {
    let outcome = check("listeners:\n  web: [1, 2\npools: {}\n");
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.starts_with("FILE:"), "{}", outcome.stderr);
    for text in ["", "\u{feff}", "- a\n- b\n", "just words", "null"] {
        let outcome = check(text);
        assert_eq!(outcome.code, 2, "{text:?}: {outcome:?}");
        assert!(outcome.stderr.starts_with("FILE:"), "{text:?}: {}", outcome.stderr);
    }
}

/// A FIFO that nobody has open.
fn fifo(scratch: &Scratch) -> String {
    let path = scratch.path().join("fifo");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
    path.display().to_string()
}

#[test]
fn files_and_folders_that_are_named_are_looked_at() {
    let scratch = Scratch::new();
    let (empty, fifo) = (scratch.write("empty", " \n"), fifo(&scratch));
    let token = scratch.write("token", "secret\n");
    let folder = scratch.path().display().to_string();
    let (none, nowhere) = (format!("{folder}/none"), format!("{folder}/no/file"));
    let admin = |path: &str| format!("admin: {{token_file: {path}}}\n{FILE}");
    let state = |path: &str| format!("state_file: {path}\n{FILE}");
    let access = |path: &str| format!("log: {{access: {path}}}\n{FILE}");
    for (path, words) in [
        (&none, "there is no file"),
        (&empty, "the token is empty"),
        (&folder, "a directory"),
        (&fifo, "a FIFO"),
        (&"/dev/null".to_owned(), "a device"),
    ] {
        expect_problem_in(&admin(path), "1:21: admin.token_file", &[words, path]);
    }
    for (path, words) in [(&folder, "a directory"), (&fifo, "a FIFO")] {
        expect_problem_in(&state(path), "1:13: state_file", &[words]);
        // A pipe that is read is fit for lines; whether somebody does is seen at the start.
        if path != &fifo {
            expect_problem_in(&access(path), "1:15: log.access", &[words]);
        }
    }
    let bind = |text: &str| FILE.replace("bind: 127.0.0.1:9511", &format!("bind: {text}"));
    let alone = bind(&format!("unix:{nowhere}"));
    let listed = bind(&format!("[\"127.0.0.1:9511-9513\", \"unix:{folder}\"]"));
    expect_problem_in(&listed, "5:35: listeners.web.bind[1]", &["is a directory"]);
    let endpoint = format!("admin: {{bind: \"unix:{nowhere}\"}}\n{FILE}");
    // A folder may be on the machine that the file is for: a warning.
    for (text, place) in [
        (state(&nowhere), "1:13: state_file"),
        (access(&nowhere), "1:15: log.access"),
        (alone, "5:11: listeners.web.bind"),
        (endpoint, "1:15: admin.bind"),
    ] {
        let outcome = check(&text);
        let warned = format!("{place}: warning: there is no directory");
        assert!(outcome.code == 0 && outcome.stderr.contains(&warned), "{outcome:?}");
    }
    for good in [admin(&token), state(&none), access(&none), access("/dev/null")] {
        expect_valid(&good);
    }
}

#[test]
fn a_start_says_of_files_what_check_says_and_waits_for_none() {
    let scratch = Scratch::new();
    let fifo = fifo(&scratch);
    for key in ["admin: {token_file: PATH}", "state_file: PATH"] {
        let file = scratch.write("tidegate.yaml", key.replace("PATH", &fifo) + "\n" + FILE);
        let outcome = tidegate(&["run", "-c", &file]);
        assert_eq!(outcome.code, 2, "{outcome:?}");
        assert!(outcome.stderr.starts_with(&format!("{file}:1:")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("a FIFO"), "{}", outcome.stderr);
    }
    let file = scratch.write("tidegate.yaml", format!("log: {{access: {fifo}}}\n{FILE}"));
    let outcome = tidegate(&["run", "-c", &file]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("nobody reads this pipe"), "{}", outcome.stderr);
}

#[test]
fn without_a_file_nothing_speaks_of_one_that_cannot_be_named() {
    let backend = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1"];
    let outcome = tidegate(&[&backend[..], &["--admin-bind", "0.0.0.0:9909"]].concat());
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("--admin-bind"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1:9900"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("name a file"), "{}", outcome.stderr);
}

#[test]
fn hostile_files_are_refused_quickly() {
    let bomb = (1..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, i| {
        let before = i - 1;
        text + &format!("a{i}: &a{i} [*a{before}, *a{before}, *a{before}]\n")
    });
    let cases: [(&str, Vec<u8>); 6] = [
        ("an alias bomb", bomb.into_bytes()),
        ("deep nesting", b"[".repeat(200_000)),
        ("deep mappings", b"{a: ".repeat(100_000)),
        ("ten megabytes of a word", b"word ".repeat(2 << 20)),
        ("no text", (0..=255).cycle().take(100_000).collect()),
        ("zeros", vec![0; 10 << 20]),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        let outcome = check(text);
        assert_eq!(outcome.code, 2, "{name}: {}", head(&outcome.stderr));
        assert!(!outcome.stderr.contains("panicked"), "{name}: {}", head(&outcome.stderr));
        assert!(outcome.stderr.len() < 64 * 1024, "{name}: {} bytes", outcome.stderr.len());
        // A debug build reads ten megabytes slowly; without a bound it would take for ever.
        let most = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
        assert!(start.elapsed() < most, "{name}: took {:?}", start.elapsed());
    }
}

fn head(text: &str) -> String {
    text.chars().take(500).collect()
}
