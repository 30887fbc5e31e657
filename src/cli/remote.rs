//! Commands that ask a running instance.

use std::ops::ControlFlow;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Failure, Instance};
use super::show::{Cell, Style, Table, bytes, heading, safe, span};
use super::{client, complain, print, show};
use crate::config::unit::parse_duration;

/// What stands in a path as it is (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The columns of the longest kind of event.
const KINDS: usize = 13;

/// How long until a stream of events that broke is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What every such command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Print the endpoint's answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
    /// This pool alone
    #[arg(value_name = "POOL")]
    pool: Option<String>,
}

/// What `drain`, `enable` and `disable` take.
#[derive(Debug, clap::Args)]
pub(super) struct Backend {
    #[command(flatten)]
    common: Common,
    /// The backend
    #[arg(value_name = "POOL/BACKEND", value_parser = parse_target)]
    target: Target,
}

/// What `weight` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    #[command(flatten)]
    backend: Backend,
    /// Its share of new connections, 0 to 65535; 0: none
    #[arg(value_name = "N", value_parser = parse_weight)]
    weight: u32,
}

/// What `failover` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Failover {
    #[command(flatten)]
    common: Common,
    /// A hot-standby pool
    #[arg(value_name = "POOL")]
    pool: String,
    /// Who gets the active role [default: the next usable one in order]
    #[arg(value_name = "BACKEND")]
    backend: Option<String>,
}

/// What `kill` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    #[command(flatten)]
    backend: Backend,
    /// Only connections that were idle for so long, for example 10m
    #[arg(long, value_name = "DURATION", value_parser = check_duration)]
    idle: Option<String>,
}

/// What `events` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Events {
    #[command(flatten)]
    common: Common,
    /// Go on with what happens from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

/// What `explain` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    common: Common,
    /// The listener that the client would connect to
    #[arg(long, value_name = "L")]
    listener: String,
    /// The client's address
    #[arg(long, value_name = "IP", value_parser = parse_ip)]
    source: std::net::IpAddr,
    /// The server's name that it would ask for, over TLS
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    pool: String,
    backend: String,
}

fn parse_target(text: &str) -> Result<Target, String> {
    match text.split_once('/') {
        Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => {
            Ok(Target { pool: pool.to_owned(), backend: backend.to_owned() })
        }
        _ => {
            Err("expected POOL/BACKEND, for example app/app-1 (`tidegate status` lists them)"
                .into())
        }
    }
}

fn parse_weight(text: &str) -> Result<u32, String> {
    let most = crate::config::model::Backend::MAX_WEIGHT;
    let weight = text.parse().ok().filter(|weight| *weight <= most);
    weight.ok_or_else(|| format!("expected a whole number from 0 to {most}"))
}

fn parse_ip(text: &str) -> Result<std::net::IpAddr, String> {
    text.parse().map_err(|_| "expected an IP address such as 192.0.2.7 or 2001:db8::7".to_owned())
}

fn check_duration(text: &str) -> Result<String, String> {
    let wrong =
        |hint: String| format!("expected a duration such as 90s or 10m{}{hint}", gap(&hint));
    parse_duration(text).map(|_| text.to_owned()).map_err(wrong)
}

fn gap(hint: &str) -> &'static str {
    if hint.is_empty() { "" } else { "; " }
}

/// Percent-encodes one part of a path.
pub(super) fn part(name: &str) -> String {
    utf8_percent_encode(name, RESERVED).to_string()
}

/// A pool as the endpoint says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) strategy: String,
    pub(super) active: Option<String>,
    pub(super) backends: Vec<Node>,
}

/// A backend as the endpoint says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) in_rotation: bool,
    pub(super) since: String,
    pub(super) reason: String,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) connections_active: u64,
    pub(super) connections_total: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Everything as the endpoint says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Whole {
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) config_hash: String,
    pub(super) listeners: Vec<Listener>,
    pub(super) pools: Vec<Pool>,
}

/// A listener as the endpoint says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) addresses: Vec<String>,
    pub(super) connections_active: u64,
    pub(super) connections_total: u64,
}

/// Reads what the endpoint said.
pub(super) fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::failed(format!("the answer is not what was expected: {error}")))
}

/// Does what was asked for, and says how it went.
pub(super) fn finish(done: Result<String, Failure>) -> Result<(), u8> {
    match done {
        Ok(text) => print(&text),
        Err(failure) => {
            complain(&format!("tidegate: {}", failure.message));
            Err(failure.code)
        }
    }
}

impl Common {
    /// Asks, and shows the answer as JSON or in words.
    fn run(
        &self,
        ask: impl FnOnce(&Client) -> Result<Value, Failure>,
        show: impl FnOnce(Value, Style) -> Result<String, Failure>,
    ) -> Result<String, Failure> {
        let client = Client::new(&self.instance)?;
        let answer = ask(&client)?;
        if self.json { Ok(show::json(&answer)) } else { show(answer, Style::of_stdout()) }
    }
}

impl Status {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let path = match &self.pool {
            Some(pool) => format!("/api/v1/pools/{}", part(pool)),
            None => "/api/v1/status".to_owned(),
        };
        self.common.run(
            |client| client.get(&path),
            |answer, style| {
                if self.pool.is_some() {
                    Ok(pool_table(&read(answer)?, style))
                } else {
                    Ok(whole_table(&read(answer)?, style))
                }
            },
        )
    }
}

fn whole_table(whole: &Whole, style: Style) -> String {
    let up = span(whole.uptime_seconds);
    let head = format!("tidegate {}, up {up}, configuration {}", whole.version, whole.config_hash);
    let mut out = heading(&head, style) + "\n";
    let mut listeners = Table::new(&["LISTENER", "#OPEN", "#TOTAL", "ADDRESSES"]);
    for listener in &whole.listeners {
        listeners.row(vec![
            Cell::new(&listener.name),
            Cell::new(listener.connections_active.to_string()),
            Cell::new(listener.connections_total.to_string()),
            Cell::new(listener.addresses.join(" ")),
        ]);
    }
    out += &listeners.render(style);
    for pool in &whole.pools {
        out.push('\n');
        out += &pool_table(pool, style);
    }
    out
}

fn pool_table(pool: &Pool, style: Style) -> String {
    let used = pool.backends.iter().filter(|backend| backend.in_rotation).count();
    let all = pool.backends.len();
    let active = match &pool.active {
        Some(active) => format!(", {active} is active"),
        None => String::new(),
    };
    let head =
        format!("pool {}: {}, {used} of {all} in rotation{active}", pool.name, pool.strategy);
    let mut table = Table::new(&[
        "BACKEND", "STATE", "USED", "SINCE", "#OPEN", "#TOTAL", "#IN", "#OUT", "#WEIGHT", "#PRIO",
        "ADDRESS", "REASON",
    ]);
    table.may_lack(&["PRIO", "WEIGHT", "TOTAL", "IN", "OUT", "ADDRESS", "USED", "SINCE"]);
    for backend in &pool.backends {
        table.row(vec![
            Cell::new(&backend.name),
            Cell::colored(&backend.state),
            Cell::new(if backend.in_rotation { "yes" } else { "no" }),
            Cell::new(short_time(&backend.since)),
            Cell::new(backend.connections_active.to_string()),
            Cell::new(backend.connections_total.to_string()),
            Cell::new(bytes(backend.bytes_in)),
            Cell::new(bytes(backend.bytes_out)),
            Cell::new(backend.weight.to_string()),
            Cell::new(backend.priority.to_string()),
            Cell::new(&backend.address),
            Cell::new(&backend.reason),
        ]);
    }
    heading(&head, style) + &table.render(style)
}

/// `2026-11-26T07:49:35.123Z` as `11-26 07:49:35`.
pub(super) fn short_time(time: &str) -> String {
    match (time.get(5..10), time.get(11..19)) {
        (Some(date), Some(clock)) => format!("{date} {clock}"),
        _ => time.to_owned(),
    }
}

impl Backend {
    fn path(&self, verb: &str) -> String {
        let Target { pool, backend } = &self.target;
        format!("/api/v1/pools/{}/backends/{}/{verb}", part(pool), part(backend))
    }

    /// What has become of the backend, in a sentence.
    fn tell(&self, answer: Value) -> Result<String, Failure> {
        let node: Node = read(answer)?;
        let name = format!("{}/{}", self.target.pool, self.target.backend);
        let open = match node.connections_active {
            0 => "no connection is open".to_owned(),
            1 => "1 connection is open".to_owned(),
            open => format!("{open} connections are open"),
        };
        let state = format!("{name} is {} ({}), weight {}", node.state, node.reason, node.weight);
        Ok(format!("{}; {open}\n", safe(&state)))
    }

    pub(super) fn run(&self, verb: &str) -> Result<String, Failure> {
        let ask = |client: &Client| client.post(&self.path(verb), &json!({}));
        self.common.run(ask, |answer, _| self.tell(answer))
    }
}

impl Weight {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let body = json!({ "weight": self.weight });
        let ask = |client: &Client| client.put(&self.backend.path("weight"), &body);
        self.backend.common.run(ask, |answer, _| self.backend.tell(answer))
    }
}

impl Kill {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let body = match &self.idle {
            Some(idle) => json!({ "idle": idle }),
            None => json!({}),
        };
        let ask = |client: &Client| client.post(&self.backend.path("kill"), &body);
        self.backend.common.run(ask, |answer, _| self.backend.tell(answer))
    }
}

/// What a pool is after its role was moved.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Moved {
    name: String,
    active: Option<String>,
    preparing: Option<String>,
}

impl Failover {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let path = format!("/api/v1/pools/{}/failover", part(&self.pool));
        let body = match &self.backend {
            Some(backend) => json!({ "backend": backend }),
            None => json!({}),
        };
        self.common.run(
            |client| client.post(&path, &body),
            |answer, _| {
                let pool: Moved = read(answer)?;
                let told = match (pool.active, pool.preparing) {
                    (Some(active), _) => format!("{active} is active in pool {}", pool.name),
                    (None, Some(next)) => format!(
                        "{next} is being prepared in pool {}: it is active once its actions before \
                         traffic have succeeded; connections wait (tidegate events says how they end)",
                        pool.name
                    ),
                    (None, None) => format!("nobody is active in pool {}", pool.name),
                };
                Ok(format!("{}\n", safe(&told)))
            },
        )
    }
}

/// Asks for a reload.
pub(super) fn reload(common: &Common) -> Result<String, Failure> {
    let ask = |client: &Client| client.post("/api/v1/reload", &json!({}));
    common.run(ask, |answer, _| {
        let mut out = String::new();
        for what in ["listeners", "pools", "backends"] {
            for how in ["added", "removed", "changed"] {
                let names = answer["changed"][what][how].as_array();
                let names = names.into_iter().flatten().filter_map(Value::as_str);
                let names = names.collect::<Vec<_>>().join(", ");
                if !names.is_empty() {
                    out += &format!("{}\n", safe(&format!("{what} {how}: {names}")));
                }
            }
        }
        for (key, words) in
            [("settings", "settings changed"), ("needs_restart", "changed, and needs a restart")]
        {
            let names = answer["changed"][key].as_array().into_iter().flatten();
            let names = names.filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
            if !names.is_empty() {
                out += &format!("{}\n", safe(&format!("{words}: {names}")));
            }
        }
        if out.is_empty() {
            out = "reloaded; nothing has changed\n".to_owned();
        }
        Ok(out)
    })
}

impl Explain {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("listener", &self.listener);
        query.append_pair("source", &self.source.to_string());
        if let Some(sni) = &self.sni {
            query.append_pair("sni", sni);
        }
        let path = format!("/api/v1/explain?{}", query.finish());
        self.common.run(|client| client.get(&path), |answer, style| Ok(explained(&answer, style)))
    }
}

fn explained(answer: &Value, style: Style) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let route = match answer["route"].as_u64() {
        Some(route) => format!("route {route}"),
        None => "no route".to_owned(),
    };
    let way =
        format!("listener {}, {route}, pool {}", text(&answer["listener"]), text(&answer["pool"]));
    let mut table = Table::new(&["BACKEND", "USABLE", "REASON"]);
    for candidate in answer["candidates"].as_array().into_iter().flatten() {
        table.row(vec![
            Cell::new(text(&candidate["backend"])),
            Cell::new(if candidate["usable"] == true { "yes" } else { "no" }),
            Cell::new(text(&candidate["reason"])),
        ]);
    }
    let pick = format!("pick: {}: {}", text(&answer["pick"]), text(&answer["why"]));
    heading(&way, style) + &table.render(style) + &heading(&pick, style)
}

impl Events {
    pub(super) fn run(&self) -> Result<(), u8> {
        let client = match Client::new(&self.common.instance) {
            Ok(client) => client,
            Err(failure) => return finish(Err(failure)),
        };
        if self.follow { self.follow(&client) } else { finish(self.recent(&client)) }
    }

    fn recent(&self, client: &Client) -> Result<String, Failure> {
        let events = client.get("/api/v1/events")?;
        if self.common.json {
            return Ok(show::json(&events));
        }
        let style = Style::of_stdout();
        let lines = events.as_array().into_iter().flatten().map(|event| line(event, style));
        Ok(lines.collect())
    }

    /// Prints events until nobody reads them. When the instance goes, waits for it to come back.
    fn follow(&self, client: &Client) -> Result<(), u8> {
        let style = Style::of_stdout();
        let mut after = 0;
        let mut was_there = false;
        loop {
            let mut printed = Ok(());
            let ended = client.follow(after, |event| {
                was_there = true;
                after = event["id"].as_u64().unwrap_or(after);
                let line =
                    if self.common.json { show::json_line(&event) } else { line(&event, style) };
                printed = print(&line);
                if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            match ended {
                Ok(()) => return printed,
                Err(failure) if failure.is_absent && was_there => {
                    complain(&format!("tidegate: {}; trying again", failure.message));
                    // Its successor counts from 1; one that is the same goes on.
                    pause();
                }
                Err(failure) => return finish(Err(failure)),
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command that has nothing else to do")]
pub(super) fn pause() {
    std::thread::sleep(AGAIN);
}

/// An event on one line.
pub(super) fn line(event: &Value, style: Style) -> String {
    let mut table = Table::new(&["", "", "", ""]);
    table.row(vec![
        Cell::new(short_time(event["time"].as_str().unwrap_or_default())),
        Cell::padded(event["kind"].as_str().unwrap_or_default(), KINDS),
        Cell::new(subject(event)),
        Cell::new(story(event)),
    ]);
    let rendered = table.render(Style { width: None, ..style });
    rendered.lines().skip(1).map(|line| format!("{line}\n")).collect()
}

/// What an event is about.
pub(super) fn subject(event: &Value) -> String {
    match (event["pool"].as_str(), event["backend"].as_str()) {
        (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
        (Some(pool), None) => pool.to_owned(),
        _ => "-".to_owned(),
    }
}

/// What an event says, its cause first.
pub(super) fn story(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let (cause, evidence) = (text("cause"), text("evidence"));
    let mut story = match cause == evidence {
        true => format!("by the {cause}"),
        false => format!("{cause}: {evidence}"),
    };
    if event["kind"] == "takeover" {
        let number = |key: &str| event[key].as_u64().map_or("?".to_owned(), |n| n.to_string());
        let taken = match event["takeover_ms"].as_u64() {
            Some(ms) => format!("taken over in {ms} ms"),
            None => "no connection on it yet".to_owned(),
        };
        story += &format!(
            " ({} → {}, detected in {} ms, {taken}; {} retried, {} cut, {} lost)",
            event["from"].as_str().unwrap_or("none"),
            text("to"),
            number("detection_ms"),
            number("retried"),
            number("cut"),
            number("lost"),
        );
    }
    if event["kind"] == "recovery" {
        story += &format!(" ({}: {})", text("action"), text("result"));
    }
    for problem in client::problems(event) {
        story += &format!("; {problem}");
    }
    story
}

#[cfg(test)]
mod tests;
