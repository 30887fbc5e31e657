use std::net::SocketAddr;

use clap::Parser;

use super::*;
use crate::admin::tests::Endpoint;
use crate::admin::tests::script::{Shared, World};
use crate::admin::{Options, Token};
use crate::cli::{Arguments, Command, FAILED, WRONG};

/// An endpoint on a thread of its own, which ends with the process.
fn endpoint(options: Options) -> (String, Shared) {
    let (tell, told) = std::sync::mpsc::channel::<(SocketAddr, Shared)>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::with(World::new(3), options).await;
            tell.send((endpoint.address, endpoint.world.clone())).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let (address, world) = told.recv().unwrap();
    (format!("http://{address}"), world)
}

/// What a command line prints, run against this endpoint.
fn run(place: &str, line: &str) -> Result<String, Failure> {
    let words = ["tidegate"].into_iter().chain(line.split(' ')).chain(["--admin", place]);
    match Arguments::try_parse_from(words).unwrap().command {
        Command::Status(arguments) => arguments.run(),
        Command::Drain(arguments) => arguments.run("drain"),
        Command::Enable(arguments) => arguments.run("enable"),
        Command::Disable(arguments) => arguments.run("disable"),
        Command::Weight(arguments) => arguments.run(),
        Command::Failover(arguments) => arguments.run(),
        Command::Kill(arguments) => arguments.run(),
        Command::Explain(arguments) => arguments.run(),
        Command::Reload(arguments) => reload(&arguments),
        Command::Events(arguments) => {
            arguments.recent(&Client::new(&arguments.common.instance).unwrap())
        }
        Command::Top(arguments) => arguments.run(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn status_shows_every_pool_and_backend() {
    let (place, world) = endpoint(Options::default());
    world.lock().unwrap().set("app", "app-2", "unhealthy", "3 checks failed:\u{1b}[2J refused");
    let shown = run(&place, "status").unwrap();
    assert!(shown.starts_with("tidegate "), "{shown}");
    assert!(shown.contains("pool app: least_connections, 2 of 3 in rotation\n"), "{shown}");
    assert!(
        shown.contains("pool db: hot_standby, 1 of 2 in rotation, db-1 is active\n"),
        "{shown}"
    );
    let row = shown.lines().find(|line| line.starts_with("app-2")).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[1..3], ["unhealthy", "no"]);
    assert!(row.ends_with(r"3 checks failed:\u{1b}[2J refused"), "{row}");
    let one = run(&place, "status db").unwrap();
    assert!(one.starts_with("pool db") && !one.contains("app-1"), "{one}");
}

#[test]
fn a_word_about_a_backend_reaches_it() {
    let (place, world) = endpoint(Options::default());
    for (line, said) in [
        ("drain app/app-1", "app/app-1 is draining"),
        ("enable app/app-1", "app/app-1 is healthy"),
        ("disable app/app-1", "app/app-1 is disabled"),
        ("weight app/app-2 7", "weight 7"),
        ("kill app/app-2 --idle 10m", "no connection is open"),
        ("failover db", "db-2 is active in pool db\n"),
        ("failover db db-1", "db-1 is active in pool db\n"),
        ("reload", "backends added: app/app-9\n"),
    ] {
        let shown = run(&place, line).unwrap();
        assert!(shown.contains(said), "{line}: {shown}");
    }
    assert_eq!(
        world.lock().unwrap().asked,
        [
            "Drain app/app-1",
            "Enable app/app-1",
            "Disable app/app-1",
            "Weight(7) app/app-2",
            "Kill { idle: Some(600s) } app/app-2",
            "reload",
        ]
    );
    let events = run(&place, "events").unwrap();
    assert!(
        events.contains(
            "db-1 → db-2, detected in 0 ms, taken over in 14 ms; 3 retried, 12 cut, 0 lost"
        ),
        "{events}"
    );
}

#[test]
fn explain_names_the_pick_and_why_the_others_are_out() {
    let (place, world) = endpoint(Options::default());
    world.lock().unwrap().set("app", "app-1", "ejected", "3 connects refused");
    let shown = run(&place, "explain --listener web --source 192.0.2.7").unwrap();
    assert!(shown.contains("no      ejected: 3 connects refused"), "{shown}");
    assert!(
        shown.ends_with(
            "pick: app-2: least_connections: the fewest open connections for its weight\n"
        ),
        "{shown}"
    );
}

#[test]
fn with_json_the_answer_is_printed_as_it_is() {
    let (place, _) = endpoint(Options::default());
    for line in [
        "status --json",
        "status db --json",
        "drain app/app-1 --json",
        "failover db --json",
        "events --json",
        "explain --listener web --source ::1 --json",
        "reload --json",
        "top --json",
    ] {
        let shown = run(&place, line).unwrap();
        assert!(serde_json::from_str::<Value>(&shown).is_ok(), "{line}: {shown}");
    }
}

#[test]
fn what_is_refused_says_why_and_ends_with_1() {
    let (place, world) = endpoint(Options::default());
    world.lock().unwrap().problems = vec![crate::config::Problem {
        line: 3,
        column: 5,
        path: "pools.app".to_owned(),
        message: "nothing is right".to_owned(),
    }];
    for (line, said) in [
        ("status nope", "there is no pool \"nope\""),
        ("drain app/nope", "has no backend \"nope\""),
        ("failover app", "no hot standby"),
        ("reload", "3:5: pools.app: nothing is right"),
    ] {
        let failure = run(&place, line).unwrap_err();
        assert_eq!(failure.code, FAILED);
        assert!(failure.message.contains(said), "{line}: {}", failure.message);
    }
}

#[test]
fn an_instance_that_is_not_there_is_told_with_what_to_do() {
    let failure = run("http://127.0.0.1:1", "status").unwrap_err();
    assert_eq!(failure.code, FAILED);
    assert!(failure.message.contains("is tidegate running"), "{}", failure.message);
    let failure = run("unix:/nowhere/admin.sock", "status").unwrap_err();
    assert!(failure.message.contains("unix:/nowhere/admin.sock"), "{}", failure.message);
}

#[test]
fn the_token_comes_from_a_file() {
    let token = Some(Token::new("s3cret").unwrap());
    let (place, _) = endpoint(Options { token, ..Options::default() });
    let file = std::env::temp_dir().join(format!("tidegate-token-{}", std::process::id()));
    std::fs::write(&file, "s3cret\n").unwrap();
    let line = format!("status --token-file {}", file.display());
    assert!(run(&place, &line).is_ok());
    std::fs::write(&file, "wrong").unwrap();
    let failure = run(&place, &line).unwrap_err();
    assert!(failure.message.contains("--token-file"), "{}", failure.message);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&place, &line).unwrap_err().code, WRONG, "a file that is not there");
}

#[test]
fn events_are_followed_as_they_happen() {
    let (place, world) = endpoint(Options::default());
    world.lock().unwrap().set("app", "app-1", "unhealthy", "first");
    let instance = Instance { admin: Some(place), token_file: None };
    let client = Client::new(&instance).unwrap();
    let mut heard = Vec::new();
    client
        .follow(0, |event| {
            heard.push(story(&event));
            if heard.len() == 1 {
                world.lock().unwrap().set("app", "app-1", "healthy", "second");
            }
            if heard.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(heard, ["probe: first", "probe: second"]);
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    for line in [
        "drain app",
        "drain /a",
        "weight app/a -1",
        "weight app/a 65536",
        "kill app/a --idle soon",
        "explain --listener web --source here",
        "completions klingon",
    ] {
        let words = ["tidegate"].into_iter().chain(line.split(' '));
        assert_eq!(Arguments::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
    }
    assert_eq!(parse_target("app/unix:/run/x").unwrap().backend, "unix:/run/x");
}

#[test]
fn a_manual_page_and_completions_name_every_command() {
    for line in ["man", "completions bash", "completions zsh", "completions fish"] {
        let words = ["tidegate"].into_iter().chain(line.split(' '));
        let shown = match Arguments::try_parse_from(words).unwrap().command {
            Command::Man(arguments) => arguments.run().unwrap(),
            Command::Completions(arguments) => arguments.run(),
            other => panic!("{other:?}"),
        };
        for command in ["status", "failover", "explain", "top"] {
            assert!(shown.contains(command), "{line} does not name {command}");
        }
    }
}
