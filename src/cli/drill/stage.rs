//! The stage: does what the play says, waits for what the balancer tells, and shows both.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Listening, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::node::{Door, Nodes};
use super::screen::{Screen, Tone};
use super::told::Told;
use super::users::{Score, Users};
use crate::process::Server;

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the line that is watched changes.
const GLANCE: Duration = Duration::from_millis(200);
/// How long connections have at the end.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a drill did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nothing could begin.
    #[error("the drill cannot start: {0}")]
    Start(#[source] io::Error),
    /// The balancer did not start, or refused something.
    #[error("{0}")]
    Server(String),
    /// A node did not do what it was to do.
    #[error("worker node {name}: {error}")]
    Node {
        /// Which.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// Something that must come did not.
    #[error("the drill waited {PATIENCE:?} in vain: {0}")]
    Late(String),
    /// A signal.
    #[error("the drill was stopped before its end")]
    Interrupted,
    /// Users saw failures: what they were.
    #[error("{0}")]
    Seen(String),
    /// The screen is gone: the exit code.
    #[error("cannot print")]
    Output(u8),
}

impl From<u8> for Failure {
    fn from(code: u8) -> Self {
        Self::Output(code)
    }
}

/// The signals that end a drill early.
#[derive(Debug)]
pub(super) struct Interrupt([Listening; 3]);

impl Interrupt {
    /// Takes them over: nothing ends without the nodes having been ended.
    pub(super) fn take_over() -> io::Result<Self> {
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    /// Waits for one. Cancel safe.
    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What the play is played on.
pub(super) struct Stage {
    screen: Screen,
    users: Rc<Users>,
    /// Ends them.
    coming: JoinHandle<()>,
    nodes: Nodes,
    door: Door,
    interrupt: Interrupt,
    server: Server,
    listeners: BTreeMap<String, SocketAddr>,
    feed: UnboundedReceiver<Told>,
    /// What was told in this scene.
    told: Vec<Told>,
    /// What users saw in the scenes that are over.
    total: Score,
    /// By how much time to read is shortened.
    pace: u32,
}

impl Stage {
    pub(super) fn new(
        screen: Screen,
        users: Rc<Users>,
        (nodes, door, interrupt): (Nodes, Door, Interrupt),
        (server, pace): (Server, u32),
    ) -> Result<Self, Failure> {
        let feed = follow(&server)?;
        let listeners = server
            .addresses()
            .iter()
            .filter_map(|(name, at)| Some((name.clone(), at.to_string().parse().ok()?)))
            .collect();
        let coming = spawn_local(Rc::clone(&users).come());
        let (told, total) = (Vec::new(), Score::default());
        Ok(Self {
            screen,
            users,
            coming,
            nodes,
            door,
            interrupt,
            server,
            listeners,
            feed,
            told,
            total,
            pace,
        })
    }

    /// Says what this is and where it can be watched; the time begins.
    pub(super) fn open(&mut self, text: &str) -> Result<(), Failure> {
        self.screen.start();
        self.screen.say(Tone::Scene, text)?;
        let Some(dashboard) = self.server.admin_address() else { return Ok(()) };
        Ok(self.screen.say(Tone::Plain, &format!("in a browser: http://{dashboard}/"))?)
    }

    /// A scene begins, in which users ask this listener.
    pub(super) fn scene(&mut self, listener: &str, text: &str) -> Result<(), Failure> {
        self.told.clear();
        let target = self.listeners.get(listener).copied();
        self.users.ask(target.ok_or_else(|| Failure::Server(format!("no listener {listener}")))?);
        self.screen.rest()?;
        Ok(self.screen.tell(Tone::Scene, text)?)
    }

    /// A scene is over: what users saw of it, once every request has been answered.
    pub(super) async fn curtain(&mut self) -> Result<(), Failure> {
        let users = Rc::clone(&self.users);
        let _quiet = users.pause().await;
        let score = self.users.take();
        let tone = if score.failed == 0 { Tone::Good } else { Tone::Bad };
        self.screen.users(tone, &score.line())?;
        self.total.add(score);
        Ok(())
    }

    /// The end: what users saw in all.
    pub(super) async fn verdict(&mut self) -> Result<(), Failure> {
        let users = Rc::clone(&self.users);
        let _quiet = users.pause().await;
        self.total.add(self.users.take());
        let Score { served, failed, failure, .. } = &self.total;
        if *failed > 0 {
            let (all, first) = (served + failed, failure.as_deref().unwrap_or("?"));
            return Err(Failure::Seen(format!("{failed} of {all} requests failed: {first}")));
        }
        let late = self.total.late_in_words("web-3");
        self.screen.rest()?;
        let text = format!("No user saw a failure: {served} requests served{late}");
        Ok(self.screen.say(Tone::Scene, &text)?)
    }

    /// Says what is done to a node.
    pub(super) fn say(&mut self, deed: &str) -> Result<(), Failure> {
        Ok(self.screen.tell(Tone::Deed, &format!("({deed})"))?)
    }

    /// Kills a node between two requests: what is inside dies with it, whoever balances.
    pub(super) async fn kill(&mut self, node: &str) -> Result<(), Failure> {
        let users = Rc::clone(&self.users);
        let _quiet = users.pause().await;
        self.nodes.kill(node).await
    }

    /// The kernel stops a node where it stands.
    pub(super) fn freeze(&mut self, node: &str) -> Result<(), Failure> {
        self.nodes.signal(node, Signal::STOP)
    }

    /// The node goes on.
    pub(super) fn thaw(&mut self, node: &str) -> Result<(), Failure> {
        self.say(&format!("{node} goes on: SIGCONT"))?;
        self.nodes.signal(node, Signal::CONT)
    }

    /// Somebody starts a node that was killed.
    pub(super) async fn start_again(&mut self, node: &str) -> Result<(), Failure> {
        self.say(&format!("{node} is started again by hand"))?;
        self.nodes.start_again(node).await
    }

    /// An operator moves the active role.
    pub(super) async fn failover(&self, pool: &str, to: &str) -> Result<(), Failure> {
        let Some(control) = self.server.control() else { return Err(Failure::Interrupted) };
        let moved = control.failover(pool.to_owned(), Some(to.to_owned())).await;
        moved.map(drop).map_err(|error| Failure::Server(error.to_string()))
    }

    /// Waits until this was told in this scene about a backend.
    pub(super) async fn until(&mut self, kind: &str, backend: &str) -> Result<(), Failure> {
        let is_it = |told: &Told| told.kind == kind && told.backend.as_deref() == Some(backend);
        self.wait(&format!("{kind} {backend}"), |stage| stage.told.iter().any(is_it)).await
    }

    /// Waits until a recovery action has ended so, for this backend.
    pub(super) async fn until_recovery(&mut self, result: &str, of: &str) -> Result<(), Failure> {
        let is_it = |told: &Told| {
            let about = (told.result.as_deref(), told.backend.as_deref());
            told.kind == "recovery" && about == (Some(result), Some(of))
        };
        self.wait(&format!("recovery {of} {result}"), |stage| stage.told.iter().any(is_it)).await
    }

    /// Waits until a backend is in this state.
    pub(super) async fn until_state(
        &mut self,
        (pool, backend): (&str, &str),
        state: &str,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while self.state(pool, backend).await.as_deref() != Some(state) {
            if Instant::now() > deadline {
                return Err(Failure::Late(format!("{backend} is not {state}")));
            }
            self.pass(GLANCE).await?;
        }
        Ok(())
    }

    /// A backend's state, in a word.
    async fn state(&self, pool: &str, backend: &str) -> Option<String> {
        let pool = self.server.control()?.pool(pool.to_owned()).await.ok()?;
        let found = pool.backends.iter().find(|candidate| &*candidate.name == backend)?;
        Some(found.state.to_owned())
    }

    /// Time to read, or to see that all goes on.
    pub(super) async fn watch(&mut self, time: Duration) -> Result<(), Failure> {
        self.pass(time / self.pace).await
    }

    /// Waits for so many milliseconds, whatever happens.
    async fn pass(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while self.next(end).await? {}
        Ok(())
    }

    /// Waits until this holds.
    async fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            if !self.next(end).await? {
                return Err(Failure::Late(what.to_owned()));
            }
        }
        Ok(())
    }

    /// Waits for the next thing that happens, and deals with it; whether that was before `end`.
    async fn next(&mut self, end: Instant) -> Result<bool, Failure> {
        let glance = end.min(Instant::now() + GLANCE);
        tokio::select! {
            biased;
            () = self.interrupt.wait() => return Err(Failure::Interrupted),
            () = self.server.ended() => {
                return Err(Failure::Server("the balancer has ended".to_owned()));
            }
            told = self.feed.recv() => {
                let gone = || Failure::Server("the balancer tells nothing more".to_owned());
                let told = told.ok_or_else(gone)?;
                let (tone, line) = told.line();
                self.screen.tell(tone, &line)?;
                self.told.push(told);
            }
            visitor = self.door.knock() => self.nodes.serve(visitor).await,
            () = sleep_until(glance) => {}
        }
        let score = self.users.score();
        self.screen.live(&score.line())?;
        Ok(Instant::now() < end)
    }

    /// Ends everything, however the play went.
    pub(super) async fn end(mut self) {
        let _ = self.screen.settle();
        self.coming.abort();
        self.server.stop(Some(FAREWELL)).await;
    }
}

/// What is told from now on.
fn follow(server: &Server) -> Result<UnboundedReceiver<Told>, Failure> {
    let gone = || Failure::Server("the control plane has ended".to_owned());
    let (_, mut events) = server.control().ok_or_else(gone)?.events().follow(0);
    let (teller, feed): (UnboundedSender<Told>, _) = unbounded_channel();
    drop(spawn_local(async move {
        while let Ok(event) = events.recv().await {
            // In the words of the API: what anybody who follows the events gets.
            let told = serde_json::to_value(&*event).and_then(serde_json::from_value);
            if let Ok(told) = told
                && teller.send(told).is_err()
            {
                return;
            }
        }
    }));
    Ok(feed)
}
