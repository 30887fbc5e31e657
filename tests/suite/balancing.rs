//! Who gets which connection: the strategies as seen from outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::peer::Options;
use crate::support::setup::Scratch;
use crate::support::{End, Peer, Proxy, Refusing, Setup, TestBackend, at_once, eventually};

const STRATEGIES: [&str; 8] = [
    "round_robin",
    "least_connections",
    "random",
    "power_of_two",
    "least_latency",
    "source_hash",
    "first_available",
    "hot_standby",
];

/// Three backends that say who they are.
fn named() -> [TestBackend; 3] {
    ["a", "b", "c"].map(TestBackend::named)
}

/// A pool of them, with a strategy.
fn pool(backends: &[TestBackend], strategy: &str) -> Setup {
    Setup::to(backends.iter().map(TestBackend::address)).pool(&format!("strategy: {strategy}"))
}

/// The same with options for each backend, as in a flow mapping.
fn pool_with(backends: &[TestBackend], options: &[&str], strategy: &str) -> Setup {
    let with = |(backend, options): (&TestBackend, &&str)| {
        format!("{{address: \"{}\", {options}}}", backend.address())
    };
    Setup::to(backends.iter().zip(options).map(with)).pool(&format!("strategy: {strategy}"))
}

/// The backend that a client reached.
fn who(client: &Peer) -> String {
    String::from_utf8(client.receive(1)).unwrap()
}

/// The backends that `count` connections one after the other reach.
fn sequence(proxy: &Proxy, count: usize) -> String {
    (0..count).map(|_| who(&proxy.client())).collect()
}

/// Opens connections, each when the one before has its backend; they stay open.
fn one_after_the_other(proxy: &Proxy, count: usize) -> (String, Vec<Peer>) {
    let open = |_| {
        let client = proxy.client();
        (who(&client), client)
    };
    (0..count).map(open).unzip()
}

fn tally(names: &str) -> BTreeMap<char, usize> {
    let mut count = BTreeMap::new();
    names.chars().for_each(|name| *count.entry(name).or_default() += 1);
    count
}

fn client_from(proxy: &Proxy, last: u8) -> Peer {
    let from = Some(SocketAddr::from(([127, 0, 2, last], 0)));
    Peer::connect_with(proxy.address(), Options { from, ..Options::default() }).unwrap()
}

#[test]
fn every_strategy_passes_traffic() {
    at_once(STRATEGIES.len(), |i| {
        let backends = named();
        let proxy = pool(&backends, STRATEGIES[i]).start();
        for _ in 0..20 {
            let client = proxy.client();
            assert!(["a", "b", "c"].contains(&who(&client).as_str()));
            client.expect_echo(STRATEGIES[i]);
        }
        proxy.expect_ends(&["client_closed"; 20]);
    });
}

#[test]
fn every_strategy_goes_round_a_backend_that_refuses() {
    at_once(STRATEGIES.len(), |i| {
        let (down, up) = (Refusing::new(), TestBackend::echo());
        let backends = [down.address(), up.address().to_owned()];
        let proxy = Setup::to(backends).pool(&format!("strategy: {}", STRATEGIES[i])).start();
        for _ in 0..10 {
            proxy.client().expect_echo(STRATEGIES[i]);
        }
        proxy.expect_ends(&["client_closed"; 10]);
    });
}

#[test]
fn round_robin_is_the_default_and_goes_round() {
    let backends = named();
    let proxy = Setup::to(backends.iter().map(TestBackend::address)).start();
    assert_eq!(sequence(&proxy, 9), "abc".repeat(3));
}

#[test]
fn round_robin_is_exact_over_all_threads() {
    let backends = named();
    let proxy = pool(&backends, "round_robin").threads(4).start();
    at_once(6, |_| sequence(&proxy, 50));
    assert_eq!(backends.each_ref().map(TestBackend::accepted), [100; 3]);
}

#[test]
fn weights_share_exactly_and_smoothly() {
    let backends = ["a", "b"].map(TestBackend::named);
    let proxy = pool_with(&backends, &["weight: 3", "weight: 1"], "round_robin").start();
    let order = sequence(&proxy, 40);
    for turn in order.as_bytes().chunks(4) {
        let b = turn.iter().filter(|name| **name == b'b').count();
        assert_eq!(b, 1, "one of four belongs to b: {order}");
    }
}

#[test]
fn a_backend_of_weight_zero_gets_nothing() {
    at_once(STRATEGIES.len(), |i| {
        let backends = named();
        let weights = ["weight: 0", "weight: 1", "weight: 2"];
        let proxy = pool_with(&backends, &weights, STRATEGIES[i]).start();
        let tally = tally(&sequence(&proxy, 12));
        assert!(!tally.contains_key(&'a'), "{}: {tally:?}", STRATEGIES[i]);
    });
}

#[test]
fn random_shares_by_weight() {
    let backends = ["a", "b"].map(TestBackend::named);
    let proxy = pool_with(&backends, &["weight: 3", "weight: 1"], "random").start();
    let tally = tally(&sequence(&proxy, 200));
    // 50 on average; 20 or 85 are nearly five deviations away.
    assert!((20..85).contains(&tally[&'b']), "{tally:?}");
}

#[test]
fn source_hash_keeps_a_source_at_its_backend() {
    let backends = named();
    let start = || pool(&backends, "source_hash").start();
    let ask =
        |proxy: &Proxy| -> String { (1..=40).map(|last| who(&client_from(proxy, last))).collect() };
    let proxy = start();
    let first = ask(&proxy);
    assert_eq!(ask(&proxy), first);
    assert_eq!(tally(&first).len(), 3, "all backends are used: {first}");
    assert_eq!(ask(&start()), first, "after a restart");
}

#[test]
fn source_hash_can_keep_a_whole_network_together() {
    let backends = named();
    let proxy = pool(&backends, "{source_hash: {prefix_v4: 24}}").start();
    let all: String = (1..=20).map(|last| who(&client_from(&proxy, last))).collect();
    assert_eq!(tally(&all).len(), 1, "{all}");
}

#[test]
fn first_available_fills_in_order() {
    let backends = named();
    let limits = ["max_connections: 2", "max_connections: 1", "max_connections: 5"];
    let proxy = pool_with(&backends, &limits, "first_available").start();
    let (order, mut clients) = one_after_the_other(&proxy, 5);
    assert_eq!(order, "aabcc");
    drop(clients.remove(1));
    eventually(Duration::from_secs(2), "its place is free", || backends[0].open() == 1);
    eventually(Duration::from_secs(2), "it is used again", || who(&proxy.client()) == "a");
}

#[test]
fn hot_standby_uses_the_first_alone() {
    let backends = named();
    let proxy = pool(&backends, "hot_standby").start();
    assert_eq!(sequence(&proxy, 10), "a".repeat(10));
}

#[test]
fn hot_standby_turns_to_the_next_when_the_first_refuses() {
    let (down, up) = (Refusing::new(), ["b", "c"].map(TestBackend::named));
    let backends = [down.address(), up[0].address().to_owned(), up[1].address().to_owned()];
    let proxy = Setup::to(backends).pool("strategy: hot_standby").start();
    assert_eq!(sequence(&proxy, 5), "b".repeat(5));
}

#[test]
fn least_connections_evens_out_long_ones() {
    let backends = named();
    let proxy = pool(&backends, "least_connections").start();
    let (names, clients) = one_after_the_other(&proxy, 9);
    assert_eq!(tally(&names).into_values().collect::<Vec<_>>(), [3, 3, 3], "{names}");
    let mut clients: Vec<_> = names.chars().zip(clients).collect();
    clients.retain(|(name, _)| *name != 'b');
    eventually(Duration::from_secs(2), "b is empty", || backends[1].open() == 0);
    eventually(Duration::from_secs(2), "and known to be", || proxy.ended().len() == 3);
    assert_eq!(one_after_the_other(&proxy, 3).0, "bbb");
}

#[test]
fn least_connections_weighs_the_number() {
    let backends = ["a", "b"].map(TestBackend::named);
    let weights = ["weight: 2", "weight: 1"];
    let proxy = pool_with(&backends, &weights, "least_connections").start();
    let (names, _clients) = one_after_the_other(&proxy, 12);
    assert_eq!(tally(&names), BTreeMap::from([('a', 8), ('b', 4)]), "{names}");
}

#[test]
fn power_of_two_avoids_a_loaded_backend() {
    let backends = ["a", "b"].map(TestBackend::named);
    let proxy = pool(&backends, "power_of_two").start();
    let (names, _clients) = one_after_the_other(&proxy, 40);
    let tally = tally(&names);
    assert!(tally[&'a'].abs_diff(tally[&'b']) <= 4, "{tally:?}");
}

#[test]
fn unix_sockets_can_be_backends() {
    let scratch = Scratch::new();
    let backends =
        ["one.sock", "two.sock"].map(|name| TestBackend::echo_on_unix(&scratch.path().join(name)));
    let proxy = pool(&backends, "round_robin").start();
    for _ in 0..10 {
        let client = proxy.client();
        client.expect_echo("hello");
        client.fin();
        client.expect_end(End::Fin);
    }
    assert_eq!(backends.each_ref().map(TestBackend::accepted), [5; 2]);
}

#[test]
fn a_name_is_what_a_backend_is_called_by() {
    let backends = ["a"].map(TestBackend::named);
    let proxy = pool_with(&backends, &["name: app-1"], "round_robin").start();
    assert_eq!(sequence(&proxy, 1), "a");
    proxy.expect_ends(&["client_closed"]);
    assert_eq!(proxy.ended()[0].backend.as_deref(), Some("app-1"));
}

#[test]
fn listeners_lead_to_their_own_pools() {
    let backends = named();
    let text = format!(
        "listeners:\n  \
           left: {{bind: \"127.0.0.1:0\", pool: l}}\n  \
           right: {{bind: \"127.0.0.1:0\", pool: r}}\n\
         pools:\n  l: {{backends: [\"{}\"]}}\n  r: {{backends: [\"{}\"]}}\n",
        backends[0].address(),
        backends[1].address()
    );
    let proxy = Setup::yaml(text).listening(2).start();
    assert_eq!(who(&Peer::connect(proxy.addresses_of("left")[0])), "a");
    assert_eq!(who(&Peer::connect(proxy.addresses_of("right")[0])), "b");
}
