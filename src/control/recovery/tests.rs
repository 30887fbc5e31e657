use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn exec(command: &[&str]) -> Action {
    exec_with(command, |_| {})
}

fn exec_with(command: &[&str], change: impl FnOnce(&mut ExecAction)) -> Action {
    let mut exec = ExecAction {
        command: command.iter().map(|&part| part.to_owned()).collect(),
        timeout: PATIENCE,
        attempts: 1,
        backoff: ms(10),
        max_per_hour: None,
        before_traffic: false,
    };
    change(&mut exec);
    Action::Exec(exec)
}

fn shell(script: &str, change: impl FnOnce(&mut ExecAction)) -> Action {
    let script = script.replace('{', "{{").replace('}', "}}");
    exec_with(&["/bin/sh", "-c", &script], change)
}

fn hook(url: &str, change: impl FnOnce(&mut WebhookAction)) -> Action {
    let mut hook = WebhookAction {
        url: url.parse().unwrap(),
        timeout: PATIENCE,
        attempts: 1,
        backoff: ms(10),
        max_per_hour: None,
    };
    change(&mut hook);
    Action::Webhook(hook)
}

fn occasion() -> Occasion {
    Occasion {
        event: Event::Evict,
        pool: "app".into(),
        backend: "app-1".into(),
        address: Address::parse("10.0.0.1:9501").unwrap(),
        cause: "probe".into(),
        evidence: "3 checks failed in a row: refused".to_owned(),
        time: "2026-01-02T03:04:05.678Z".to_owned(),
    }
}

fn on_control_thread<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = Builder::new_current_thread();
    runtime
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
        .block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

fn recovery() -> Recovery {
    Recovery::new(Clock::start())
}

async fn all(mut news: UnboundedReceiver<News>) -> Vec<What> {
    let mut all = Vec::new();
    while let Some(News { what, .. }) = news.recv().await {
        all.push(what);
    }
    all
}

/// All that is told of these actions.
fn told(actions: Vec<Action>) -> Vec<What> {
    told_by(&recovery(), actions)
}

fn told_by(recovery: &Recovery, actions: Vec<Action>) -> Vec<What> {
    on_control_thread(async {
        let (sender, news) = unbounded_channel();
        let _run = recovery.start(actions, occasion(), sender);
        all(news).await
    })
}

/// The news without times: result, number and words of each.
fn short(news: &[What]) -> Vec<String> {
    let ended =
        |ended: &Ended| format!("{} {}: {}", ended.result.as_str(), ended.attempt, ended.how);
    let line = |what: &What| match what {
        What::Attempt(index, end) => format!("{index} attempt {}", ended(end)),
        What::Action(index, end) => format!("{index} {}", ended(end)),
        What::Traffic(may) => format!("traffic {may}"),
        What::Done => "done".to_owned(),
        What::Stopped(index, end) => format!("{index} {}", ended(end)),
    };
    news.iter().map(line).collect()
}

/// Whether a process is there and no zombie.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(ms(2)).await;
    }
}

/// A file of one test, gone at its end.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let name = format!("tidegate-recovery-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn actions_run_in_order_and_a_failure_does_not_keep_the_next_from_running() {
    let news = told(vec![shell("echo no; exit 3", |_| {}), shell("echo yes", |_| {})]);
    let expected = [
        "0 attempt failure 1: exit status 3: no",
        "0 failure 1: exit status 3: no",
        "1 attempt success 1: exit status 0: yes",
        "1 success 1: exit status 0: yes",
        "done",
    ];
    assert_eq!(short(&news), expected);
}

#[test]
fn a_program_is_told_what_happened_and_gets_it_as_it_is() {
    let file = File::new("told");
    let mut occasion = occasion();
    occasion.backend = "-rf;$(id)\n`id`".into();
    occasion.evidence = "answered \"$(id)\"\0".to_owned();
    let script = format!(
        r#"printf '%s|' "$@" "$TIDEGATE_POOL" "$TIDEGATE_BACKEND" "$TIDEGATE_HOST" "$TIDEGATE_PORT" "$TIDEGATE_EVENT" "$TIDEGATE_CAUSE" "$TIDEGATE_EVIDENCE" >{file}"#
    );
    let action = exec(&[
        "/bin/sh",
        "-c",
        &script,
        "sh",
        "{pool}",
        "{backend}",
        "{host}",
        "{port}",
        "{event}",
        "{cause}",
    ]);
    on_control_thread(async {
        let (sender, news) = unbounded_channel();
        let _run = recovery().start(vec![action], occasion, sender);
        assert_eq!(short(&all(news).await).last().unwrap(), "done");
    });
    let values = "app|-rf;$(id)\n`id`|10.0.0.1|9501|evict|probe|";
    let evidence = "answered \"$(id)\"\u{fffd}|";
    assert_eq!(file.text(), format!("{values}{values}{evidence}"));
}

#[test]
fn attempts_are_made_until_one_succeeds() {
    let file = File::new("attempts");
    let script = format!("echo x >>{file}; test $(wc -l <{file}) = 3");
    let news = told(vec![shell(&script, |exec| exec.attempts = 5)]);
    let expected = [
        "0 attempt failure 1: exit status 1",
        "0 attempt failure 2: exit status 1",
        "0 attempt success 3: exit status 0",
        "0 success 3: exit status 0",
        "done",
    ];
    assert_eq!(short(&news), expected);
    let What::Action(_, ended) = &news[3] else { panic!("{news:?}") };
    // 10 ms before the second attempt, 20 ms before the third.
    assert!(ended.took >= ms(30), "{ended:?}");
}

#[test]
fn the_time_between_attempts_doubles_up_to_an_hour() {
    let seconds = |attempt| wait(Duration::from_secs(5), attempt).as_secs();
    assert_eq!([2, 3, 4, 11, 12, 100].map(seconds), [5, 10, 20, 2560, 3600, 3600]);
    assert_eq!(wait(Duration::from_secs(7200), 2).as_secs(), 7200);
    assert_eq!(wait(Duration::ZERO, 50), Duration::ZERO);
}

#[test]
fn at_the_timeout_the_group_is_asked_to_end_and_what_does_not_is_killed() {
    let script = "trap 'echo bye; exit 0' TERM; (trap '' TERM; echo $$; sleep 1000) & \
        while :; do sleep 0.01; done";
    let news = told(vec![shell(script, |exec| exec.timeout = ms(300))]);
    let What::Action(0, ended) = &news[1] else { panic!("{news:?}") };
    assert_eq!(ended.result, ActionResult::Timeout);
    assert_eq!(ended.how, "timed out after 300ms: bye");
    assert!(ended.took < ms(300) + exec::GRACE, "the one that was asked has ended by itself");

    let stubborn = "trap '' TERM; sleep 1000 & echo $$ $!; while :; do wait; done";
    let news = told(vec![shell(stubborn, |exec| exec.timeout = ms(100))]);
    let What::Action(0, ended) = &news[1] else { panic!("{news:?}") };
    assert!(ended.took >= ms(100) + exec::GRACE, "{ended:?}");
    let pids = ended.how.strip_prefix("timed out after 100ms: ").unwrap();
    on_control_thread(eventually("all are killed", || !pids.split(' ').any(is_running)));
}

#[test]
fn a_run_that_is_dropped_stops_and_nothing_follows() {
    let file = File::new("stopped");
    let first = format!("echo $$ >{file}; exec sleep 1000");
    let second = format!("echo second >>{file}");
    let actions = vec![shell(&first, |exec| exec.attempts = 3), shell(&second, |_| {})];
    on_control_thread(async {
        let (sender, news) = unbounded_channel();
        let run = recovery().start(actions, occasion(), sender);
        eventually("it runs", || file.text().ends_with('\n')).await;
        let pid = file.text().trim().to_owned();
        assert!(is_running(&pid));
        drop(run);
        let how = "0 cancelled 1: stopped: what it was for has passed";
        assert_eq!(short(&all(news).await), [how], "and the second was never begun");
        assert!(!is_running(&pid));
        assert_eq!(file.text().trim(), pid);
    });
}

#[test]
fn a_run_that_waits_for_its_next_attempt_stops_at_once() {
    on_control_thread(async {
        let (sender, mut news) = unbounded_channel();
        let failing = shell("exit 1", |exec| {
            exec.attempts = 2;
            exec.backoff = Duration::from_secs(1000);
        });
        let run = recovery().start(vec![failing], occasion(), sender);
        assert!(matches!(news.recv().await.unwrap().what, What::Attempt(0, _)));
        drop(run);
        let how = "0 cancelled 1: stopped: what it was for has passed";
        assert_eq!(short(&all(news).await), [how]);
    });
}

#[test]
fn more_runs_than_max_per_hour_are_suppressed() {
    let recovery = recovery();
    let run = || {
        let action = shell("exit 1", |exec| {
            exec.max_per_hour = NonZeroU32::new(2);
            exec.attempts = 2;
        });
        short(&told_by(&recovery, vec![action]))
    };
    // Attempts of one run are one run.
    assert_eq!(run().len(), 4);
    assert_eq!(run().len(), 4);
    let how = "0 suppressed 0: 2 runs within an hour (max_per_hour); again in 60 min";
    assert_eq!(run(), [how, "done"]);
}

#[test]
fn traffic_may_come_once_all_actions_before_it_have_succeeded() {
    let before = |script: &str| shell(script, |exec| exec.before_traffic = true);
    let after = shell("true", |_| {});
    let news = told(vec![after.clone(), before("true"), before("true")]);
    let news: Vec<_> = short(&news).into_iter().filter(|line| !line.contains("attempt")).collect();
    let (one, two, last) =
        ("1 success 1: exit status 0", "2 success 1: exit status 0", "0 success 1: exit status 0");
    assert_eq!(news, [one, two, "traffic true", last, "done"]);

    let news = told(vec![after, before("exit 1"), before("true")]);
    let news: Vec<_> = short(&news).into_iter().filter(|line| !line.contains("attempt")).collect();
    assert_eq!(news, ["1 failure 1: exit status 1", "traffic false", "done"]);
}

#[test]
fn a_program_that_cannot_be_run_is_a_failure() {
    let news = told(vec![exec(&["/no/such/action"])]);
    let how = "0 failure 1: cannot run \"/no/such/action\": No such file or directory (os error 2)";
    assert_eq!(short(&news)[1], how);
}

#[test]
fn no_more_than_a_few_run_at_once_and_all_run() {
    let file = File::new("at-once");
    let recovery = recovery();
    on_control_thread(async {
        let (sender, news) = unbounded_channel();
        let one = shell(&format!("echo + >>{file}; sleep 0.05; echo - >>{file}"), |_| {});
        let runs: Vec<_> = (0..20)
            .map(|_| recovery.start(vec![one.clone()], occasion(), sender.clone()))
            .collect();
        drop(sender);
        let news = short(&all(news).await);
        assert_eq!(news.iter().filter(|line| *line == "0 success 1: exit status 0").count(), 20);
        drop(runs);
    });
    let mut running = 0;
    let text = file.text();
    let most = text.lines().map(|line| {
        running += if line == "+" { 1 } else { -1 };
        running
    });
    let most = most.max().unwrap();
    assert!((2..=6).contains(&most), "{most} at once");
}

/// A server that answers one request with these bytes; what it got.
fn server(answer: &'static [u8]) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, got) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = request(&mut stream);
            let _ = stream.write_all(answer);
            if sender.send(request).is_err() {
                return;
            }
            if answer.is_empty() {
                // Silent, until the client has gone.
                let _ = stream.read(&mut [0]);
            }
        }
    });
    (address, got)
}

/// Head and body of a request that says how long it is.
fn request(stream: &mut impl Read) -> String {
    let mut text = String::new();
    let mut byte = [0];
    let mut left = None;
    while left != Some(0) && stream.read_exact(&mut byte).is_ok() {
        text.push(byte[0].into());
        left = left.map(|left: usize| left - 1);
        if left.is_none() && text.ends_with("\r\n\r\n") {
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            left = Some(length.map_or(0, |length| length.parse().unwrap()));
        }
    }
    text
}

#[test]
fn a_webhook_posts_what_happened_as_json() {
    let (address, got) = server(b"HTTP/1.1 204 No Content\r\n\r\n");
    let news = told(vec![hook(&format!("http://{address}/hook?x=1"), |_| {})]);
    assert_eq!(short(&news)[1..], ["0 success 1: status 204", "done"]);
    let request = got.recv().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}")), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "event": "evict",
        "pool": "app",
        "backend": "app-1",
        "address": "10.0.0.1:9501",
        "cause": "probe",
        "evidence": "3 checks failed in a row: refused",
        "time": "2026-01-02T03:04:05.678Z",
    });
    assert_eq!(body, expected);
}

#[test]
fn what_is_no_success_of_a_webhook_is_told() {
    let cases: [(&'static [u8], &str); 4] = [
        (b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n", "failure 1: status 500"),
        (
            b"HTTP/1.1 302 x\r\nlocation: http://x/\r\n\r\n",
            "failure 1: status 302; redirects are not followed",
        ),
        (b"+OK\r\n\r\n", "failure 1: answered with something that is no HTTP/1"),
        (b"", "timeout 1: timed out after 200ms while waiting for the answer"),
    ];
    for (answer, how) in cases {
        let (address, _got) = server(answer);
        let action = hook(&format!("http://{address}/"), |hook| hook.timeout = ms(200));
        assert_eq!(short(&told(vec![action]))[1], format!("0 {how}"));
    }
}

#[test]
fn a_webhook_that_nobody_listens_for_is_tried_again() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let news = told(vec![hook(&format!("http://{address}/"), |hook| hook.attempts = 2)]);
    let how = format!("refused by {address}");
    let expected = [
        format!("0 attempt failure 1: {how}"),
        format!("0 attempt failure 2: {how}"),
        format!("0 failure 2: {how}"),
        "done".to_owned(),
    ];
    assert_eq!(short(&news), expected);
}

#[test]
fn a_webhook_is_looked_up_by_name() {
    let (address, _got) = server(b"HTTP/1.1 200 OK\r\n\r\n");
    let news = told(vec![hook(&format!("http://localhost:{}/", address.port()), |_| {})]);
    assert_eq!(short(&news)[1], "0 success 1: status 200");
}

mod https {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

    use super::super::webhook::Trust;
    use super::*;
    use crate::probe::{Roots, client_config};

    const AUTHORITY: &[u8] = include_bytes!("../../../tests/data/tls/authority.pem");
    const VALID: &[u8] = include_bytes!("../../../tests/data/tls/valid.pem");
    const KEY: &[u8] = include_bytes!("../../../tests/data/tls/server.key");

    fn server() -> SocketAddr {
        let chain = vec![CertificateDer::from_pem_slice(VALID).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream: StreamOwned<_, TcpStream> = StreamOwned::new(tls, stream.unwrap());
                if request(&mut stream).starts_with("POST") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                }
            }
        });
        address
    }

    fn told_trusting(authority: Option<&[u8]>) -> String {
        let mut store = RootCertStore::empty();
        if let Some(authority) = authority {
            store.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
        }
        let config = client_config(true, &Roots::only(store)).unwrap();
        let recovery = Recovery::trusting(Clock::start(), Trust::As(config));
        let news = told_by(&recovery, vec![hook(&format!("https://{}/", server()), |_| {})]);
        short(&news)[1].clone()
    }

    #[test]
    fn a_webhook_over_tls_is_sent_to_whom_a_known_authority_vouches_for() {
        assert_eq!(told_trusting(Some(AUTHORITY)), "0 success 1: status 200");
        let unknown = "its certificate is of an authority that this host does not know";
        assert_eq!(told_trusting(None), format!("0 failure 1: {unknown}"));
    }
}

/// Else the role would wait for them for ever.
#[test]
fn actions_before_traffic_that_panic_have_failed() {
    let recovery = recovery();
    let limited = exec_with(&["true"], |exec| {
        exec.before_traffic = true;
        exec.max_per_hour = NonZeroU32::new(1);
    });
    // What is borrowed already cannot be borrowed again: as good a bug as any.
    let borrowed = recovery.0.breakers.borrow_mut();
    let told = told_by(&recovery, vec![limited]);
    drop(borrowed);
    assert_eq!(short(&told), ["traffic false", "done"]);
}

#[test]
fn what_is_left_of_a_run_is_run_and_what_is_through_is_not() {
    let file = File::new("resumed");
    let actions: Vec<_> = ["one", "two"]
        .map(|word| shell(&format!("echo {word} >> {}", file.0.display()), |_| {}))
        .into();
    on_control_thread(async {
        let (sender, mut news) = unbounded_channel();
        let run = recovery().resume((actions, 1), occasion(), sender);
        assert_eq!(run.under_way().map(|(_, through)| through), Some(1));
        while !matches!(news.recv().await.unwrap().what, What::Done) {}
        assert!(run.under_way().is_none());
    });
    assert_eq!(file.text(), "two\n");
}
