//! Active checks: begun when it is time, judged when they end.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, error};

use super::controller::Controller;
use super::follow::proof;
use super::repair::Sign;
use super::timers::Timer;
use crate::config::model;
use crate::failover::Id;
use crate::health::{Answer, Checking, Event, Fire, Judged, Tick, Timing, Trouble, judge, next};
use crate::net::caught::caught;
use crate::net::clock::Clock;
use crate::probe::{self, Outcome, Probe, Roots};
use crate::state::counters::CheckResult;

/// How often it is looked how late this process runs, while checks are under way.
const BEAT: Tick = 50;
/// Lateness of a timer that is none.
const ON_TIME: Tick = 10;
/// How soon a trial by a check that could not be judged is repeated.
const AGAIN: Tick = 1_000;

/// A check that has ended.
#[derive(Debug)]
pub(super) struct Checked {
    id: Id,
    epoch: u64,
    serial: u64,
    /// The number of the trial that it was.
    trial: Option<u64>,
    /// Descriptors that it had.
    cost: u32,
    outcome: Outcome,
    timing: Timing,
}

/// The checks under way.
#[derive(Debug)]
pub(super) struct Checks {
    clock: Clock,
    ended: UnboundedSender<Checked>,
    /// Descriptors of those under way, and the most that they may have.
    under_way: u32,
    allowed: u32,
    /// Whose checks are due and wait for descriptors.
    waiting: VecDeque<Id>,
    last_serial: u64,
    /// How late timers were, all together.
    lag: Rc<Cell<Tick>>,
    /// When the beat is due, while checks are under way.
    beat_at: Option<Tick>,
    /// What is done where the pool makes no checks and a trial needs one.
    connect: Option<Rc<dyn Probe>>,
}

/// One check.
struct Check {
    probe: Rc<dyn Probe>,
    target: Rc<probe::Target>,
    policy: Checking,
    id: Id,
    epoch: u64,
    trial: Option<u64>,
    cost: u32,
    due: Tick,
}

impl Checks {
    /// None yet, and where their ends come out.
    pub(super) fn new(clock: Clock) -> (Self, UnboundedReceiver<Checked>) {
        let (ended, inbox) = unbounded_channel();
        let checks = Self {
            clock,
            ended,
            under_way: 0,
            allowed: u32::MAX,
            waiting: VecDeque::new(),
            last_serial: 0,
            lag: Rc::default(),
            beat_at: None,
            connect: probe::build(&model::Probe::Tcp, &Roots::default()).ok().map(Rc::from),
        };
        (checks, inbox)
    }

    /// How many descriptors checks may have open at once.
    pub(super) fn allow(&mut self, descriptors: u32) {
        self.allowed = descriptors;
    }

    /// Whether another check may begin that needs so many descriptors. One may always.
    fn has_room(&self, cost: u32) -> bool {
        self.under_way == 0 || self.under_way.saturating_add(cost) <= self.allowed
    }

    /// Begins a check; its number.
    fn begin(&mut self, check: Check) -> u64 {
        self.last_serial += 1;
        self.under_way += check.cost;
        let (serial, clock, ended) = (self.last_serial, self.clock, self.ended.clone());
        let lag = Rc::clone(&self.lag);
        tokio::task::spawn_local(async move {
            let (started, lag_before) = (clock.exact(), lag.get());
            let timeout = Duration::from_millis(check.policy.timeout);
            let made = caught(probe::check(&*check.probe, &check.target, timeout)).await;
            let outcome = made.unwrap_or_else(|panic| {
                let (pool, backend) = (&check.target.pool, &check.target.backend);
                error!(%pool, %backend, "check: {panic}");
                Outcome::Unjudged(panic.to_string())
            });
            let lag = lag.get() - lag_before;
            let timing = Timing { due: check.due, started, ended: clock.exact(), lag };
            let Check { id, epoch, trial, cost, .. } = check;
            // The controller may have ended.
            let _ = ended.send(Checked { id, epoch, serial, trial, cost, outcome, timing });
        });
        serial
    }
}

impl Controller {
    /// The timer of a backend's next check has fired.
    pub(super) fn check_due(&mut self, id: Id) {
        let now = self.now();
        let Some(pool) = self.home(id) else { return };
        let Some(policy) = pool.keeper.settings.health.checks else { return };
        let Some(node) = pool.keeper.node_mut(id) else { return };
        let Some(due) = node.due.filter(|due| due.at <= now && node.running.is_none()) else {
            return;
        };
        match due.fire(now, fastrand::u64(..), &policy) {
            Fire::PutOff(later) => {
                node.due = Some(later);
                self.timers.set(later.at, Timer::Check(id));
            }
            // Whoever has waited longer is first.
            Fire::Now if !self.checks.waiting.is_empty() || !self.begin_check(id, due.at) => {
                self.checks.waiting.push_back(id);
            }
            Fire::Now => {}
        }
    }

    /// Begins the check of a backend that is `due`, unless there are no descriptors for it now; whether
    /// nothing of it is left to be done.
    fn begin_check(&mut self, id: Id, due: Tick) -> bool {
        let Some(pool) = self.home(id) else { return true };
        let Some(policy) = pool.keeper.settings.health.checks else { return true };
        let Some(probe) = pool.probe.clone() else { return true };
        let cost = pool.cost_of_check();
        let Some(target) = pool.backings.get(&id).map(|b| Rc::clone(&b.target)) else {
            return true;
        };
        let Some(node) = pool.keeper.node_mut(id) else { return true };
        let epoch = node.health.epoch();
        if !self.checks.has_room(cost) {
            return false;
        }
        let check = Check { probe, target, policy, id, epoch, trial: None, cost, due };
        let serial = self.begin(check);
        if let Some(node) = self.home(id).and_then(|pool| pool.keeper.node_mut(id)) {
            (node.due, node.running) = (None, Some(serial));
        }
        true
    }

    /// Begins checks that wait for descriptors, in order, as long as there are some.
    fn begin_waiting(&mut self) {
        let now = self.now();
        while let Some(id) = self.checks.waiting.front().copied() {
            let node = self.home(id).and_then(|pool| pool.keeper.node(id));
            let is_due = node.is_some_and(|node| {
                node.running.is_none() && node.due.is_some_and(|due| due.at <= now)
            });
            // It is not late: it waited for its turn.
            if is_due && !self.begin_check(id, now) {
                return;
            }
            self.checks.waiting.pop_front();
        }
    }

    fn begin(&mut self, check: Check) -> u64 {
        if self.checks.beat_at.is_none() {
            let at = self.now() + BEAT;
            self.checks.beat_at = Some(at);
            self.timers.set(at, Timer::Beat);
        }
        self.checks.begin(check)
    }

    /// Sees how late this process runs.
    pub(super) fn beat(&mut self, at: Tick, now: Tick) {
        if self.checks.beat_at != Some(at) {
            return;
        }
        let late = now.saturating_sub(at);
        if late > ON_TIME {
            self.checks.lag.set(self.checks.lag.get() + late);
        }
        self.checks.beat_at = (self.checks.under_way > 0).then_some(now + BEAT);
        self.checks.beat_at.into_iter().for_each(|at| self.timers.set(at, Timer::Beat));
    }

    /// A check has ended.
    pub(super) fn checked(&mut self, checked: Checked) {
        self.checks.under_way = self.checks.under_way.saturating_sub(checked.cost);
        self.take_result(checked);
        self.begin_waiting();
    }

    fn take_result(&mut self, checked: Checked) {
        let Checked { id, epoch, serial, trial, outcome, timing, .. } = checked;
        let Some(pool) = self.home(id) else { return };
        let checks = pool.keeper.settings.health.checks;
        let Some(policy) = checks.or(trial.map(|_| CONNECT)) else { return };
        let result = judged(outcome, &timing, &policy);
        if let Some(backing) = pool.backings.get(&id) {
            backing.backend.counters.check(match result {
                Judged::Pass => CheckResult::Pass,
                Judged::Fail(_) => CheckResult::Fail,
                Judged::Unjudged => CheckResult::Unjudged,
            });
            let took = timing.ended.saturating_sub(timing.started);
            pool.pool.live.counters.checks.record(Duration::from_millis(took));
        }
        if let Judged::Fail(how) = &result {
            let name = pool.name_of(id);
            debug!(pool = %pool.name(), backend = name.as_deref(), %how, "check failed");
        }
        if let Some(trial) = trial {
            return self.trial_checked(id, trial, result);
        }
        let is_failure = matches!(result, Judged::Fail(_));
        self.note(id, Event::Checked { epoch, result });
        self.next_check(id, serial, &timing, &policy);
        if is_failure {
            self.see_repair(id, Sign::Check);
        }
    }

    /// Sets the timer of the check after this one.
    fn next_check(&mut self, id: Id, serial: u64, timing: &Timing, policy: &Checking) {
        let Some(node) = self.home(id).and_then(|pool| pool.keeper.node_mut(id)) else { return };
        if node.running != Some(serial) {
            return;
        }
        node.running = None;
        if !node.health.is_checked() {
            return;
        }
        let draw = fastrand::u64(..);
        let due = next(timing.started, timing.ended, node.health.pace(), draw, policy);
        node.due = Some(due);
        self.timers.set(due.at, Timer::Check(id));
    }

    /// A check or a trial has failed: whether that shows that a repair has not worked.
    pub(super) fn see_repair(&mut self, id: Id, sign: Sign) {
        let Some(number) = self.homes.get(&id).copied() else { return };
        let Some(index) = self.pools.iter().position(|pool| pool.number == number) else { return };
        let (proof, at) = (proof(&self.pools[index]), self.now());
        if self.pools[index].repairs.is_not_repaired(id, sign, proof, at) {
            self.tell_repair(index, id, "not repaired", &sign.as_str().into());
        }
    }

    /// Begins the checks that are to be trials, because connections will not be.
    pub(super) fn probe_trials(&mut self, index: usize) {
        let now = self.now();
        let pool = &mut self.pools[index];
        let mut begun = Vec::new();
        for node in pool.keeper.choice.to_probe.iter().map(|index| &pool.keeper.nodes[*index]) {
            let Some(trial) = node.health.trial() else { continue };
            if pool.probed.insert(node.id, trial) == Some(trial) {
                continue;
            }
            let (id, epoch, cost) = (node.id, node.health.epoch(), pool.cost_of_check());
            let policy = pool.keeper.settings.health.checks.unwrap_or(CONNECT);
            let probe = pool.probe.clone().or_else(|| self.checks.connect.clone());
            let target = pool.backings.get(&id).map(|backing| Rc::clone(&backing.target));
            if let (Some(probe), Some(target)) = (probe, target) {
                begun.push(Check {
                    probe,
                    target,
                    policy,
                    id,
                    epoch,
                    trial: Some(trial),
                    cost,
                    due: now,
                });
            }
        }
        for check in begun {
            if self.checks.has_room(check.cost) {
                self.begin(check);
            } else {
                self.timers.set(now + AGAIN, Timer::Trial(check.id));
            }
        }
    }

    /// A check that was a trial has ended.
    fn trial_checked(&mut self, id: Id, trial: u64, result: Judged) {
        let now = self.now();
        match result {
            Judged::Pass => self.note(id, Event::TrialPassed(trial)),
            Judged::Fail(how) => {
                let (trouble, draw) = (Trouble::Other(how), fastrand::u64(..));
                self.note(id, Event::TrialFailed { trial, trouble, draw });
                self.see_repair(id, Sign::Trial);
            }
            // What this host lacks it may have again in a while.
            Judged::Unjudged => self.timers.set(now + AGAIN, Timer::Trial(id)),
        }
    }
}

/// How a connect that is a trial is judged where the pool makes no checks.
const CONNECT: Checking =
    Checking { rise: 1, fall: 1, interval: 2_000, fast_interval: 500, timeout: 1_000, jitter: 0 };

fn judged(outcome: Outcome, timing: &Timing, policy: &Checking) -> Judged {
    let answer = match outcome {
        Outcome::Pass => Answer::Pass,
        Outcome::Refused => Answer::Refused,
        Outcome::Fail(how) => Answer::Fail(how.into()),
        Outcome::Unjudged(_) => return Judged::Unjudged,
    };
    judge(answer, timing, policy)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::net::addr::Address;
    use crate::net::dial::EphemeralPorts;
    use crate::probe::{Progress, Running, Target};

    #[derive(Debug)]
    struct Panics;

    impl Probe for Panics {
        fn run<'a>(&'a self, _: &'a Target, _: &'a Progress) -> Running<'a> {
            Box::pin(async { panic!("a probe with a bug") })
        }
    }

    fn check(probe: Rc<dyn Probe>, cost: u32) -> Check {
        let target = Target {
            pool: "app".into(),
            backend: "a".into(),
            address: Address::parse("127.0.0.1:1").unwrap(),
            source: None,
            ports: EphemeralPorts::read(),
            preface: Arc::default(),
        };
        Check {
            probe,
            target: Rc::new(target),
            policy: CONNECT,
            id: 1,
            epoch: 0,
            trial: None,
            cost,
            due: 0,
        }
    }

    fn on_control_thread<T>(work: impl Future<Output = T>) -> T {
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(work)
    }

    /// Else the backend would be checked never again.
    #[test]
    fn a_check_that_panics_has_ended_and_says_nothing_about_the_backend() {
        on_control_thread(async {
            let (mut checks, mut ended) = Checks::new(Clock::start());
            let serial = checks.begin(check(Rc::new(Panics), 1));
            let checked = ended.recv().await.unwrap();
            assert_eq!((checked.id, checked.serial, checked.cost), (1, serial, 1));
            assert!(matches!(checked.outcome, Outcome::Unjudged(_)), "{checked:?}");
        });
    }

    #[test]
    fn checks_have_so_many_descriptors_at_once_and_one_may_always_begin() {
        on_control_thread(async {
            let (mut checks, _ended) = Checks::new(Clock::start());
            checks.allow(3);
            assert!(checks.has_room(4), "the only one");
            let _ = checks.begin(check(Rc::new(Panics), 2));
            assert!(checks.has_room(1) && !checks.has_room(2));
            let _ = checks.begin(check(Rc::new(Panics), 1));
            assert!(!checks.has_room(1));
        });
    }
}
