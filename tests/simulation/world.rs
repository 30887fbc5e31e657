//! The world: backends that work or do not, connections, operators, reloads, stalls and restarts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tidegate::balance::candidates;
use tidegate::failover::{self, Action, Event as RoleEvent, Failback, Id, Role};
use tidegate::health::{
    self, Answer, Cause, Checking, Ejection, Event, Fire, Held, Judged, Operator, Outlier, Saved, Tick, Timing, Trouble,
    Turn, is_due, judge, may_eject, next,
};

use crate::controller::{Controller, Node, Settings, Told};
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
    streak: u32,
    first_failed: Tick,
    /// The trial that has had its connection.
    trial_taken: Option<u64>,
    pub(crate) naive: Naive,
}

/// Something that will end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Check { id: Id, epoch: u64, generation: u64, due: Tick, started: Tick, serial: u64, result: u8 },
    Connection { id: Id, started: Tick, trial: Option<u64>, is_ok: bool },
    Hook { serial: u64, is_ok: bool },
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Tick,
    /// The Unix time of tick 0.
    pub(crate) offset: Unix,
    pub(crate) controller: Controller,
    pub(crate) outside: BTreeMap<Id, Outside>,
    endings: BinaryHeap<Reverse<(Tick, u64, Ending)>>,
    serial: u64,
    /// When this process did not run.
    stalls: Vec<(Tick, Tick)>,
    pub(crate) watch: Watch,
    pub(crate) is_calm: bool,
    pub(crate) log: Vec<String>,
    pub(crate) is_verbose: bool,
    /// How often what happened, over all seeds.
    pub(crate) tally: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let is_standby = rng.bool();
        let settings = Settings {
            health: health::Policy { checks: checks(&mut rng), outlier: outlier(&mut rng) },
            rotation: rotation(&mut rng),
            failover: failover(&mut rng),
            is_standby,
        };
        let count = rng.u32(1..=5);
        let mut outside = BTreeMap::new();
        for id in 1..=count {
            let file = (some_operator(&mut rng), some_weight(&mut rng));
            let naive = Naive::new(file.0, settings.health.checks.is_some(), 1_000_000);
            outside.insert(id, Outside::new(some_truth(&mut rng), file, naive));
        }
        let nodes = outside.iter().map(|(id, outside)| {
            Node::new(*id, rng.u32(0..3), outside.file.0, outside.file.1)
        });
        let controller = Controller::start(settings, nodes.collect(), None, 1_000_000);
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

    fn say(&mut self, words: impl FnOnce() -> String) {
        if self.is_verbose {
            self.log.push(format!("{:>8} {}", self.now, words()));
        }
    }

    /// One step of the world; the invariants are looked at after it.
    pub(crate) fn step(&mut self) {
        match if self.is_calm { self.rng.u32(0..80) } else { self.rng.u32(0..100) } {
            0..45 => self.pass_time(),
            45..80 => self.connect(),
            80..86 => self.change_truth(),
            86..90 => self.operate(),
            90..93 => self.reload(),
            93..97 => self.disturb(),
            97..99 => self.stall(),
            _ => {
                if self.rng.u32(0..4) == 0 {
                    self.restart();
                }
            }
        }
        self.heed();
        Watch::look(self);
    }

    /// Until the next thing that happens by itself, or a moment without any.
    fn pass_time(&mut self) {
        let limit = self.now + self.rng.u64(1..3000);
        self.now = self.next_thing().filter(|at| *at <= limit).unwrap_or(limit).max(self.now);
        self.catch_up();
    }

    /// So many milliseconds pass, and what happens in them happens in time.
    fn pass(&mut self, ms: u64) {
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
        let check = self.controller.nodes.iter().filter_map(|node| node.due.map(|due| due.at)).min();
        [ending, check, self.controller.wake()].into_iter().flatten().min()
    }

    /// Everything that is due by now happens.
    fn catch_up(&mut self) {
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

    fn start_check(&mut self, id: Id, epoch: u64, due: Tick, policy: &Checking) -> u64 {
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
        let ending = Ending::Check { id, epoch, generation, due, started, serial, result };
        self.push(self.now + took, ending);
        serial
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn push(&mut self, at: Tick, ending: Ending) {
        let serial = self.next_serial();
        self.endings.push(Reverse((at, serial, ending)));
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Check { id, epoch, generation, due, started, serial, result } => {
                self.end_check(id, (epoch, generation), (due, started), serial, result);
            }
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

    fn end_check(
        &mut self,
        id: Id,
        (epoch, generation): (u64, u64),
        (due, started): (Tick, Tick),
        serial: u64,
        result: u8,
    ) {
        let Some(policy) = self.controller.settings.health.checks else { return };
        let Some(outside) = self.outside.get_mut(&id) else { return };
        let ended = self.now;
        let stalled = |(from, to): &(Tick, Tick)| (*to).min(ended).saturating_sub((*from).max(started));
        let timing = Timing { due, started, ended, lag: self.stalls.iter().map(stalled).sum() };
        let answer = match result {
            b'P' => Answer::Pass,
            b'R' => Answer::Refused,
            _ => Answer::Fail("no answer".into()),
        };
        let result = judge(answer, &timing, &policy);
        let letter = match result {
            Judged::Pass => 'P',
            Judged::Fail(_) => 'F',
            Judged::Unjudged => 'U',
        };
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
        if let Some(node) = self.controller.node_mut(id) {
            if node.running == Some(serial) {
                node.running = None;
                let is_checked = node.health.is_checked();
                node.due = is_checked
                    .then(|| next(started, ended, node.health.pace(), draw, &policy));
            }
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

    fn end_connection(&mut self, id: Id, started: Tick, trial: Option<u64>, is_ok: bool) {
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
        if !is_due(count, &policy) || !may_eject(&self.controller.view(id, self.now), &policy) {
            return;
        }
        let draw = self.rng.u64(..);
        let event = Event::Tripped { count, last: Trouble::Refused, first, began: started, draw };
        self.say(|| format!("{count} connections to {id} failed in a row"));
        self.eject(id, event, &policy);
    }

    fn end_trial(&mut self, id: Id, number: u64, is_current: bool, is_ok: bool) {
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
    fn eject(&mut self, id: Id, event: Event, policy: &Outlier) {
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

    fn some_id(&mut self) -> Option<Id> {
        let ids: Vec<_> = self.outside.keys().copied().collect();
        self.rng.choice(ids)
    }

    fn change_truth(&mut self) {
        let Some(id) = self.some_id() else { return };
        let truth = some_truth(&mut self.rng);
        self.say(|| format!("{id} now {truth:?}"));
        self.outside.get_mut(&id).expect("it is there").truth = truth;
    }

    /// An operator says something.
    fn operate(&mut self) {
        let Some(id) = self.some_id() else { return };
        match self.rng.u32(0..12) {
            0 => self.tell(id, Operator::Draining),
            1 => self.tell(id, Operator::Disabled),
            2..=7 => self.tell(id, Operator::Enabled),
            8 => {
                let weight = some_weight(&mut self.rng);
                self.say(|| format!("weight of {id}: {weight}"));
                self.controller.node_mut(id).expect("it is there").weight.overrule(weight);
                self.changed("weight");
            }
            _ => {
                let to = if self.rng.bool() { Some(id) } else { None };
                Watch::before_move(self, to);
                let moved = self.controller.move_to(to, self.now);
                self.say(|| format!("failover to {to:?}: {moved:?}"));
                Watch::after_move(self, to, moved);
            }
        }
    }

    /// An operator's word on a backend.
    pub(crate) fn tell(&mut self, id: Id, operator: Operator) {
        self.say(|| format!("operator: {id} {operator:?}"));
        let (unix, is_checked) = (self.unix(), self.controller.settings.health.checks.is_some());
        self.naive(id, |naive| naive.operator(operator, is_checked, unix));
        self.controller.node_mut(id).expect("it is there").operator.overrule(operator);
        self.watch.check_is_due(id);
        self.controller.apply(id, Event::Operator(operator), self.now);
    }

    fn changed(&mut self, evidence: &str) {
        let why = failover::Why::new(failover::Cause::Operator, evidence);
        self.controller.refresh(&why, false, self.now);
    }

    /// The file is read again, and is another one.
    fn reload(&mut self) {
        match self.rng.u32(0..8) {
            0 => self.add(),
            1 => self.remove(),
            2 => {
                self.rng.shuffle(&mut self.controller.nodes);
                for node in &mut self.controller.nodes {
                    node.priority = self.rng.u32(0..3);
                }
                self.say(|| "reload: another order".into());
                self.changed("reload");
            }
            3 => self.read_file(),
            4 => {
                self.controller.settings.failover = failover(&mut self.rng);
                self.controller.settings.rotation = rotation(&mut self.rng);
                let settings = &self.controller.settings;
                let words = format!("reload: {:?} {:?}", settings.failover, settings.rotation);
                self.say(|| words);
                self.changed("reload");
            }
            5 => {
                if let Some(id) = self.some_id() {
                    let is_resolved = self.rng.bool();
                    self.say(|| format!("{id} resolved: {is_resolved}"));
                    let unix = self.unix();
                    self.naive(id, |naive| naive.resolved(is_resolved, unix));
                    self.controller.apply(id, Event::Resolved(is_resolved), self.now);
                }
            }
            _ => {
                let health = health::Policy {
                    checks: checks(&mut self.rng),
                    outlier: outlier(&mut self.rng),
                };
                self.configure(health);
            }
        }
    }

    /// Another policy of health.
    pub(crate) fn configure(&mut self, health: health::Policy) {
        let was = std::mem::replace(&mut self.controller.settings.health, health);
        let is_new_check = self.rng.u32(0..3) == 0;
        self.say(|| format!("reload: {health:?}, new check: {is_new_check}"));
        let unix = self.unix();
        let toggled = was.checks.is_some() != health.checks.is_some();
        let ids: Vec<_> = self.outside.keys().copied().collect();
        for id in ids {
            let (checks, outlier) = (health.checks.is_some(), health.outlier.is_some());
            let is_new = is_new_check || toggled;
            self.naive(id, |naive| naive.configured(checks, is_new, outlier, unix));
            self.watch.check_is_due(id);
            self.controller.feed(id, Event::Configured { is_new_check }, self.now);
        }
        self.changed("reload");
    }

    /// The file's own values of each backend are others, or the same.
    fn read_file(&mut self) {
        let ids: Vec<_> = self.outside.keys().copied().collect();
        for id in ids {
            let file = (some_operator(&mut self.rng), some_weight(&mut self.rng));
            let is_checked = self.controller.settings.health.checks.is_some();
            let unix = self.unix();
            let outside = self.outside.get_mut(&id).expect("it is there");
            let is_new = file.0 != outside.file.0;
            outside.file = file;
            let node = self.controller.node_mut(id).expect("it is there");
            node.weight.read_again(file.1);
            let before = node.operator.value();
            node.operator.read_again(file.0);
            let value = node.operator.value();
            assert_eq!(value, if is_new { file.0 } else { before }, "the newer word holds");
            if value != before {
                self.say(|| format!("reload: {id} {value:?}"));
                self.naive(id, |naive| naive.operator(value, is_checked, unix));
                self.watch.check_is_due(id);
                self.controller.feed(id, Event::Operator(value), self.now);
            }
        }
        self.changed("reload");
    }

    fn add(&mut self) {
        if self.outside.len() >= 6 {
            return;
        }
        self.watch.highest += 1;
        let id = self.watch.highest;
        let file = (some_operator(&mut self.rng), some_weight(&mut self.rng));
        self.say(|| format!("reload: {id} added, {file:?}"));
        let policy = self.controller.settings.health;
        let naive = Naive::new(file.0, policy.checks.is_some(), self.unix());
        self.outside.insert(id, Outside::new(some_truth(&mut self.rng), file, naive));
        let mut node = Node::new(id, self.rng.u32(0..3), file.0, file.1);
        node.health = health::Health::new(file.0, self.now, &policy);
        let checks = policy.checks.filter(|_| node.health.is_checked());
        node.due = checks.map(|checks| health::first(0, 1, self.now, &checks));
        let index = self.rng.usize(0..=self.controller.nodes.len());
        self.controller.nodes.insert(index, node);
        self.changed("reload");
    }

    fn remove(&mut self) {
        let Some(id) = self.some_id() else { return };
        self.say(|| format!("reload: {id} removed"));
        self.outside.remove(&id);
        self.controller.nodes.retain(|node| node.id != id);
        self.changed("reload");
    }

    /// News that is none: stale, doubled, too early, of somebody else.
    fn disturb(&mut self) {
        let Some(id) = self.some_id() else { return };
        let node = self.controller.node(id).expect("it is there");
        let (epoch, ejection) = (node.health.epoch(), node.health.ejection());
        match self.rng.u32(0..6) {
            // A second checker, as after a reload that forgot the first one.
            0 => {
                let generation = self.outside[&id].naive.generation;
                if self.controller.settings.health.checks.is_some() {
                    let result = *self.rng.choice(b"PFR").expect("there is one");
                    let (due, started) = (self.now, self.now);
                    let serial = self.next_serial();
                    let ending = Ending::Check { id, epoch, generation, due, started, serial, result };
                    let at = self.now + self.rng.u64(0..500);
                    self.push(at, ending);
                }
            }
            1 => {
                let result = if self.rng.bool() { Judged::Pass } else { Judged::Fail("x".into()) };
                let epoch = epoch.wrapping_sub(self.rng.u64(1..3));
                self.controller.apply(id, Event::Checked { epoch, result }, self.now);
            }
            2 => self.controller.apply(id, Event::Timer, self.now),
            3 => {
                let trial = match ejection {
                    Ejection::Trial(trial) => trial.wrapping_sub(1),
                    _ => self.rng.u64(0..3),
                };
                self.controller.apply(id, Event::TrialPassed(trial), self.now);
                let event = Event::TrialFailed { trial, trouble: Trouble::Reset, draw: 1 };
                self.controller.apply(id, event, self.now);
            }
            4 => {
                let serial = self.rng.u64(0..1000) + 1_000_000;
                self.controller.role_event(RoleEvent::Hooked { serial, is_ok: true }, self.now);
            }
            _ => self.controller.role_event(RoleEvent::Timer, self.now),
        }
    }

    /// This process does not run for a while.
    fn stall(&mut self) {
        let from = self.now;
        self.now += self.rng.u64(1..20_000);
        self.say(|| format!("stalled since {from}"));
        self.stalls.push((from, self.now));
        if self.stalls.len() > 4 {
            self.stalls.remove(0);
        }
        self.catch_up();
    }

    /// The process ends, and another one goes on with what it saved.
    fn restart(&mut self) {
        let unix = self.unix();
        let text = self.controller.save(self.now, unix).to_text().expect("it is written");
        let later = unix + self.rng.u64(0..20_000);
        let saved = Saved::read(&text, later).expect("it is read");
        self.count("restart");
        self.say(|| "restart".into());
        (self.now, self.offset) = (0, later);
        self.endings.clear();
        self.stalls.clear();
        let nodes = self.controller.nodes.iter().map(|node| {
            let file = self.outside[&node.id].file;
            let mut new = Node::new(node.id, node.priority, file.0, file.1);
            (new.operator, new.weight) = (Held::new(file.0), Held::new(file.1));
            new
        });
        let (nodes, settings) = (nodes.collect(), self.controller.settings.clone());
        Watch::before_restart(self);
        self.controller = Controller::start(settings, nodes, Some(&saved), later);
        for outside in self.outside.values_mut() {
            (outside.streak, outside.trial_taken) = (0, None);
            outside.naive.restarted(unix, later);
        }
        Watch::after_restart(self);
    }

    /// What the controller told is done.
    fn heed(&mut self) {
        if self.controller.choice.is_panic {
            self.count("panic");
        }
        for told in std::mem::take(&mut self.controller.told) {
            match &told {
                Told::Did(Action::Prepare { to, serial }) => {
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
                    self.say(|| format!("{id}: {:?} to {:?}: {}", change.from, change.to, change.evidence));
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
            self.end_trial(id, trial, true, is_ok);
        }
        self.heed();
    }

    /// All is well from now on, and everything is as the file wants it: enabled, of weight 1.
    pub(crate) fn calm_down(&mut self) {
        self.is_calm = true;
        let ids: Vec<_> = self.outside.keys().copied().collect();
        for id in ids {
            self.outside.get_mut(&id).expect("it is there").truth = Truth::Works;
            self.tell(id, Operator::Enabled);
            self.heed();
            let unix = self.unix();
            self.naive(id, |naive| naive.resolved(true, unix));
            self.controller.apply(id, Event::Resolved(true), self.now);
            self.controller.node_mut(id).expect("it is there").weight.overrule(1);
            self.changed("calm");
            self.heed();
        }
    }

    pub(crate) fn role(&self) -> Option<Role> {
        self.controller.role.as_ref().map(failover::Failover::role)
    }
}

impl Outside {
    fn new(truth: Truth, file: (Operator, u32), naive: Naive) -> Self {
        Self { truth, file, streak: 0, first_failed: 0, trial_taken: None, naive }
    }
}

fn some_truth(rng: &mut fastrand::Rng) -> Truth {
    match rng.u32(0..12) {
        0..6 => Truth::Works,
        6 | 7 => Truth::Refuses,
        8 => Truth::Silent,
        9 => Truth::Frozen,
        10 => Truth::Shy,
        _ => Truth::Flaky,
    }
}

fn some_operator(rng: &mut fastrand::Rng) -> Operator {
    if rng.u32(0..10) == 0 { Operator::Disabled } else { Operator::Enabled }
}

fn some_weight(rng: &mut fastrand::Rng) -> u32 {
    if rng.u32(0..12) == 0 { 0 } else { rng.u32(1..5) }
}

fn checks(rng: &mut fastrand::Rng) -> Option<Checking> {
    let interval = rng.u64(200..4000);
    let checking = Checking {
        rise: rng.u32(1..5),
        fall: rng.u32(1..5),
        interval,
        fast_interval: rng.u64(100..=interval),
        timeout: rng.u64(100..2000),
        jitter: rng.u32(0..=50),
    };
    (rng.u32(0..4) > 0).then_some(checking)
}

fn outlier(rng: &mut fastrand::Rng) -> Option<Outlier> {
    let base_ejection = rng.u64(100..10_000);
    let outlier = Outlier {
        consecutive_failures: rng.u32(1..5),
        base_ejection,
        max_ejection: rng.u64(base_ejection..60_000),
        max_ejected_percent: *rng.choice(&[0, 10, 34, 50, 50, 50, 99, 100]).expect("there is one"),
    };
    (rng.u32(0..5) > 0).then_some(outlier)
}

fn rotation(rng: &mut fastrand::Rng) -> candidates::Policy {
    candidates::Policy {
        panic_threshold: *rng.choice(&[0, 0, 0, 30, 50, 100]).expect("there is one"),
        slow_start: rng.bool().then(|| rng.u64(1..30_000)),
    }
}

fn failover(rng: &mut fastrand::Rng) -> failover::Policy {
    failover::Policy {
        failback: if rng.bool() { Failback::Auto } else { Failback::Manual },
        failback_delay: if rng.bool() { 0 } else { rng.u64(0..20_000) },
        has_hooks: rng.u32(0..3) == 0,
    }
}
