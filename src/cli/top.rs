//! `top`: a running instance, live.

mod paint;
mod screen;

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};

use self::screen::{Ask, News, Screen, Step};
use super::client::{Client, Failure, Instance};
use super::remote::{part, read};

/// Between two looks at the instance.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at the keyboard.
const TICK: Duration = Duration::from_millis(100);

/// What `top` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    instance: Instance,
    /// Print one look at the instance as JSON instead, as `status` does
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let client = Client::new(&self.instance)?;
        // Asked once before the screen is taken, so that what is wrong is told in words.
        let first = client.get("/api/v1/status")?;
        if self.json {
            return Ok(super::show::json(&first));
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Failure::wrong(
                "top needs a terminal; `tidegate status` prints the same once",
            ));
        }
        let place = client.place();
        let (tell, news) = channel();
        let (ask, asked) = channel();
        let events = Client::new(&self.instance)?;
        let telling = tell.clone();
        spawn("events", move || listen(&events, &telling))?;
        spawn("status", move || look(&client, &asked, &tell))?;
        let mut screen = Screen::new(place, read(first)?, is_colored());
        let mut terminal = ratatui::try_init()
            .map_err(|error| Failure::failed(format!("cannot use this terminal: {error}")))?;
        let done = show(&mut terminal, &mut screen, &news, &ask);
        ratatui::restore();
        done.map_err(|error| Failure::failed(format!("the terminal is gone: {error}")))?;
        Ok(String::new())
    }
}

fn is_colored() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))
}

/// Draws, and does what keys say, until one says that it is enough.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    news: &Receiver<News>,
    ask: &Sender<Ask>,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        let mut patience = TICK;
        while event::poll(patience)? {
            patience = Duration::ZERO;
            let Input::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
            let step = match key.code {
                KeyCode::Char('c') if has_control => Step::Quit,
                _ if has_control => Step::Stay,
                code => screen.press(code, Instant::now()),
            };
            match step {
                Step::Quit => return Ok(()),
                // The thread lives as long as this one.
                Step::Do(what) => drop(ask.send(what)),
                Step::Stay => {}
            }
        }
        let now = Instant::now();
        screen.tick(now);
        news.try_iter().for_each(|news| screen.hear(news, now));
    }
}

/// Looks at the instance every second, and does what is asked meanwhile.
fn look(client: &Client, asked: &Receiver<Ask>, tell: &Sender<News>) {
    use std::sync::mpsc::RecvTimeoutError::Disconnected;
    loop {
        let seen = client.get("/api/v1/status").and_then(read);
        if tell.send(News::Whole(seen.map_err(|failure| failure.message))).is_err() {
            return;
        }
        match asked.recv_timeout(EVERY) {
            Ok(what) => {
                let done = carry_out(client, &what).map_err(|failure| failure.message);
                let done = done.map(|_| what.to_string());
                let _ = tell.send(News::Done(done));
            }
            Err(Disconnected) => return,
            Err(_) => {}
        }
    }
}

fn carry_out(client: &Client, what: &Ask) -> Result<Value, Failure> {
    let pool = part(what.pool());
    let nothing = json!({});
    match what {
        Ask::Drain(_, backend) => {
            client.post(&format!("/api/v1/pools/{pool}/backends/{}/drain", part(backend)), &nothing)
        }
        Ask::Enable(_, backend) => client
            .post(&format!("/api/v1/pools/{pool}/backends/{}/enable", part(backend)), &nothing),
        Ask::Failover(_, backend) => {
            client.post(&format!("/api/v1/pools/{pool}/failover"), &json!({ "backend": backend }))
        }
    }
}

/// Passes events on for as long as anybody wants them.
fn listen(client: &Client, tell: &Sender<News>) {
    let mut after = 0;
    let mut is_wanted = true;
    while is_wanted {
        let ended = client.follow(after, |event| {
            after = event["id"].as_u64().unwrap_or(after);
            is_wanted = tell.send(News::Event(event)).is_ok();
            if is_wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if ended.is_err() {
            super::remote::pause();
        }
    }
}

/// Connections and bytes of a backend per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rate {
    connections: f64,
    bytes_in: f64,
    bytes_out: f64,
}

impl Rate {
    fn plus(self, other: &Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
        }
    }
}

/// Rates of backends, by pool and name.
type Rates = HashMap<(String, String), Rate>;
