//! What people and circumstances do to the world.

use tidegate::failover::{self, Event as RoleEvent, Id};
use tidegate::health::{self, Ejection, Event, Held, Judged, Operator, Saved, Trouble};

use crate::chance::{checks, failback, outlier, rotation, some_operator, some_truth, some_weight};
use crate::invariants::Watch;
use crate::naive::Naive;
use crate::world::{Ending, Outside, Run, Truth, World, node, start};

impl World {
    pub(crate) fn change_truth(&mut self) {
        let Some(id) = self.some_id() else { return };
        let truth = some_truth(&mut self.rng);
        self.say(|| format!("{id} now {truth:?}"));
        self.outside.get_mut(&id).expect("it is there").truth = truth;
    }

    /// An operator says something.
    pub(crate) fn operate(&mut self) {
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

    pub(crate) fn changed(&mut self, evidence: &str) {
        let why = failover::Why::new(failover::Cause::Operator, evidence);
        self.controller.refresh(&why, false, self.now);
    }

    /// The file is read again, and is another one.
    pub(crate) fn reload(&mut self) {
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
                self.controller.settings.failover = failback(&mut self.rng);
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
        let places = self.controller.places();
        self.controller.reschedule(&places, self.now);
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
        let mut node = node(id, self.rng.u32(0..3), file);
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
    pub(crate) fn disturb(&mut self) {
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
                    let run = Run { id, epoch, generation, due, started, serial, result };
                    let at = self.now + self.rng.u64(0..500);
                    self.push(at, Ending::Check(run));
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
    pub(crate) fn stall(&mut self) {
        let from = self.now;
        let is_long = self.rng.u32(0..8) == 0;
        self.now += if is_long { 700_000 } else { self.rng.u64(1..20_000) };
        self.say(|| format!("stalled since {from}"));
        self.stalls.push((from, self.now));
        if self.stalls.len() > 4 {
            self.stalls.remove(0);
        }
        self.catch_up();
    }

    /// The process ends, and another one goes on with what it saved.
    pub(crate) fn restart(&mut self) {
        let unix = self.unix();
        let mut saved = Saved::new(unix);
        saved.pools.insert("p".into(), self.controller.save((self.now, unix)));
        let text = saved.to_text().expect("it is written");
        let later = unix + self.rng.u64(0..20_000);
        let saved = Saved::read(&text, later).expect("it is read");
        self.count("restart");
        self.say(|| "restart".into());
        (self.now, self.offset) = (0, later);
        self.endings.clear();
        self.stalls.clear();
        let nodes = self.controller.nodes.iter().map(|node| {
            let file = self.outside[&node.id].file;
            let mut new = self::node(node.id, node.priority, file);
            (new.operator, new.weight) = (Held::new(file.0), Held::new(file.1));
            new
        });
        let (nodes, settings) = (nodes.collect(), self.controller.settings.clone());
        Watch::before_restart(self);
        self.controller = start(settings, nodes, Some(&saved), later);
        for outside in self.outside.values_mut() {
            (outside.streak, outside.trial_taken) = (0, None);
            outside.naive.restarted(unix, later);
        }
        Watch::after_restart(self);
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
}
