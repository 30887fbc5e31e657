//! Tests of `source_hash`.

use super::*;
use crate::balance::Tried;
use crate::balance::contract::{asking, client, moves_few_clients, shares_by_weight, weighing};

/// A claim with the preference list that begins at `slot` and goes on in steps of `stride`.
fn claim(owner: u32, weight: u64, (slot, stride): (usize, usize)) -> Claim {
    Claim { owner, weight, taken: 0, preference: Walk { slot, stride, slots: 7 } }
}

/// How many slots of a table each of `n` owns.
fn owned(table: &[u32], n: usize) -> Vec<usize> {
    let mut owned = vec![0; n];
    table.iter().for_each(|owner| owned[*owner as usize] += 1);
    owned
}

fn picks(strategy: &SourceHash, candidates: &[Candidate], source: &str) -> usize {
    let source = Some(source.parse().unwrap());
    strategy.pick(candidates, &Request { source, ..asking(&Tried::default()) }).unwrap()
}

fn built(candidates: &[Candidate], options: &[(&str, u64)]) -> SourceHash {
    let pairs = options.iter().map(|(key, value)| ((*key).into(), *value)).collect();
    SourceHash::new(candidates, &Options::new(pairs))
}

#[test]
fn the_table_of_seven_slots_in_the_paper_comes_out_as_printed() {
    let (b0, b1, b2) = ((3, 4), (0, 2), (3, 1));
    let before = populate(vec![claim(0, 1, b0), claim(1, 1, b1), claim(2, 1, b2)], 7);
    assert_eq!(before, [1, 0, 1, 0, 2, 2, 0]);
    let after = populate(vec![claim(0, 1, b0), claim(2, 1, b2)], 7);
    assert_eq!(after, [0, 0, 0, 0, 2, 2, 2]);
}

#[test]
fn a_heavier_backend_takes_more_slots() {
    let table = populate(vec![claim(0, 5, (3, 4)), claim(1, 2, (0, 2))], 7);
    assert_eq!(owned(&table, 2), [5, 2]);
    let table = populate(vec![claim(0, 65_535, (3, 4)), claim(1, 1, (0, 2))], 7);
    assert_eq!(owned(&table, 2), [6, 1], "nobody is left without a slot");
}

#[test]
fn slots_are_shared_within_two_percent_for_ten_backends() {
    let owned = owned(&built(&weighing(&[1; 10]), &[]).table, 10);
    assert!(owned.iter().all(|slots| [13_107, 13_108].contains(slots)), "{owned:?}");
}

#[test]
fn slots_are_shared_by_weight_to_the_nearest_whole_one() {
    let owned = owned(&table(&weighing(&[1, 2, 3, 1_000]), 1_009), 4);
    assert_eq!(owned, [1, 2, 3, 1_003]);
}

#[test]
fn few_clients_move_when_one_leaves_and_the_order_of_the_list_does_not_matter() {
    for n in [2, 3, 10, 100, 550] {
        moves_few_clients(&ENTRY, &vec![1; n]);
    }
    moves_few_clients(&ENTRY, &[3, 1, 2, 5, 1, 1, 4, 2, 3]);
}

#[test]
fn clients_are_shared_by_weight() {
    shares_by_weight(&ENTRY, 0.06);
}

#[test]
fn only_the_leading_bits_count() {
    let candidates = weighing(&[1; 100]);
    let whole = built(&candidates, &[]);
    assert_ne!(picks(&whole, &candidates, "192.0.2.1"), picks(&whole, &candidates, "192.0.2.3"));
    assert_eq!(
        picks(&whole, &candidates, "2001:db8:1:2::1"),
        picks(&whole, &candidates, "2001:db8:1:2:ffff::9"),
        "the default is one network of 64 bits"
    );
    let short = built(&candidates, &[("prefix_v4", 24), ("prefix_v6", 0)]);
    assert_eq!(picks(&short, &candidates, "192.0.2.1"), picks(&short, &candidates, "192.0.2.3"));
    assert_eq!(picks(&short, &candidates, "2001:db8::1"), picks(&short, &candidates, "fd00::1"));
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
    let candidates = weighing(&[1; 100]);
    let strategy = built(&candidates, &[("prefix_v6", 128)]);
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let mapped = format!("::ffff:{source}");
        assert_eq!(picks(&strategy, &candidates, source), picks(&strategy, &candidates, &mapped));
    }
}

#[test]
fn the_mapping_is_the_same_in_every_release() {
    let candidates = weighing(&[1; 10]);
    let strategy = built(&candidates, &[]);
    let clients = ["192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8::1", "2001:db8:0:1::1"];
    assert_eq!(clients.map(|source| picks(&strategy, &candidates, source)), [0, 4, 8, 7, 3]);
}

#[test]
fn clients_of_a_unix_socket_are_taken_in_turn() {
    let candidates = weighing(&[1; 4]);
    let strategy = built(&candidates, &[]);
    let mut had = [0; 4];
    for turn in 0..400 {
        let tried = Tried::default();
        had[strategy.pick(&candidates, &Request { turn, ..asking(&tried) }).unwrap()] += 1;
    }
    assert!(had.iter().all(|turns| (98..=102).contains(turns)), "{had:?}");
}

#[test]
fn the_clients_of_one_that_cannot_serve_are_spread_over_all_the_others() {
    let candidates = weighing(&[1; 10]);
    let strategy = built(&candidates, &[]);
    let (none, third) = (Tried::default(), [3].into_iter().collect());
    let mut had = [0; 10];
    for n in 0..100_000 {
        if strategy.pick(&candidates, &client(n, &none)) == Some(3) {
            had[strategy.pick(&candidates, &client(n, &third)).unwrap()] += 1;
        }
    }
    let mean = had.iter().sum::<u32>() / 9;
    assert!((0..10).filter(|one| *one != 3).all(|one| had[one].abs_diff(mean) < mean / 8));
}

#[test]
fn a_table_smaller_than_the_pool_grows_until_everyone_has_a_slot() {
    let table = table(&weighing(&vec![1; 1_000]), 251);
    assert_eq!(table.len(), 1_031, "the first prime from 1,024");
    assert!(owned(&table, 1_000).iter().all(|slots| *slots > 0));
}

#[test]
fn a_size_must_be_prime() {
    assert_eq!(TABLE_SIZE.accept(65_537), Ok(()));
    let refused = TABLE_SIZE.accept(65_536).unwrap_err();
    assert_eq!(refused, "expected a prime, such as 65521 or 65537, found 65536");
    assert_eq!(prime_from(65_538), 65_539);
}
