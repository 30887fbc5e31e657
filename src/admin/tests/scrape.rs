//! A real Prometheus scrapes the endpoint. Needs the package `prometheus`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::Options;
use super::Endpoint;

/// A Prometheus that scrapes an endpoint every second; ends when dropped.
struct Prometheus {
    child: Child,
    folder: std::path::PathBuf,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Prometheus {
    #[allow(clippy::print_stderr, reason = "says why it is skipped")]
    fn start(endpoint: &Endpoint) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|f| f.join("prometheus"));
        let Some(program) = found.into_iter().find(|file| file.is_file()) else {
            let reason = "prometheus is not installed (package prometheus)";
            assert!(std::env::var_os("TIDEGATE_REQUIRE_REAL").is_none(), "{reason}");
            eprintln!("SKIPPED: {reason}");
            return None;
        };
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let folder = std::env::temp_dir().join(format!("tidegate-scrape-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("prometheus.yml");
        let given = include_str!("../../../conf/prometheus/prometheus.yml")
            .replace("127.0.0.1:9900", &endpoint.address.to_string())
            .replace("15s", "1s")
            .replace(
                "alerts.yml",
                concat!(env!("CARGO_MANIFEST_DIR"), "/conf/prometheus/alerts.yml"),
            );
        std::fs::write(&config, given).unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, folder, port })
    }

    /// What it answers to a question, once it has an answer.
    async fn answer(&self, question: &str) -> Value {
        let client = Client { port: self.port };
        let start = Instant::now();
        loop {
            if let Some(answer) = client.ask(question).await {
                return answer;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no answer to {question}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

struct Client {
    port: u16,
}

impl Client {
    async fn ask(&self, question: &str) -> Option<Value> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let query: String = form_urlencoded::byte_serialize(question.as_bytes()).collect();
        let request =
            format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let first = &body["data"]["result"][0];
        first.is_object().then(|| first.clone())
    }
}

#[tokio::test]
async fn a_real_prometheus_takes_in_what_is_exposed() {
    let endpoint = Endpoint::start(Options::default()).await;
    let Some(prometheus) = Prometheus::start(&endpoint) else { return };
    let up = prometheus.answer("up{job=\"tidegate\"} == 1").await;
    assert_eq!(up["metric"]["instance"], endpoint.address.to_string());
    let state = prometheus
        .answer("tidegate_backend_state{pool=\"db\", backend=\"db-1\", state=\"unhealthy\"}")
        .await;
    assert_eq!(state["value"][1], "1");
    let buckets = prometheus.answer("count(tidegate_backend_connect_seconds_bucket)").await;
    assert_eq!(buckets["value"][1], (2 * 17).to_string());
    let samples = prometheus.answer("scrape_samples_scraped").await;
    assert!(samples["value"][1].as_str().unwrap().parse::<u32>().unwrap() > 200, "{samples}");
}
