//! `source_hash`: the same client, the same backend.
//!
//! Maglev hashing: Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer, NSDI
//! 2016, section 3.4. Every backend has its own order of preference over the slots of a table and
//! takes slots in turn until the table is full, so that shares are even and few slots change hands
//! when a backend comes or goes. Weights: a heavier one has its turn more often, smoothly.
//!
//! The mapping depends on names, weights, options and constants alone: it survives restarts, is the
//! same on every balancer with the same pool, and does not depend on the order of the list. Hashes
//! are SipHash-1-3 (Aumasson, Bernstein, SipHash: a fast short-input PRF, 2012) with the keys below.
//! They are public, so clients who may choose their addresses can choose their backend too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use siphasher::sip128::{Hash128, SipHasher13};

use super::shares::{Shares, draw_among, mix, not_in, spread};
use super::{Candidate, Entry, OptionKey, Options, Request, Strategy};

/// The row of the table.
pub(super) const ENTRY: Entry = Entry {
    name: "source_hash",
    summary: "the same client address, the same backend (Maglev)",
    options: &[PREFIX_V4, PREFIX_V6, TABLE_SIZE],
    build: |candidates, options| Box::new(SourceHash::new(candidates, options)),
};

const PREFIX_V4: OptionKey = OptionKey {
    name: "prefix_v4",
    summary: "leading bits of an IPv4 address that count; 24 keeps a /24 together",
    min: 0,
    max: 32,
    default: 32,
    check: None,
};

/// 64 by default: the least that one customer is given, whose devices change the rest daily (RFC
/// 8981).
const PREFIX_V6: OptionKey = OptionKey {
    name: "prefix_v6",
    summary: "leading bits of an IPv6 address that count; 64 keeps one network together",
    min: 0,
    max: 128,
    default: 64,
    check: None,
};

const TABLE_SIZE: OptionKey = OptionKey {
    name: "table_size",
    summary: "slots of the table, a prime; at least 100 for each backend keep shares within 1 %",
    min: 251,
    max: 1_000_003,
    default: 65_537,
    check: Some(must_be_prime),
};

/// Keys of the two hash functions. Changing one moves every client.
const SLOT_KEYS: (u64, u64) = (0x7469_6465_6761_7465, 0x736f_7572_6365_0001);
const PREFERENCE_KEYS: (u64, u64) = (0x7469_6465_6761_7465, 0x6261_636b_656e_6401);

/// Slots looked at for a backend that is left before all candidates are.
const LOOKS: usize = 64;

/// A slot that nobody has taken yet.
const FREE: u32 = u32::MAX;

/// A table of slots, each owned by a candidate.
struct SourceHash {
    /// Indices of candidates; a prime number of them, or none without candidates.
    table: Vec<u32>,
    prefix_v4: u32,
    prefix_v6: u32,
    /// For clients that have no address.
    shares: Shares,
}

impl Strategy for SourceHash {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        let is_left = not_in(request.tried);
        let Some(source) = request.source else {
            return self.shares.draw(candidates, spread(request.turn), is_left);
        };
        // A client whose backend cannot serve goes on in steps of its own: always to the same
        // second choice, and the clients of one backend to all the others evenly.
        let hash = self.hash(source);
        let mut walk = Walk::new(hash, self.table.len())?;
        for _ in 0..LOOKS {
            let index = usize::try_from(*self.table.get(walk.slot)?).ok()?;
            if is_left(index, candidates.get(index)?) {
                return Some(index);
            }
            walk.step();
        }
        draw_among(candidates, mix(hash.h1), is_left)
    }
}

impl SourceHash {
    fn new(candidates: &[Candidate], options: &Options) -> Self {
        let prefix = |key| u32::try_from(options.get(key)).unwrap_or(u32::MAX);
        let asked = usize::try_from(options.get(&TABLE_SIZE)).unwrap_or(usize::MAX);
        Self {
            table: table(candidates, asked),
            prefix_v4: prefix(&PREFIX_V4),
            prefix_v6: prefix(&PREFIX_V6),
            shares: Shares::of(candidates),
        }
    }

    /// Hash of the part of an address that counts.
    fn hash(&self, source: IpAddr) -> Hash128 {
        let hasher = SipHasher13::new_with_keys(SLOT_KEYS.0, SLOT_KEYS.1);
        match source.to_canonical() {
            IpAddr::V4(ip) => {
                let dropped = 32_u32.saturating_sub(self.prefix_v4);
                let mask = u32::MAX.checked_shl(dropped).unwrap_or(0);
                hasher.hash(&(ip.to_bits() & mask).to_be_bytes())
            }
            IpAddr::V6(ip) => {
                let dropped = 128_u32.saturating_sub(self.prefix_v6);
                let mask = u128::MAX.checked_shl(dropped).unwrap_or(0);
                hasher.hash(&(ip.to_bits() & mask).to_be_bytes())
            }
        }
    }
}

/// A walk over the slots of a table that meets each of them once: its length is a prime.
#[derive(Clone, Copy, Debug)]
struct Walk {
    slot: usize,
    stride: usize,
    slots: usize,
}

impl Walk {
    /// The walk of a hash; `None` over an empty table.
    #[expect(clippy::cast_possible_truncation, reason = "a remainder is less than a usize")]
    fn new(hash: Hash128, slots: usize) -> Option<Self> {
        let slot = hash.h1.checked_rem(slots as u64)? as usize;
        let stride = 1 + (hash.h2 % (slots as u64 - 1).max(1)) as usize;
        Some(Self { slot, stride, slots })
    }

    /// Goes to the next slot.
    fn step(&mut self) {
        self.slot = (self.slot + self.stride) % self.slots;
    }
}

/// The table for these candidates.
///
/// Has `asked` slots, more when there are more backends than that, so that each has one.
fn table(candidates: &[Candidate], asked: usize) -> Vec<u32> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.retain(|index| candidates[*index].weight > 0);
    order.sort_by_key(|index| &candidates[*index].key);
    if order.is_empty() {
        return Vec::new();
    }
    let least = if order.len() > asked { order.len().next_power_of_two() } else { asked };
    let slots = prime_from(least);
    let hasher = SipHasher13::new_with_keys(PREFERENCE_KEYS.0, PREFERENCE_KEYS.1);
    let claims = order.into_iter().filter_map(|index| {
        let Candidate { key, weight, .. } = &candidates[index];
        let preference = Walk::new(hasher.hash(key.as_bytes()), slots)?;
        Some(Claim { owner: u32::try_from(index).ok()?, weight: u64::from(*weight), preference })
    });
    populate(claims.collect(), slots)
}

/// A backend that takes slots.
struct Claim {
    owner: u32,
    weight: u64,
    /// Its order of preference; stands at the first slot it has not asked for yet.
    preference: Walk,
}

/// Lets everyone take slots, by weight, until none is free. Not more claims than slots.
///
/// O(slots · (log claims + ln slots)). Everyone takes one slot; from then on the k-th falls due at
/// (k + 1/2) / weight, which shares out the rest as Webster's method of apportionment does: each gets
/// its exact share, rounded.
fn populate(mut claims: Vec<Claim>, slots: usize) -> Vec<u32> {
    let due = |taken: u64, weight: u64| (u128::from(2 * taken + 1) << 32) / u128::from(weight);
    let mut table = vec![FREE; slots];
    let mut turns: BinaryHeap<_> =
        (0..claims.len()).map(|claimant| Reverse((0_u128, claimant, 0_u64))).collect();
    for _ in 0..slots {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((at, claimant, taken)) = &mut *turn;
        let Claim { owner, weight, preference } = &mut claims[*claimant];
        while table[preference.slot] != FREE {
            preference.step();
        }
        table[preference.slot] = *owner;
        *taken += 1;
        *at = due(*taken, *weight);
    }
    table
}

/// Refuses a size that is not prime: preferences would not reach every slot.
fn must_be_prime(value: u64) -> Result<(), String> {
    if is_prime(value) {
        return Ok(());
    }
    let below = (2..value).rev().find(|number| is_prime(*number)).unwrap_or(2);
    let above = (value..).find(|number| is_prime(*number)).unwrap_or(2);
    Err(format!("expected a prime, such as {below} or {above}, read {value}"))
}

/// The first prime that is not below `least`.
fn prime_from(least: usize) -> usize {
    (least.max(2)..).find(|number| is_prime(*number as u64)).unwrap_or(2)
}

/// By trial division: tables are small.
fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Tried;
    use crate::balance::contract::{asking, client, moves_few_clients, shares_by_weight, weighing};

    /// A claim with the preference list that begins at `slot` and goes on in steps of `stride`.
    fn claim(owner: u32, weight: u64, (slot, stride): (usize, usize)) -> Claim {
        Claim { owner, weight, preference: Walk { slot, stride, slots: 7 } }
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
        let owned = owned(&table(&weighing(&[1; 10]), 65_537), 10);
        assert!(owned.iter().all(|slots| [6_553, 6_554].contains(slots)), "{owned:?}");
    }

    #[test]
    fn slots_are_shared_by_weight_to_the_nearest_whole_one() {
        let owned = owned(&table(&weighing(&[1, 2, 3, 1_000]), 1_009), 4);
        assert_eq!(owned, [1, 2, 3, 1_003]);
    }

    #[test]
    fn few_clients_move_when_one_leaves_and_the_order_of_the_list_does_not_matter() {
        for n in [2, 3, 10, 30, 100, 300] {
            moves_few_clients(&ENTRY, n);
        }
    }

    #[test]
    fn clients_are_shared_by_weight() {
        shares_by_weight(&ENTRY, 0.06);
    }

    #[test]
    fn only_the_leading_bits_count() {
        let candidates = weighing(&[1; 100]);
        let whole = built(&candidates, &[]);
        assert_ne!(
            picks(&whole, &candidates, "192.0.2.1"),
            picks(&whole, &candidates, "192.0.2.3")
        );
        assert_eq!(
            picks(&whole, &candidates, "2001:db8:1:2::1"),
            picks(&whole, &candidates, "2001:db8:1:2:ffff::9"),
            "the default is one network of 64 bits"
        );
        let short = built(&candidates, &[("prefix_v4", 24), ("prefix_v6", 0)]);
        assert_eq!(
            picks(&short, &candidates, "192.0.2.1"),
            picks(&short, &candidates, "192.0.2.3")
        );
        assert_eq!(
            picks(&short, &candidates, "2001:db8::1"),
            picks(&short, &candidates, "fd00::1")
        );
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
        let candidates = weighing(&[1; 100]);
        let strategy = built(&candidates, &[("prefix_v6", 128)]);
        for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            let mapped = format!("::ffff:{source}");
            assert_eq!(
                picks(&strategy, &candidates, source),
                picks(&strategy, &candidates, &mapped)
            );
        }
    }

    #[test]
    fn the_mapping_is_the_same_in_every_release() {
        let candidates = weighing(&[1; 10]);
        let strategy = built(&candidates, &[]);
        let clients = ["192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8::1", "2001:db8:0:1::1"];
        assert_eq!(clients.map(|source| picks(&strategy, &candidates, source)), [6, 4, 5, 2, 5]);
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
        assert_eq!(refused, "expected a prime, such as 65521 or 65537, read 65536");
        assert_eq!(prime_from(65_538), 65_539);
    }
}
