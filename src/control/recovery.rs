//! Recovery actions: programs and webhooks that follow a change of state.
//!
//! [`Recovery::start`] begins the actions of one transition and returns at once; a channel tells how
//! each attempt and each action ended, and dropping the [`Run`] stops it. At most [`AT_ONCE`] attempts
//! of the process are under way; others wait for their turn, those that hold traffic first. What a
//! program writes goes to the log. Results are for the controller to log and to count.
//!
//! Reading order: this file, `exec.rs`, `webhook.rs`; `breaker.rs` and `turns.rs` are pure.

mod breaker;
mod exec;
mod output;
mod turns;
mod webhook;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::config::model::{Action, ExecAction, WebhookAction};
use crate::net::addr::Address;
use crate::net::caught::caught;
use crate::net::clock::{Clock, Tick};
use crate::probe::text;

use breaker::Breakers;
pub use breaker::mark;
use output::Output;
pub use turns::AT_ONCE;
use turns::Turns;
use webhook::Trust;

/// The longest time between two attempts, however often it has doubled.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);

/// What an action follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A backend was evicted.
    Evict,
    /// A backend was reinstated.
    Reinstate,
    /// The active role goes to a backend.
    Takeover,
    /// A pool has no usable backend any more.
    PoolDown,
    /// A pool has a usable backend again.
    PoolUp,
}

impl Event {
    /// The word for it: in `{event}`, in a webhook, and as the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evict => "evict",
            Self::Reinstate => "reinstate",
            Self::Takeover => "takeover",
            Self::PoolDown => "pool_down",
            Self::PoolUp => "pool_up",
        }
    }

    /// The event that this is the word for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Evict, Self::Reinstate, Self::Takeover, Self::PoolDown, Self::PoolUp];
        all.into_iter().find(|event| event.as_str() == word)
    }
}

/// What happened, as actions are told.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// What kind of thing.
    pub event: Event,
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// Where the backend is.
    pub address: Address,
    /// Who or what changed the state, in a word.
    pub cause: Arc<str>,
    /// Why, in words.
    pub evidence: String,
    /// When, as RFC 3339 has it.
    pub time: String,
}

/// How an attempt or a run ended: the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionResult {
    /// Exit status 0, or an answer of 200 to 299.
    Success,
    /// Any other end.
    Failure,
    /// Not within its time; the program and its process group were killed.
    Timeout,
    /// Not run: `max_per_hour` runs within the last hour.
    Suppressed,
    /// Stopped: what it was for has passed. No label of the metric.
    Cancelled,
}

impl ActionResult {
    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Suppressed => "suppressed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The end of an attempt, or of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What was run: the command as it was run, with what placeholders stand for, or the address.
    pub action: Arc<str>,
    /// Its result.
    pub result: ActionResult,
    /// The number of the attempt, from 1; of an action, how many were begun, 0 if it was never run.
    pub attempt: u32,
    /// How, in words.
    pub how: String,
    /// How long it took; an action with the waiting between its attempts and for its turn.
    pub took: Duration,
}

/// News of a run.
#[derive(Clone, Debug)]
pub struct News {
    /// Which: see [`Run::id`].
    pub run: u64,
    /// What it follows.
    pub occasion: Rc<Occasion>,
    /// What.
    pub what: What,
}

/// What there is to say of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An attempt of the action of this index has ended; a failed one may be followed by another.
    Attempt(usize, Ended),
    /// The action of this index is through: as its last attempt was, or suppressed.
    Action(usize, Ended),
    /// All actions before traffic have succeeded (true), or one has finally failed (false) and all
    /// that would have followed are left out. Not told where there are none.
    Traffic(bool),
    /// All of them are through. The last of the news.
    Done,
    /// The run was stopped during the action of this index, or before it. The last of the news.
    Stopped(usize, Ended),
}

/// Runs actions. One for each process, on the control thread; clones are the same.
#[derive(Clone, Debug)]
pub struct Recovery(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    turns: Rc<Turns>,
    breakers: RefCell<Breakers>,
    last_run: Cell<u64>,
    trust: Trust,
    /// All runs, those included that are being stopped.
    under_way: TaskTracker,
}

/// How far a run is.
#[derive(Debug, Default)]
struct Progress {
    /// Actions that are through, of those in the order of the list.
    through: Cell<usize>,
    is_over: Cell<bool>,
}

/// The actions of one transition, under way. Dropping it stops them: the program that runs gets
/// `SIGTERM` and, two seconds later, is killed with its process group; if not all of them were
/// through, [`What::Stopped`] follows and no other news.
#[derive(Debug)]
#[must_use = "dropping it stops the actions"]
pub struct Run {
    id: u64,
    occasion: Rc<Occasion>,
    progress: Rc<Progress>,
    _stop: DropGuard,
}

impl Run {
    /// Its number, unique within the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it follows and how many of its actions are through, unless all are.
    #[must_use]
    pub fn under_way(&self) -> Option<(&Occasion, usize)> {
        let Progress { through, is_over } = &*self.progress;
        (!is_over.get()).then(|| (&*self.occasion, through.get()))
    }
}

impl Recovery {
    /// Without runs so far.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::trusting(clock, Trust::System)
    }

    fn trusting(clock: Clock, trust: Trust) -> Self {
        Self(Rc::new(Shared {
            clock,
            turns: Rc::default(),
            breakers: RefCell::default(),
            last_run: Cell::new(0),
            trust,
            under_way: TaskTracker::new(),
        }))
    }

    /// Begins `actions` one after the other, those before traffic first; tells `news` how it goes.
    ///
    /// An action that failed is followed by the next all the same, but for one before traffic.
    /// Returns at once; must be called on a local runtime or within a `LocalSet`.
    pub fn start(
        &self,
        actions: Vec<Action>,
        occasion: Occasion,
        news: UnboundedSender<News>,
    ) -> Run {
        self.resume((actions, 0), occasion, news)
    }

    /// The same with those that are not through: of another process, which was stopped meanwhile, the
    /// first `through` are.
    pub fn resume(
        &self,
        (actions, through): (Vec<Action>, usize),
        occasion: Occasion,
        news: UnboundedSender<News>,
    ) -> Run {
        let id = self.0.last_run.get() + 1;
        self.0.last_run.set(id);
        let stop = CancellationToken::new();
        let progress = Rc::new(Progress { through: through.into(), ..Progress::default() });
        let occasion = Rc::new(occasion);
        let series = Series {
            id,
            at: Cell::default(),
            progress: Rc::clone(&progress),
            shared: Rc::clone(&self.0),
            occasion: Rc::clone(&occasion),
            news,
            stop: stop.clone(),
        };
        tokio::task::spawn_local(self.0.under_way.track_future(series.carry_out(actions)));
        Run { id, occasion, progress, _stop: stop.drop_guard() }
    }

    /// The runs of the last hour of this event's actions in `pool` that have a limit: a mark of the
    /// action, and how many ticks ago each began.
    #[must_use]
    pub fn recent(&self, pool: &str, event: Event) -> Vec<(String, Vec<Tick>)> {
        self.0.breakers.borrow().recent((pool, event), self.0.clock.now())
    }

    /// Counts runs of this action that another process began so many ticks ago.
    pub fn count(&self, of: (&Arc<str>, Event, &Action), ages: &[Tick]) {
        self.0.breakers.borrow_mut().count(of, ages, self.0.clock.now());
    }

    /// Waits until nothing is under way: once all runs are dropped, three seconds at most.
    pub async fn ended(&self) {
        self.0.under_way.close();
        let slack = Duration::from_secs(1);
        let _ = tokio::time::timeout(exec::GRACE + slack, self.0.under_way.wait()).await;
    }
}

/// An attempt that was stopped.
struct Stopped;

type OrStopped<T> = Result<T, Stopped>;

/// The task behind a [`Run`].
struct Series {
    id: u64,
    /// The action that is under way or next: its index and the attempts begun.
    at: Cell<(usize, u32)>,
    progress: Rc<Progress>,
    shared: Rc<Shared>,
    occasion: Rc<Occasion>,
    news: UnboundedSender<News>,
    stop: CancellationToken,
}

impl Series {
    async fn carry_out(self, actions: Vec<Action>) {
        let started = Instant::now();
        let Occasion { event, pool, backend, .. } = &*self.occasion;
        let done = caught(self.all(&actions)).await;
        self.progress.is_over.set(true);
        match done {
            Ok(Ok(())) => self.tell(What::Done),
            Err(panic) => {
                error!(%pool, %backend, event = event.as_str(), "recovery actions: {panic}");
                if actions.iter().any(is_before_traffic) {
                    self.tell(What::Traffic(false));
                }
                self.tell(What::Done);
            }
            Ok(Err(Stopped)) => {
                info!(%pool, %backend, event = event.as_str(), "recovery actions were stopped");
                let (index, attempt) = self.at.get();
                let how = match attempt {
                    0 => "not run: what it was for has passed",
                    _ => "stopped: what it was for has passed",
                };
                let ended = Ended {
                    action: actions.get(index).map_or_else(|| "".into(), |a| self.name(a)),
                    result: ActionResult::Cancelled,
                    attempt,
                    how: how.to_owned(),
                    took: started.elapsed(),
                };
                self.tell(What::Stopped(index, ended));
            }
        }
    }

    /// What an action is called: see [`Ended::action`].
    fn name(&self, action: &Action) -> Arc<str> {
        match action {
            Action::Exec(exec) => exec::command(exec, &self.occasion).join(" ").into(),
            Action::Webhook(hook) => hook.url.to_string().into(),
        }
    }

    async fn all(&self, actions: &[Action]) -> OrStopped<()> {
        let (before, after): (Vec<_>, Vec<_>) =
            actions.iter().enumerate().partition(|(_, action)| is_before_traffic(action));
        let holds_traffic = !before.is_empty();
        for (index, action) in before {
            if self.action(index, action).await? != ActionResult::Success {
                self.tell(What::Traffic(false));
                return Ok(());
            }
        }
        if holds_traffic {
            self.tell(What::Traffic(true));
        }
        let left = after.into_iter().filter(|(index, _)| *index >= self.progress.through.get());
        for (index, action) in left.collect::<Vec<_>>() {
            self.action(index, action).await?;
            self.progress.through.set(index + 1);
        }
        Ok(())
    }

    /// Runs one action: attempts until one succeeds or none is left.
    async fn action(&self, index: usize, action: &Action) -> OrStopped<ActionResult> {
        self.at.set((index, 0));
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        let started = Instant::now();
        let ended = match self.admit(action) {
            Ok(()) => self.attempts(index, action).await?,
            Err(how) => Ended {
                action: self.name(action),
                result: ActionResult::Suppressed,
                attempt: 0,
                how,
                took: Duration::ZERO,
            },
        };
        let result = ended.result;
        self.tell(What::Action(index, Ended { took: started.elapsed(), ..ended }));
        Ok(result)
    }

    /// Whether `max_per_hour` lets it run; how not, in words.
    fn admit(&self, action: &Action) -> Result<(), String> {
        let Some(max) = max_per_hour(action) else { return Ok(()) };
        let Occasion { event, pool, .. } = &*self.occasion;
        let now = self.shared.clock.now();
        let mut breakers = self.shared.breakers.borrow_mut();
        breakers.admit((pool, *event, action), max, now).map_err(|wait| {
            let minutes = wait.div_ceil(60_000);
            let runs = if max == 1 { "run" } else { "runs" };
            format!("{max} {runs} within an hour (max_per_hour); again in {minutes} min")
        })
    }

    async fn attempts(&self, index: usize, action: &Action) -> OrStopped<Ended> {
        let (count, backoff) = attempts(action);
        let mut output = Output::default();
        let mut attempt = 0;
        loop {
            attempt += 1;
            if attempt > 1 {
                self.unless_stopped(tokio::time::sleep(wait(backoff, attempt))).await?;
            }
            let turn = self.shared.turns.take(is_before_traffic(action));
            let turn = self.unless_stopped(turn).await?;
            self.at.set((index, attempt));
            let started = Instant::now();
            let (result, how) = match action {
                Action::Exec(exec) => self.exec(exec, &mut output).await?,
                Action::Webhook(hook) => self.unless_stopped(self.webhook(hook)).await?,
            };
            drop(turn);
            let (name, took) = (self.name(action), started.elapsed());
            let ended = Ended { action: name, result, attempt, how, took };
            self.tell(What::Attempt(index, ended.clone()));
            if result == ActionResult::Success || attempt >= count {
                output.finish(&self.occasion);
                return Ok(ended);
            }
        }
    }

    async fn exec(
        &self,
        exec: &ExecAction,
        output: &mut Output,
    ) -> OrStopped<(ActionResult, String)> {
        exec::attempt(exec, &self.occasion, output, &self.stop).await
    }

    async fn webhook(&self, hook: &WebhookAction) -> (ActionResult, String) {
        webhook::attempt(hook, &self.occasion, &self.shared.trust).await
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> OrStopped<T> {
        self.stop.run_until_cancelled(work).await.ok_or(Stopped)
    }

    /// Nobody may be interested any more: then there is nobody to tell.
    fn tell(&self, what: What) {
        let occasion = Rc::clone(&self.occasion);
        let _ = self.news.send(News { run: self.id, occasion, what });
    }
}

/// The time before this attempt, the second or a later one: it doubles from the third on.
fn wait(backoff: Duration, attempt: u32) -> Duration {
    let doubled = 1_u32.checked_shl(attempt.saturating_sub(2)).unwrap_or(u32::MAX);
    backoff.saturating_mul(doubled).min(LONGEST_BACKOFF.max(backoff))
}

/// The words for an attempt that did not end in time.
fn late(timeout: Duration, what: &str) -> String {
    format!("timed out after {}{what}", text::duration(timeout))
}

fn is_before_traffic(action: &Action) -> bool {
    matches!(action, Action::Exec(ExecAction { before_traffic: true, .. }))
}

fn max_per_hour(action: &Action) -> Option<u32> {
    match action {
        Action::Exec(exec) => exec.max_per_hour,
        Action::Webhook(hook) => hook.max_per_hour,
    }
    .map(std::num::NonZeroU32::get)
}

fn attempts(action: &Action) -> (u32, Duration) {
    match action {
        Action::Exec(exec) => (exec.attempts, exec.backoff),
        Action::Webhook(hook) => (hook.attempts, hook.backoff),
    }
}

#[cfg(test)]
mod tests;
