use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::LocalSet;

use super::super::controller::Setup;
use super::super::event::Events;
use super::super::handle::Handle;
use super::super::reload::{Host, HostError, Source};
use super::*;
use crate::balance::Registry;
use crate::config::model::Config;
use crate::health::Saved;
use crate::metrics::Tally;
use crate::net::clock::Clock;
use crate::net::dial::EphemeralPorts;
use crate::state::{Reporter, Snapshot, Threads};

struct Nothing;

impl Host for Nothing {
    fn prepare(&mut self, _: &Config, _: &Snapshot) -> Result<(), HostError> {
        Ok(())
    }

    fn commit(&mut self) {}

    fn abandon(&mut self) {}

    fn addresses(&self) -> Vec<(String, Address)> {
        Vec::new()
    }
}

/// A configuration with one pool of these backends. The server is nowhere: what is found, a test says.
fn config(backends: &str, keys: &str) -> Config {
    let text = format!(
        "listeners: {{web: {{bind: '127.0.0.1:0', pool: app}}}}\n\
         pools: {{app: {{backends: [{backends}], resolve: {{servers: ['127.0.0.1:9'], {keys}}}}}}}\n"
    );
    crate::config::load(&text, &|_| None, &Registry::default()).unwrap()
}

/// A controller of it, with the other end of its requests.
fn controller(config: Config) -> (Controller, Handle) {
    controller_after(None, config)
}

/// The same, with what was saved by another.
fn controller_after(saved: Option<Saved>, config: Config) -> (Controller, Handle) {
    let snapshot = Arc::new(Snapshot::new(&config, None).unwrap());
    let config = Arc::new(ArcSwap::from_pointee(config));
    let events = Events::default();
    let (handle, requests) = Handle::new(events.clone(), Arc::clone(&config));
    let setup = Setup {
        clock: Clock::start(),
        ports: EphemeralPorts::read(),
        source: Source { path: None, registry: Registry::default() },
        host: Box::new(Nothing),
        threads: Threads::new(0).0,
        reports: Reporter::new().1,
        counters: Arc::default(),
        saved,
        counted: Tally::default(),
    };
    (Controller::new(setup, (config, snapshot), (events, requests)).unwrap(), handle)
}

/// Runs a test where a controller can be.
fn within(test: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { test() });
}

impl Controller {
    /// Looks up what another configuration has.
    fn renew(&mut self, config: &Config) {
        let config = config.pools.get("app").unwrap();
        self.pools[0].config = config.clone();
        let resolver = resolver(config).unwrap();
        self.watch_names(0, resolver.as_ref(), &Remembered::new());
    }

    fn serial(&self, index: usize) -> u64 {
        self.pools[0].names[index].serial
    }

    /// Whoever has this number has found these.
    fn find(&mut self, serial: u64, addresses: &[SocketAddr]) {
        let found = |address: &SocketAddr| Found { address: *address, service: None };
        let known = Known::of(addresses.iter().map(found));
        let change = Change {
            added: Vec::new(),
            removed: Vec::new(),
            error: None,
            dropped: 0,
            next_in: Duration::ZERO,
        };
        self.name_resolved(Resolved { pool: self.pools[0].number, serial, known, change });
    }

    /// The addresses of all nodes, and whether the name still has them.
    fn nodes(&self) -> Vec<(&str, bool)> {
        let nodes = self.pools[0].keeper.nodes.iter();
        nodes.map(|node| (&*node.address, node.health.state().is_usable())).collect()
    }
}

fn at(last: &[u8]) -> Vec<SocketAddr> {
    last.iter().map(|last| ([10, 0, 0, *last], 1).into()).collect()
}

#[test]
fn a_reload_goes_on_with_what_is_looked_up_in_the_same_way() {
    within(|| {
        let (mut controller, _handle) = controller(config("'a.test:1'", ""));
        controller.find(1, &at(&[1, 2]));
        controller.renew(&config("'a.test:1', 'b.test:1'", ""));
        assert_eq!((controller.serial(0), controller.serial(1)), (1, 2));
        controller.renew(&config("'a.test:1'", "timeout: 1s"));
        assert_eq!(controller.serial(0), 3, "in another way");
        assert_eq!(controller.pools[0].names[0].known.found().count(), 2, "with what is known");
    });
}

#[test]
fn an_answer_that_was_on_its_way_for_another_name_counts_for_nothing() {
    within(|| {
        let (mut controller, _handle) = controller(config("{address: 'a.test:1', name: a}", ""));
        controller.find(1, &at(&[1]));
        controller.renew(&config("{address: 'b.test:1', name: a}", ""));
        controller.find(1, &at(&[1, 2]));
        assert_eq!(controller.nodes(), [("10.0.0.1:1", true)]);
        assert_eq!(controller.pools[0].names[0].known, Known::default());
    });
}

#[test]
fn a_name_that_was_written_anew_leaves_the_old_addresses_until_it_is_answered() {
    within(|| {
        let backends = |first| format!("{{address: '{first}', name: a}}, 'z.test:1'");
        let (mut controller, _handle) = controller(config(&backends("a.test:1"), ""));
        controller.find(1, &at(&[1]));
        controller.renew(&config(&backends("b.test:1"), ""));
        controller.find(2, &at(&[9]));
        let lost = |controller: &Controller| controller.pools[0].lost().len();
        assert_eq!((controller.nodes().len(), lost(&controller)), (2, 0));
        controller.find(3, &at(&[2]));
        assert_eq!((controller.nodes().len(), lost(&controller)), (3, 1));
    });
}

#[test]
fn what_was_saved_of_a_name_is_there_at_once_with_the_words_of_operators() {
    within(|| {
        let config = || config("{address: 'a.test:1', name: a}, 'a-b.test:1'", "");
        let (mut before, _handle) = controller(config());
        before.find(1, &at(&[2]));
        before.find(1, &at(&[1, 2]));
        before.find(2, &at(&[7]));
        before.pools[0].keeper.nodes[1].weight.overrule(5);
        let known = |controller: &Controller| -> Vec<_> {
            let nodes = controller.pools[0].keeper.nodes.iter();
            nodes.map(|n| (n.name.to_string(), n.address.to_string(), n.weight.value())).collect()
        };
        let text = before.saved().to_text().unwrap();
        let saved = Saved::read(&text, 0).unwrap();
        let (mut after, _handle) = controller_after(Some(saved), config());
        assert_eq!(known(&after), known(&before));
        assert_eq!(known(&after)[1].0, "a", "found first, alone");
        after.find(1, &at(&[1, 2]));
        assert_eq!(known(&after), known(&before), "the first answer says nothing new");
    });
}

#[test]
fn what_was_saved_of_another_name_is_not_believed() {
    within(|| {
        let (mut before, _handle) = controller(config("{address: 'a.test:1', name: a}", ""));
        before.find(1, &at(&[1]));
        let saved = before.saved();
        for other in ["b.test:1", "a.test:2", "10.0.0.9:1"] {
            let config = config(&format!("{{address: '{other}', name: a}}"), "");
            let (after, _handle) = controller_after(Some(saved.clone()), config);
            let nodes = after.nodes();
            assert!(nodes.iter().all(|(address, _)| *address == other), "{nodes:?}");
        }
    });
}

#[test]
fn an_address_that_another_name_has_as_well_is_lost_all_the_same() {
    within(|| {
        let (mut controller, _handle) = controller(config("'a.test:1', 'b.test:1'", ""));
        controller.find(1, &at(&[1, 2]));
        controller.find(2, &at(&[1]));
        controller.find(1, &at(&[2]));
        let usable = controller.nodes().iter().filter(|(_, is_usable)| *is_usable).count();
        assert_eq!((controller.nodes().len(), usable), (3, 2), "{:?}", controller.nodes());
    });
}

#[test]
fn however_often_the_addresses_change_they_are_purged_by_one_timer() {
    within(|| {
        let (mut controller, _handle) = controller(config("'a.test:1'", ""));
        controller.find(1, &at(&[1]));
        let id = controller.pools[0].keeper.nodes[0].id;
        let backend = Arc::clone(&controller.pools[0].backings[&id].backend);
        assert!(backend.load.take(None), "somebody is connected");
        (2..50).for_each(|last| controller.find(1, &at(&[last])));
        let purge = Timer::Purge(controller.pools[0].number);
        assert_eq!(controller.timers.count(purge), 1);
        let fire = |controller: &mut Controller| {
            while controller.timers.take_due(Tick::MAX).is_some() {}
            controller.purge(controller.pools[0].number);
        };
        fire(&mut controller);
        assert_eq!((controller.timers.count(purge), controller.nodes().len()), (1, 2));
        backend.load.give_back();
        fire(&mut controller);
        assert_eq!((controller.timers.count(purge), controller.nodes().len()), (0, 1));
    });
}

#[test]
fn a_thousand_addresses_that_all_change_cost_little() {
    let spent = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let addresses = |second: u8| -> Vec<SocketAddr> {
        let address = |n: u16| {
            let [high, low] = n.to_be_bytes();
            ([127, second, high, low], 1).into()
        };
        (1..=1_000).map(address).collect()
    };
    within(|| {
        let (mut controller, _handle) = controller(config("'a.test:1'", ""));
        controller.find(1, &addresses(1));
        let before = spent();
        controller.find(1, &addresses(2));
        let took = spent() - before;
        assert_eq!(controller.nodes().len(), 2_000);
        assert!(took < Duration::from_millis(150), "{took:?} of the processor");
    });
}
