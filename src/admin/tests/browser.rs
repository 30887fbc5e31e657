//! The dashboard in a real browser. Needs chromium, chromedriver and python3.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::super::Options;
use super::script::World;
use super::{Endpoint, guarded};

/// The page in a browser; ends when dropped.
struct Page {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Page {
    /// Opens the page and waits until it is live; `None` where a program is missing.
    #[allow(clippy::print_stderr, reason = "says why it is skipped")]
    async fn open(endpoint: &Endpoint, arguments: &[&str]) -> Option<Self> {
        let is_there = |name: &str| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|folder| folder.join(name).is_file())
        };
        for (name, package) in
            [("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("python3", "python3")]
        {
            if !is_there(name) {
                let reason = format!("{name} is not installed (package {package})");
                assert!(std::env::var_os("TIDEGATE_REQUIRE_REAL").is_none(), "{reason}");
                eprintln!("SKIPPED: {reason}");
                return None;
            }
        }
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/dashboard.py"))
            .arg(format!("http://{}/", endpoint.address))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut page = Self { child, lines };
        assert_eq!(page.line().await, "LOADED");
        Some(page)
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(90), self.lines.next_line());
        line.await.expect("the browser says something in time").unwrap().unwrap_or_default()
    }

    /// Lets it go on, and gives what it says until it ends, which must be in order.
    async fn finish(mut self) -> Vec<String> {
        self.child.stdin.take().unwrap().write_all(b"\n").await.unwrap();
        let mut said = Vec::new();
        while let line = self.line().await
            && !line.is_empty()
        {
            said.push(line);
        }
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{}", said.join("\n"));
        said
    }
}

#[tokio::test]
async fn an_eviction_is_on_the_page_within_two_seconds_and_the_console_is_empty() {
    let endpoint = Endpoint::start(Options::default()).await;
    let expect = "app/app-2 unhealthy for 0s: <b>refused</b>";
    let Some(page) = Page::open(&endpoint, &["--expect", expect, "--within", "2"]).await else {
        return;
    };
    endpoint.world.lock().unwrap().set("app", "app-2", "unhealthy", "<b>refused</b>");
    let said = page.finish().await;
    assert!(said[0].starts_with("SHOWN "), "{said:?}");
}

#[tokio::test]
async fn the_page_asks_for_the_token_and_then_shows_500_backends() {
    let endpoint = Endpoint::with(World::new(498), guarded()).await;
    let script = "return document.querySelectorAll('#pools .row:not(.head)').length";
    let Some(page) = Page::open(&endpoint, &["--token", "s3cret", "--do", script]).await else {
        return;
    };
    assert_eq!(page.finish().await, ["DID 500"]);
}

#[tokio::test]
async fn a_drain_by_keyboard_is_confirmed_and_done() {
    let endpoint = Endpoint::start(Options::default()).await;
    let script = "const row = document.querySelectorAll('#pools .row:not(.head)')[1];
        row.focus();
        row.dispatchEvent(new KeyboardEvent('keydown', { key: 'd', bubbles: true }));
        const asked = document.getElementById('confirm-head').textContent;
        document.getElementById('confirm-yes').click();
        return asked";
    let Some(page) = Page::open(&endpoint, &["--do", script, "--settle", "0.2"]).await else {
        return;
    };
    assert_eq!(page.finish().await, ["DID \"Drain app/app-2?\""]);
    assert_eq!(endpoint.world.lock().unwrap().asked, ["Drain app/app-2"]);
}

#[tokio::test]
async fn of_many_backends_pools_are_folded_and_the_pool_that_is_down_stands_first() {
    let endpoint = Endpoint::with(World::new(60), Options::default()).await;
    let script = "const open = () => document.querySelectorAll('#pools details[open]').length;
        const told = [open(), document.querySelector('#troubles button').textContent.split(' for ')[0]];
        const search = document.getElementById('search');
        search.value = 'app-59';
        search.dispatchEvent(new Event('input'));
        told.push(open(), [...document.querySelectorAll('#pools .row:not(.head)')].filter((e) => e.checkVisibility()).length);
        document.querySelector('#troubles button').click();
        told.push(document.activeElement.getAttribute('aria-label'), document.title);
        return told";
    let Some(page) = Page::open(&endpoint, &["--settle", "1.5", "--do", script]).await else {
        return;
    };
    {
        let mut world = endpoint.world.lock().unwrap();
        for (pool, backend) in [("db", "db-1"), ("db", "db-2"), ("app", "app-7")] {
            world.set(pool, backend, "unhealthy", "3 checks failed in a row");
        }
    }
    let said = page.finish().await;
    let told = r#"[0, "db/db-1 unhealthy", 2, 1, "db/db-1, unhealthy", "\u2715 1 pool down \u00b7 tidegate"]"#;
    assert_eq!(said, [format!("DID {told}")]);
}

#[tokio::test]
async fn who_has_no_token_is_asked_for_it_once_and_the_instance_is_left_alone() {
    let endpoint = Endpoint::with(World::new(3), guarded()).await;
    let script = "return document.getElementById('verdict-text').textContent";
    let Some(page) = Page::open(&endpoint, &["--cancel", "--do", script]).await else { return };
    assert_eq!(page.finish().await, ["DID \"This instance asks for its token.\""]);
}
