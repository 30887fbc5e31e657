//! The world: backends that work or do not, connections, operators, reloads, stalls and restarts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tidegate::control::keeper::{Keeper, Node, Settings, Told};
use tidegate::failover::{self, Action, Event as RoleEvent, Id, Role};
use tidegate::health::{
    self, Answer, Cause, Checking, Ejection, Event, Fire, Judged, Operator, Outlier, Saved, Tick,
    Timing, Trouble, Turn, is_due, judge, may_eject, next,
};

use crate::chance::{checks, failback, outlier, rotation, some_operator, some_truth, some_weight};
use crate::invariants::Watch;
use crate::naive::{Naive, Unix};

/// What a backend really does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Works,
    Refuses,
    /// Answers nothing.
    Silent,
    /// Passes checks and fails connections.
    Frozen,
    /// Fails checks and serves connections.
    Shy,
    /// Anything, each time.
    Flaky,
}

/// A backend as the outside sees it.
pub(crate) struct Outside {
    pub(crate) truth: Truth,
    /// What the file says of it.
    pub(crate) file: (Operator, u32),
    /// Connections failed in a row, and when the first of them did.
    pub(crate) streak: u32,
    first_failed: Tick,
    /// The trial that has had its connection.
    pub(crate) trial_taken: Option<u64>,
    pub(crate) naive: Naive,
}

/// A check under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) id: Id,
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    pub(crate) due: Tick,
    pub(crate) started: Tick,
    pub(crate) serial: u64,
    /// Passes, fails with Refused, or fails.
    pub(crate) result: u8,
}

/// Something that will end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    Check(Run),
    Connection { id: Id, started: Tick, trial: Option<u64>, is_ok: bool },
    Hook { serial: u64, is_ok: bool },
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Tick,
    /// The Unix time of tick 0.
    pub(crate) offset: Unix,
    pub(crate) controller: Keeper,
    pub(crate) outside: BTreeMap<Id, Outside>,
    pub(crate) endings: BinaryHeap<Reverse<(Tick, u64, Ending)>>,
    serial: u64,
    /// When this process did not run.
    pub(crate) stalls: Vec<(Tick, Tick)>,
    pub(crate) watch: Watch,
    pub(crate) is_calm: bool,
    pub(crate) log: Vec<String>,
    pub(crate) is_verbose: bool,
    /// How often what happened, over all seeds.
    pub(crate) tally: BTreeMap<&'static str, u64>,
}

/// A backend as the file has it.
pub(crate) fn node(id: Id, priority: u32, file: (Operator, u32)) -> Node {
    let (name, address) = (format!("b{id}"), format!("10.0.0.{id}:1"));
    Node::new(id, (name.into(), address.into()), priority, file)
}

/// The pool at tick 0.
pub(crate) fn start(
    settings: Settings,
    nodes: Vec<Node>,
    saved: Option<&Saved>,
    unix: Unix,
) -> Keeper {
    Keeper::start(("p".into(), settings), nodes, saved, (0, unix))
}

impl World {
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let is_standby = rng.bool();
        let settings = Settings {
            health: health::Policy { checks: checks(&mut rng), outlier: outlier(&mut rng) },
            rotation: rotation(&mut rng),
            failover: failback(&mut rng),
            is_standby,
        };
        let count = rng.u32(1..=5);
        let mut outside = BTreeMap::new();
        for id in 1..=count {
            let file = (some_operator(&mut rng), some_weight(&mut rng));
            let naive = Naive::new(file.0, settings.health.checks.is_some(), 1_000_000);
            outside.insert(id, Outside::new(some_truth(&mut rng), file, naive));
        }
        let nodes = outside.iter().map(|(id, outside)| node(*id, rng.u32(0..3), outside.file));
        let controller = start(settings, nodes.collect(), None, 1_000_000);
        let active = controller.first_active;
        Self {
            rng,
            now: 0,
            offset: 1_000_000,
            controller,
            outside,
            endings: BinaryHeap::new(),
            serial: 0,
            stalls: Vec::new(),
            watch: Watch::new(count, active),
            is_calm: false,
            log: Vec::new(),
            is_verbose,
            tally: BTreeMap::new(),
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub(crate) fn unix(&self) -> Unix {
        self.offset + self.now
    }

    pub(crate) fn say(&mut self, words: impl FnOnce() -> String) {
        if self.is_verbose {
            self.log.push(format!("{:>8} {}", self.now, words()));
        }
    }

    /// One step of the world; the invariants are looked at after it.
    pub(crate) fn step(&mut self) {
        if self.is_between() && !self.is_calm && self.rng.u32(0..8) == 0 {
            self.restart();
            self.heed();
            Watch::look(self);
        }
        match if self.is_calm { self.rng.u32(0..80) } else { self.rng.u32(0..100) } {
            0..45 => self.pass_time(),
            45..80 => self.connect(),
            80..86 => self.change_truth(),
            86..90 => self.operate(),
            90..93 => self.reload(),
            93..97 => self.disturb(),
            97..99 => self.stall(),
            _ => match self.rng.u32(0..4) {
                0 => self.restart(),
                1 | 2 => self.probe_trials(),
                _ => {}
            },
        }
        self.heed();
        Watch::look(self);
    }

    /// Whether actions before traffic are under way, or have failed for all there are: moments that are
    /// short and in which a restart is to be looked at.
    fn is_between(&self) -> bool {
        let Some(role) = &self.controller.role else { return false };
        match role.role() {
            Role::Preparing(_) => true,
            Role::Vacant => !role.barred().is_empty(),
            Role::Active(_) => false,
        }
    }

    /// Until the next thing that happens by itself, or a moment without any.
    fn pass_time(&mut self) {
        let limit = self.now + self.rng.u64(1..3000);
        self.now = self.next_thing().filter(|at| *at <= limit).unwrap_or(limit).max(self.now);
        self.catch_up();
    }

    /// So many milliseconds pass, and what happens in them happens in time.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(at) = self.next_thing().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.catch_up();
        }
        self.now = until;
    }

    /// When something happens next by itself.
    fn next_thing(&self) -> Option<Tick> {
        let ending = self.endings.peek().map(|Reverse((at, ..))| *at);
        let check =
            self.controller.nodes.iter().filter_map(|node| node.due.map(|due| due.at)).min();
        [ending, check, self.controller.wake()].into_iter().flatten().min()
    }

    /// Everything that is due by now happens.
    pub(crate) fn catch_up(&mut self) {
        let now = self.unix();
        self.outside.values_mut().for_each(|outside| outside.naive.time(now));
        while self.endings.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            let Some(Reverse((_, _, ending))) = self.endings.pop() else { break };
            self.end(ending);
        }
        if self.controller.wake().is_some_and(|wake| wake <= self.now) {
            self.controller.timer(self.now);
        }
        for index in 0..self.controller.nodes.len() {
            self.check(index);
        }
        self.heed();
    }

    /// The timer of a check fires, if it is time.
    fn check(&mut self, index: usize) {
        let Some(policy) = self.controller.settings.health.checks else { return };
        let node = &mut self.controller.nodes[index];
        let Some(due) = node.due.filter(|due| due.at <= self.now) else { return };
        assert!(node.health.is_checked(), "a check of a backend that is not to be checked");
        match due.fire(self.now, self.rng.u64(..), &policy) {
            Fire::PutOff(later) => {
                node.due = Some(later);
                self.count("check put off");
            }
            Fire::Now => {
                node.due = None;
                let (id, epoch) = (node.id, node.health.epoch());
                self.watch.check_starts(id, self.now, &policy);
                let serial = self.start_check(id, epoch, due.at, &policy);
                self.controller.nodes[index].running = Some(serial);
            }
        }
    }

    pub(crate) fn start_check(&mut self, id: Id, epoch: u64, due: Tick, policy: &Checking) -> u64 {
        let outside = &self.outside[&id];
        let is_ok = match outside.truth {
            Truth::Works | Truth::Frozen => true,
            Truth::Refuses | Truth::Silent | Truth::Shy => false,
            Truth::Flaky => self.rng.bool(),
        };
        let (took, result) = match (is_ok, outside.truth) {
            (true, _) => (self.rng.u64(0..20), b'P'),
            (false, Truth::Silent) => (policy.timeout, b'F'),
            (false, _) => (self.rng.u64(0..20), b'R'),
        };
        let (started, generation) = (self.now, outside.naive.generation);
        let serial = self.next_serial();
        let run = Run { id, epoch, generation, due, started, serial, result };
        self.push(self.now + took, Ending::Check(run));
        serial
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn push(&mut self, at: Tick, ending: Ending) {
        let serial = self.next_serial();
        self.endings.push(Reverse((at, serial, ending)));
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Check(run) => self.end_check(run),
            Ending::Connection { id, started, trial, is_ok } => {
                self.end_connection(id, started, trial, is_ok);
            }
            Ending::Hook { serial, is_ok } => {
                self.say(|| format!("hook {serial} ended, ok: {is_ok}"));
                self.count(if is_ok { "actions succeeded" } else { "actions failed" });
                self.watch.hook_ends(serial, is_ok, self.now);
                self.controller.role_event(RoleEvent::Hooked { serial, is_ok }, self.now);
            }
        }
        self.heed();
    }

    fn end_check(&mut self, run: Run) {
        let Run { id, epoch, generation, due, started, serial, result } = run;
        let Some(policy) = self.controller.settings.health.checks else { return };
        let Some(outside) = self.outside.get_mut(&id) else { return };
        let ended = self.now;
        let stalled =
            |(from, to): &(Tick, Tick)| (*to).min(ended).saturating_sub((*from).max(started));
        let timing = Timing { due, started, ended, lag: self.stalls.iter().map(stalled).sum() };
        let answer = match result {
            b'P' => Answer::Pass,
            b'R' => Answer::Refused,
            _ => Answer::Fail("no answer".into()),
        };
        let is_refused = answer == Answer::Refused;
        let result = judge(answer, &timing, &policy);
        let letter = match result {
            Judged::Pass => 'P',
            Judged::Fail(_) => 'F',
            Judged::Unjudged => 'U',
        };
        // What this process slept through is not held against the backend.
        let is_awake = timing.lag * 4 <= policy.timeout.max(40);
        assert!(letter != 'F' || is_refused || is_awake, "{id} blamed: {timing:?}");
        let unix = self.offset + ended;
        if generation == outside.naive.generation {
            outside.naive.checked(letter, &policy, unix);
        }
        match (generation == outside.naive.generation, letter) {
            (false, _) => self.count("check stale"),
            (true, 'P') => self.count("check passed"),
            (true, 'F') => self.count("check failed"),
            (true, _) => self.count("check unjudged"),
        }
        self.say(|| format!("check of {id}: {letter} (epoch {epoch})"));
        self.controller.apply(id, Event::Checked { epoch, result }, ended);
        let draw = self.rng.u64(..);
        let Some(node) = self.controller.node_mut(id) else { return };
        if node.running == Some(serial) {
            node.running = None;
            self.watch.check_ends(id, ended);
            let is_checked = node.health.is_checked();
            node.due = is_checked.then(|| next(started, ended, node.health.pace(), draw, &policy));
        }
    }

    /// A client connects.
    fn connect(&mut self) {
        let pause = if self.is_calm { 200 } else { self.rng.u64(0..50) };
        self.pass(pause);
        let chosen = &self.controller.choice.chosen;
        if chosen.is_empty() {
            return;
        }
        let pick = chosen[self.rng.usize(0..chosen.len())];
        let id = self.controller.nodes[pick.index].id;
        let Some(outside) = self.outside.get_mut(&id) else { return };
        if pick.is_limited {
            if outside.trial_taken == pick.trial {
                return;
            }
            outside.trial_taken = pick.trial;
        }
        let is_ok = match outside.truth {
            Truth::Works | Truth::Shy => true,
            Truth::Refuses | Truth::Silent | Truth::Frozen => false,
            Truth::Flaky => self.rng.bool(),
        };
        let (started, trial) = (self.now, pick.trial);
        let ending = Ending::Connection { id, started, trial, is_ok };
        if self.rng.u32(0..4) == 0 {
            let at = self.now + self.rng.u64(0..2000);
            self.push(at, ending);
        } else {
            self.end(ending);
        }
    }

    pub(crate) fn end_connection(
        &mut self,
        id: Id,
        started: Tick,
        trial: Option<u64>,
        is_ok: bool,
    ) {
        let Some(outside) = self.outside.get_mut(&id) else { return };
        if let Some(trial) = trial {
            let ejection = self.controller.node(id).map(|node| node.health.ejection());
            let is_current = ejection == Some(Ejection::Trial(trial));
            return self.end_trial(id, trial, is_current, is_ok);
        }
        if is_ok {
            outside.streak = 0;
            return;
        }
        if outside.streak == 0 {
            outside.first_failed = self.now;
        }
        outside.streak += 1;
        let (count, first) = (outside.streak, outside.first_failed);
        let Some(policy) = self.controller.settings.health.outlier else { return };
        if !is_due(count, policy.consecutive_failures)
            || !may_eject(&self.controller.view(id, self.now), &policy)
        {
            return;
        }
        let draw = self.rng.u64(..);
        let event = Event::Tripped { count, last: Trouble::Refused, first, began: started, draw };
        self.say(|| format!("{count} connections to {id} failed in a row"));
        self.eject(id, event, &policy);
    }

    pub(crate) fn end_trial(&mut self, id: Id, number: u64, is_current: bool, is_ok: bool) {
        self.count(if is_ok { "trial passed" } else { "trial failed" });
        self.say(|| format!("trial {number} of {id}, ok: {is_ok}, current: {is_current}"));
        if is_ok {
            if is_current {
                let unix = self.unix();
                self.naive(id, |naive| naive.readmit(unix));
            }
            self.controller.apply(id, Event::TrialPassed(number), self.now);
        } else {
            let Some(policy) = self.controller.settings.health.outlier else { return };
            let draw = self.rng.u64(..);
            let event = Event::TrialFailed { trial: number, trouble: Trouble::Reset, draw };
            self.eject(id, event, &policy);
        }
    }

    /// Sends an event that ejects, and tells the reference if it did.
    pub(crate) fn eject(&mut self, id: Id, event: Event, policy: &Outlier) {
        let before = self.controller.node(id).map(|node| node.health.ejection());
        let is_trip = matches!(event, Event::Tripped { .. });
        self.controller.apply(id, event, self.now);
        let Some(node) = self.controller.node(id) else { return };
        if Some(node.health.ejection()) == before {
            return;
        }
        let until = self.offset + node.health.wake().expect("an ejection has an end");
        let unix = self.unix();
        self.naive(id, |naive| naive.eject(until, policy, unix));
        if is_trip {
            Watch::ejected(self, id, policy);
            if let Some(outside) = self.outside.get_mut(&id) {
                outside.streak = 0;
            }
        }
    }

    pub(crate) fn naive(&mut self, id: Id, change: impl FnOnce(&mut Naive)) {
        if let Some(outside) = self.outside.get_mut(&id) {
            change(&mut outside.naive);
        }
    }

    pub(crate) fn some_id(&mut self) -> Option<Id> {
        let ids: Vec<_> = self.outside.keys().copied().collect();
        self.rng.choice(ids)
    }

    /// What the controller told is done.
    pub(crate) fn heed(&mut self) {
        if self.controller.choice.is_panic {
            self.count("panic");
        }
        for told in std::mem::take(&mut self.controller.told) {
            match &told {
                Told::Did(Action::Prepare { to, serial, .. }) => {
                    let is_ok = self.is_calm || self.rng.u32(0..3) > 0;
                    let at = self.now + self.rng.u64(1..3000);
                    self.push(at, Ending::Hook { serial: *serial, is_ok });
                    self.say(|| format!("prepare {to} #{serial}"));
                }
                Told::Did(action) => {
                    let what = match action {
                        Action::Switch(switch) if switch.is_takeover() => match switch.why.cause {
                            failover::Cause::Failback => "failback",
                            failover::Cause::Operator => "takeover by operator",
                            failover::Cause::Configuration => "takeover by reload",
                            _ => "takeover by eviction",
                        },
                        Action::Switch(_) => "role resumed",
                        Action::Abandon { .. } => "actions abandoned",
                        Action::Vacate { .. } | Action::Prepare { .. } => "role vacated",
                    };
                    self.count(what);
                    self.say(|| format!("{action:?}"));
                }
                Told::Changed(id, change) => {
                    let what = match (change.turn, change.cause) {
                        (Some(Turn::Evicted), Cause::Probe) => "evicted by checks",
                        (Some(Turn::Evicted), Cause::Outlier) => "evicted by connections",
                        (Some(Turn::Evicted), _) => "evicted by others",
                        (Some(Turn::Reinstated), Cause::Probe) => "reinstated by checks",
                        (Some(Turn::Reinstated), Cause::Outlier) => "reinstated by trial",
                        (Some(Turn::Reinstated), _) => "reinstated by others",
                        (None, _) => "other change",
                    };
                    self.count(what);
                    self.say(|| {
                        format!("{id}: {:?} to {:?}: {}", change.from, change.to, change.evidence)
                    });
                }
                Told::Edge(edge) => self.say(|| format!("{edge:?}")),
                Told::Level { from, to, .. } if from.is_some() && to < from => {
                    self.count("priority back");
                }
                Told::Level { from, to, .. } => self.say(|| format!("level {from:?} to {to:?}")),
            }
            Watch::hear(self, told);
        }
    }

    /// Probes are the trials that connections do not bring.
    pub(crate) fn probe_trials(&mut self) {
        let due = self.controller.choice.to_probe.clone();
        for index in due {
            let node = &self.controller.nodes[index];
            let Some(trial) = node.health.trial() else { continue };
            let id = node.id;
            let is_ok = self.outside[&id].truth == Truth::Works;
            self.count("trial by a check");
            self.end_trial(id, trial, true, is_ok);
            // Who is active is decided after each of them, with what is known then.
            self.heed();
        }
    }

    pub(crate) fn role(&self) -> Option<Role> {
        self.controller.role.as_ref().map(failover::Failover::role)
    }
}

impl Outside {
    pub(crate) fn new(truth: Truth, file: (Operator, u32), naive: Naive) -> Self {
        Self { truth, file, streak: 0, first_failed: 0, trial_taken: None, naive }
    }
}
