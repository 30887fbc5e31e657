//! The one task that owns all health and failover state.
//!
//! It hears reports of the data path, answers of checks, news of recovery actions and requests, tells
//! them to the [`Keeper`](super::keeper::Keeper) of the pool, acts on what follows, and publishes
//! rotations. What changes a pool is here; what follows from it is in `follow.rs`, checks are in
//! `checks.rs`, requests in `answers.rs`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::checks::{Checked, Checks};
use super::event::{Event as Told, Events, Kind, More, News};
use super::handle::Request;
use super::keeper::{Keeper, Told::Did};
use super::names::{self, Resolved};
use super::pool::{self, Backing, Controlled, Place};
use super::recovery::{self, Recovery};
use super::reload::{Host, Loaded, Reloads, Source};
use super::repair::{Repairs, Sign};
use super::resume;
use super::state_file::StateFile;
use super::timers::{Timer, Timers};
use crate::balance::Entry;
use crate::config::model::{self, Config};
use crate::failover::{Action, Event as RoleEvent, Id};
use crate::health::{Event, Operator, Saved, SavedPool, Tick, may_eject};
use crate::metrics::{Tally, Unclaimed};
use crate::net::clock::Clock;
use crate::net::dial::{EphemeralPorts, check_transparent};
use crate::net::resolve::Resolver;
use crate::probe::{self, Roots};
use crate::state::counters::ProcessCounters;
use crate::state::{Asked, Backend, Pool, Report, Snapshot, Threads};

/// Reports that are heard in a row before the pools are looked at.
const BATCH: usize = 256;
/// How long after a change the state file is written: changes come in flocks.
const SAVE_AFTER: Tick = 100;
/// How often it is written though nothing has changed: its age is what it is believed by.
const SAVE_EVERY: Tick = 60_000;

/// When the old process has stopped its actions for sure, after the start of an upgrade: it retires once
/// this one serves, and says so; what it runs then has two seconds to end. For the case that it is not
/// heard.
const ELDER_ENDS: Tick = 8_000;

/// What the controller is given.
pub struct Setup {
    /// The process's clock.
    pub clock: Clock,
    /// Ports that a connect could meet itself on.
    pub ports: EphemeralPorts,
    /// Where the configuration comes from, to be read again.
    pub source: Source,
    /// The process around.
    pub host: Box<dyn Host>,
    /// The threads of the data path.
    pub threads: Threads,
    /// What they report.
    pub reports: mpsc::Receiver<(Report, Asked)>,
    /// Where it counts what concerns the whole process.
    pub counters: Arc<ProcessCounters>,
    /// What another process has passed on; it comes before the state file.
    pub saved: Option<Saved>,
    /// What that process had counted by then.
    pub counted: Tally,
}

/// Why the control plane did not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration names a strategy that is not there.
    #[error("no strategy is called {0}")]
    Strategy(String),
    /// This process may not use the addresses of others.
    #[error(
        "pools.{pool}.connect.source: client: {error}: connecting from the client's address needs the \
         capability CAP_NET_ADMIN or CAP_NET_RAW (AmbientCapabilities= in a unit file, or setcap)"
    )]
    Transparent {
        /// The pool.
        pool: String,
        /// What the kernel said.
        error: String,
    },
    /// Names cannot be looked up.
    #[error("pools.{pool}.resolve: {problem}")]
    Resolver {
        /// The pool.
        pool: String,
        /// What is wrong.
        problem: String,
    },
    /// A probe cannot be made.
    #[error("pools.{pool}.health_check.probe: {problem}")]
    Probe {
        /// The pool.
        pool: String,
        /// What is wrong.
        problem: String,
    },
}

/// What was made of a pool's configuration before it is in force.
pub(super) struct Made {
    pub(super) entry: Entry,
    pub(super) probe: Option<Rc<dyn probe::Probe>>,
    pub(super) resolver: Option<Rc<Resolver>>,
}

/// The controller.
pub(super) struct Controller {
    pub(super) clock: Clock,
    pub(super) ports: EphemeralPorts,
    pub(super) source: Source,
    pub(super) host: Box<dyn Host>,
    /// In force.
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) reloads: Reloads,
    pub(super) loaded: UnboundedSender<Loaded>,
    pub(super) resolved: UnboundedSender<Resolved>,
    /// Another process is about to go on: nothing that it would not know of may be changed.
    pub(super) is_handing_over: bool,
    /// What a process before this one has counted of backends that are not found yet.
    pub(super) unclaimed: Unclaimed,
    /// What was saved, for addresses that are found late.
    pub(super) restored: Option<Saved>,
    pub(super) threads: Threads,
    pub(super) events: Events,
    pub(super) counters: Arc<ProcessCounters>,
    pub(super) pools: Vec<Controlled>,
    /// The pool of each backend, by their numbers.
    pub(super) homes: HashMap<Id, u32>,
    pub(super) timers: Timers,
    pub(super) checks: Checks,
    pub(super) recovery: Recovery,
    pub(super) news: UnboundedSender<recovery::News>,
    roots: Roots,
    state_file: Option<StateFile>,
    is_unsaved: bool,
    /// When it is next looked whether the state file is to be written.
    save_at: Option<Tick>,
    last_id: Id,
    last_pool: u32,
    pub(super) last_watch: u64,
    inbox: Option<Inbox>,
    /// Another process was taken over from.
    is_upgrade: bool,
    /// Whether what the process before this one was stopped at has begun anew.
    pub(super) has_resumed: bool,
}

/// Where the controller hears things.
struct Inbox {
    reports: mpsc::Receiver<(Report, Asked)>,
    requests: mpsc::Receiver<Request>,
    checked: UnboundedReceiver<Checked>,
    repairs: UnboundedReceiver<recovery::News>,
    reloaded: UnboundedReceiver<Loaded>,
    found: UnboundedReceiver<Resolved>,
}

impl Controller {
    /// A controller of the pools of `snapshot`, which have their first rotations in force when this
    /// returns. Must be called on the runtime that [`run`](Self::run) will run on.
    ///
    /// # Errors
    ///
    /// See [`ControlError`].
    pub(super) fn new(
        setup: Setup,
        (config, snapshot): (Arc<ArcSwap<Config>>, Arc<Snapshot>),
        (events, requests): (Events, mpsc::Receiver<Request>),
    ) -> Result<Self, ControlError> {
        let in_force = Arc::clone(&config);
        let config = config.load_full();
        let (checks, checked) = Checks::new(setup.clock);
        let (news, repairs) = mpsc::unbounded_channel();
        let (loaded, reloaded) = mpsc::unbounded_channel();
        let (resolved, found) = mpsc::unbounded_channel();
        let Setup { clock, ports, source, host, threads, reports, counters, saved, counted } =
            setup;
        let mut controller = Self {
            clock,
            ports,
            source,
            host,
            config: in_force,
            snapshot: Arc::clone(&snapshot),
            reloads: Reloads::default(),
            loaded,
            resolved,
            is_handing_over: false,
            unclaimed: Unclaimed::default(),
            restored: None,
            threads,
            events,
            counters,
            pools: Vec::new(),
            homes: HashMap::new(),
            timers: Timers::default(),
            checks,
            recovery: Recovery::new(clock),
            news,
            roots: Roots::default(),
            state_file: config.state_file.clone().map(StateFile::new),
            is_unsaved: false,
            save_at: None,
            last_id: 0,
            last_pool: 0,
            last_watch: 0,
            inbox: Some(Inbox { reports, requests, checked, repairs, reloaded, found }),
            is_upgrade: saved.is_some(),
            has_resumed: false,
        };
        let from_file = || controller.state_file.as_ref().and_then(|f| f.read(unix_ms()));
        let saved = saved.or_else(from_file);
        for pool in &snapshot.pools {
            if let Some(config) = config.pools.get(&*pool.name) {
                let made = controller.made(pool, config)?;
                controller.add_pool((pool, config), made, saved.as_ref());
            }
        }
        controller.restored = saved;
        controller.checks.allow(controller.host.descriptors_of_checks());
        controller.unclaimed.add(counted);
        controller.claim();
        controller.begin_checks();
        controller.counters.configured(unix_seconds());
        if controller.is_upgrade {
            controller.tell(News {
                kind: Kind::Upgraded,
                pool: None,
                backend: None,
                cause: "operator".into(),
                evidence: "another process has been taken over from".into(),
                more: More::Nothing {},
            });
        }
        controller.is_unsaved = true;
        controller.save_soon();
        Ok(controller)
    }

    /// Begins to keep a pool, and publishes its first rotation. Its checks begin with
    /// [`begin_checks`](Self::begin_checks), when all pools are there.
    pub(super) fn add_pool(
        &mut self,
        (pool, config): (&Arc<Pool>, &model::Pool),
        made: Made,
        saved: Option<&Saved>,
    ) {
        let Made { entry, probe, resolver } = made;
        let (mut nodes, mut backings) = (Vec::new(), HashMap::new());
        self.last_pool += 1;
        let was = saved.and_then(|saved| saved.pools.get(&*pool.name));
        let remembered = names::remembered(&pool.name, config, was);
        for place in names::first_places(config, &remembered, was) {
            let id = self.next_id();
            backings.insert(id, self.backing(id, pool, (config, &place)));
            nodes.push(pool::node(id, &place));
            self.homes.insert(id, self.last_pool);
        }
        let now = (self.now(), unix_ms());
        let what = (Arc::clone(&pool.name), pool::settings(config));
        let keeper = Keeper::start(what, nodes, saved, now);
        let what = (Arc::clone(pool), config);
        let mut controlled =
            Controlled::new(self.last_pool, what, keeper, backings, (entry, probe));
        // Those of all pools together are spread, not those of each.
        controlled.keeper.nodes.iter_mut().for_each(|node| node.due = None);
        // At start nobody follows: no events, no takeover. What traffic waits for is run later.
        let told = std::mem::take(&mut controlled.keeper.told);
        controlled.postponed = told.into_iter().rev().find_map(|told| match told {
            Did(Action::Prepare { to, serial, why }) => Some((to, serial, why)),
            _ => None,
        });
        let clock = self.clock;
        controlled.publish(|| clock.exact());
        for node in &controlled.keeper.nodes {
            if let Some(wake) = node.health.wake() {
                self.timers.set(wake, Timer::Health(node.id));
            }
        }
        if let Some(wake) = controlled.keeper.pool_wake() {
            self.timers.set(wake, Timer::Pool(controlled.number));
        }
        self.pools.push(controlled);
        self.watch_names(self.pools.len() - 1, resolver.as_ref(), &remembered);
    }

    /// What stands behind a new node.
    pub(super) fn backing(
        &self,
        id: Id,
        pool: &Pool,
        (config, place): (&model::Pool, &Place<'_>),
    ) -> Backing {
        let target = pool::target(pool, config.health_check.as_ref(), place, self.ports);
        let queue = Arc::clone(&pool.live.queue);
        let live = Backend::new(id, &place.name, place.address.clone(), queue);
        Backing::new(Arc::new(live), place, target)
    }

    /// What can fail about a pool.
    pub(super) fn made(&self, pool: &Pool, config: &model::Pool) -> Result<Made, ControlError> {
        if pool.connect.is_transparent {
            check_transparent().map_err(|error| ControlError::Transparent {
                pool: pool.name.to_string(),
                error: error.to_string(),
            })?;
        }
        let resolver = names::resolver(config)
            .map_err(|problem| ControlError::Resolver { pool: pool.name.to_string(), problem })?;
        Ok(Made { entry: self.entry(config)?, probe: self.probe(pool, config)?, resolver })
    }

    pub(super) fn entry(&self, config: &model::Pool) -> Result<Entry, ControlError> {
        let name = &config.strategy.name;
        let entry = self.source.registry.find(name);
        entry.copied().ok_or_else(|| ControlError::Strategy(name.clone()))
    }

    pub(super) fn probe(
        &self,
        pool: &Pool,
        config: &model::Pool,
    ) -> Result<Option<Rc<dyn probe::Probe>>, ControlError> {
        let Some(check) = &config.health_check else { return Ok(None) };
        let built = probe::build(&check.probe, &self.roots);
        let probe = built
            .map_err(|problem| ControlError::Probe { pool: pool.name.to_string(), problem })?;
        Ok(Some(Rc::from(probe)))
    }

    pub(super) fn next_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    /// The time now, exact to the millisecond.
    pub(super) fn now(&self) -> Tick {
        self.clock.exact()
    }

    /// Runs until `stop`; then what survives is saved, unless another process goes on (`retired`). Not
    /// cancel safe: to be run to its end.
    pub(super) async fn run(mut self, stop: CancellationToken, retired: &AtomicBool) {
        let Some(mut inbox) = self.inbox.take() else { return };
        if self.is_upgrade {
            self.timers.set(self.now() + ELDER_ENDS, Timer::Resume);
        } else {
            self.resume();
        }
        loop {
            let wake = self.timers.next().map(|at| self.clock.instant(at));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Reports first: connections wait for what follows from them.
            let mut undecided = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((report, asked)) = inbox.reports.recv() => {
                    self.hear(report);
                    undecided.push(asked);
                    for _ in 1..BATCH {
                        let Ok((report, asked)) = inbox.reports.try_recv() else { break };
                        self.hear(report);
                        undecided.push(asked);
                    }
                }
                Some(request) = inbox.requests.recv() => self.answer(request).await,
                Some(loaded) = inbox.reloaded.recv() => self.reload(loaded).await,
                Some(resolved) = inbox.found.recv() => self.name_resolved(resolved),
                Some(news) = inbox.repairs.recv() => self.repair_news(news),
                Some(checked) = inbox.checked.recv() => {
                    self.checked(checked);
                    for _ in 1..BATCH {
                        let Ok(checked) = inbox.checked.try_recv() else { break };
                        self.checked(checked);
                    }
                }
                () = sleep => {}
            }
            self.fire_timers();
            self.settle_all().await;
            drop(undecided);
            self.save_soon();
        }
        // What is not told now is never told, nor counted.
        (0..self.pools.len()).for_each(|index| self.tell_report(index));
        let saved = self.saved();
        let file = self.state_file.as_mut().filter(|_| !retired.load(Relaxed));
        if let Some(file) = file {
            file.write_now(&saved);
        }
        drop(inbox);
        self.pools.iter_mut().for_each(|pool| pool.repairs = Repairs::default());
        self.recovery.ended().await;
    }

    /// Takes note of a report of the data path.
    fn hear(&mut self, report: Report) {
        let (Report::Failing { backend: id, .. } | Report::Tried { backend: id, .. }) = report;
        let at = self.now();
        let draw = fastrand::u64(..);
        // One that has gone meanwhile is nobody's any more.
        let Some(pool) = self.home(id) else { return };
        let event = match report {
            Report::Failing { count, last, first, began, .. } => {
                let Some(policy) = pool.keeper.settings.health.outlier else { return };
                if !may_eject(&pool.keeper.view(id, at), &policy) {
                    let name = pool.name_of(id);
                    debug!(pool = %pool.name(), backend = name.as_deref(), count, %last,
                        "connections fail, but the pool cannot spare the backend");
                    return;
                }
                Event::Tripped { count, last, first, began, draw }
            }
            Report::Tried { trial, trouble: None, .. } => Event::TrialPassed(trial),
            Report::Tried { trial, trouble: Some(trouble), .. } => {
                Event::TrialFailed { trial, trouble, draw }
            }
        };
        let is_failure = matches!(event, Event::TrialFailed { .. });
        self.note(id, event);
        if is_failure {
            self.see_repair(id, Sign::Trial);
        }
    }

    /// Something happened to a backend: the pool is looked at before anything else is.
    pub(super) fn note(&mut self, id: Id, event: Event) {
        let at = self.now();
        let Some(pool) = self.home(id) else { return };
        let is_changed = pool.keeper.note(id, event, at);
        let node = pool.keeper.node(id).map(|node| (node.health.wake(), node.due, node.running));
        pool.is_dirty |= is_changed;
        self.is_unsaved |= is_changed;
        if let Some((wake, due, running)) = node {
            wake.into_iter().for_each(|at| self.timers.set(at, Timer::Health(id)));
            let due = due.filter(|_| is_changed && running.is_none());
            due.into_iter().for_each(|due| self.timers.set(due.at, Timer::Check(id)));
        }
    }

    /// The pool of a backend.
    pub(super) fn home(&mut self, id: Id) -> Option<&mut Controlled> {
        let number = *self.homes.get(&id)?;
        self.numbered(number)
    }

    pub(super) fn numbered(&mut self, number: u32) -> Option<&mut Controlled> {
        self.pools.iter_mut().find(|pool| pool.number == number)
    }

    fn fire_timers(&mut self) {
        let now = self.now();
        while let Some((at, timer)) = self.timers.take_due(now) {
            match timer {
                Timer::Check(id) => self.check_due(id),
                Timer::Health(id) => {
                    let wake = self.home(id).and_then(|p| p.keeper.node(id)?.health.wake());
                    if wake.is_some_and(|wake| wake <= now) {
                        self.note(id, Event::Timer);
                    }
                }
                Timer::Pool(number) => {
                    let Some(pool) = self.numbered(number) else { continue };
                    if pool.keeper.pool_wake().is_some_and(|wake| wake <= now) {
                        pool.keeper.role_event(RoleEvent::Timer, now);
                        pool.is_dirty = true;
                    }
                }
                // Whoever is dirty is published when it is time.
                Timer::Publish(_) => {}
                Timer::Purge(number) => self.purge(number),
                Timer::Report(number) => self.report_due(number),
                // Whatever is to be written is, once all timers have fired.
                Timer::Save => self.save_at = self.save_at.filter(|save_at| *save_at > at),
                Timer::Trial(id) => {
                    if let Some(pool) = self.home(id) {
                        pool.probed.remove(&id);
                        pool.is_dirty = true;
                    }
                }
                Timer::Beat => self.beat(at, now),
                Timer::Resume => self.resume(),
            }
        }
    }

    /// Acts on what follows for every pool in which something has changed.
    pub(super) async fn settle_all(&mut self) {
        for index in 0..self.pools.len() {
            let at = self.now();
            let pool = &mut self.pools[index];
            if !pool.is_dirty && pool.keeper.told.is_empty() {
                continue;
            }
            let is_standby = pool.keeper.role.is_some();
            let may_wait = !is_standby && pool.publish_at() > at;
            if may_wait {
                let (number, at) = (pool.number, pool.publish_at());
                self.timers.set(at, Timer::Publish(number));
                continue;
            }
            pool.keeper.settle(at);
            self.follow(index).await;
            let clock = self.clock;
            let pool = &mut self.pools[index];
            if pool.is_dirty {
                pool.publish(|| clock.exact());
                self.is_unsaved = true;
            }
            self.end_unkept(index);
            let pool = &self.pools[index];
            let (number, wake) = (pool.number, pool.keeper.pool_wake());
            wake.into_iter().for_each(|at| self.timers.set(at, Timer::Pool(number)));
            self.probe_trials(index);
        }
    }

    /// Tells an event: keeps it, feeds it to who follows, and logs it.
    pub(super) fn tell(&self, news: News) {
        let event = self.events.tell(news, wall());
        log(&event);
    }

    /// What is to survive.
    pub(super) fn saved(&self) -> Saved {
        let now = (self.now(), unix_ms());
        let mut saved = Saved::new(now.1);
        for pool in &self.pools {
            // What is yet to begin anew would be lost otherwise.
            let before = self.restored.as_ref().filter(|_| !self.has_resumed);
            let before = before.and_then(|before| before.pools.get(&**pool.name()));
            let what = resume::save(pool, &self.recovery, before, now);
            let what = SavedPool { names: pool.saved_names(), ..what };
            saved.pools.insert(pool.name().to_string(), what);
        }
        saved
    }

    /// Keeps what survives in another file from now on.
    pub(super) fn keep_state_in(&mut self, path: Option<PathBuf>) {
        self.state_file = path.map(StateFile::new);
        self.is_unsaved = true;
    }

    /// Something has changed that is to survive.
    pub(super) fn unsaved(&mut self) {
        self.is_unsaved = true;
    }

    /// Writes the state file if something has changed, or sees to its being written when it may be.
    fn save_soon(&mut self) {
        let now = self.now();
        let Some(file) = &self.state_file else { return };
        self.is_unsaved |= file.is_old(now, SAVE_EVERY);
        let may_write = file.may_write(now, SAVE_AFTER);
        if self.is_unsaved && may_write {
            let saved = self.saved();
            self.state_file.iter_mut().for_each(|file| file.write(saved.clone(), now));
            self.is_unsaved = false;
        }
        let wanted = now + if self.is_unsaved { SAVE_AFTER } else { SAVE_EVERY };
        if self.save_at.is_none_or(|at| at > wanted) {
            self.save_at = Some(wanted);
            self.timers.set(wanted, Timer::Save);
        }
    }
}

/// An event in the log: what happened first, then why.
fn log(event: &Told) {
    let Told { kind, cause, evidence, more, .. } = event;
    let (pool, backend) = (event.pool.as_deref(), event.backend.as_deref());
    let is_bad = match (kind, more) {
        (Kind::Evicted | Kind::Takeover | Kind::ReloadFailed, _) => true,
        (Kind::Recovery, More::Recovery { result, .. }) => {
            !matches!(*result, "success" | "repaired")
        }
        _ => false,
    };
    let kind = kind.as_str();
    if is_bad {
        warn!(pool, backend, %cause, %evidence, %more, "{kind}");
    } else {
        info!(pool, backend, %cause, %evidence, %more, "{kind}");
    }
}

/// The time of the wall clock: for people, and for what outlives the process.
#[expect(clippy::disallowed_methods, reason = "shown to people, and compared across restarts only")]
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}

/// The same in seconds since the Unix epoch.
pub(super) fn unix_seconds() -> u64 {
    unix_ms() / 1000
}

/// The same in milliseconds since the Unix epoch.
pub(super) fn unix_ms() -> u64 {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The word for what an operator has done.
pub(super) fn operator_kind(operator: Operator) -> Kind {
    match operator {
        Operator::Enabled => Kind::Enabled,
        Operator::Draining => Kind::Draining,
        Operator::Disabled => Kind::Disabled,
    }
}

/// News without more.
pub(super) fn news(kind: Kind, pool: &Arc<str>, backend: Option<Arc<str>>) -> News {
    News {
        kind,
        pool: Some(Arc::clone(pool)),
        backend,
        cause: "operator".into(),
        evidence: "operator".into(),
        more: More::Nothing {},
    }
}
