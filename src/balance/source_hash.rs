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

/// The paper's 65,537 would let slightly more than 1 % of the rest move when one of about 400 backends
/// leaves; twice that stays under 0.8 % for any number.
const TABLE_SIZE: OptionKey = OptionKey {
    name: "table_size",
    summary: "slots of the table, a prime; at least 100 for each backend keep shares within 1 %",
    min: 251,
    max: 1_000_003,
    default: 131_071,
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
        let asked = options.get(&TABLE_SIZE).min(TABLE_SIZE.max);
        Self {
            table: table(candidates, usize::try_from(asked).unwrap_or(usize::MAX)),
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
        self.slot += self.stride;
        if self.slot >= self.slots {
            self.slot -= self.slots;
        }
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
        let owner = u32::try_from(index).ok()?;
        Some(Claim { owner, weight: u64::from(*weight), taken: 0, preference })
    });
    populate(claims.collect(), slots)
}

/// A backend that takes slots.
struct Claim {
    owner: u32,
    weight: u64,
    /// How many it has.
    taken: u64,
    /// Its order of preference; stands at the first slot it has not asked for yet.
    preference: Walk,
}

/// Lets everyone take slots, by weight, until none is free. Not more claims than slots.
///
/// O(slots · (log claims + ln slots)). Everyone takes one slot; from then on the k-th falls due at
/// (k + 1/2) / weight, which shares out the rest as Webster's method of apportionment does: each gets
/// its exact share, rounded.
fn populate(mut claims: Vec<Claim>, slots: usize) -> Vec<u32> {
    let mut table = vec![FREE; slots];
    let mut turns: BinaryHeap<_> = (0..claims.len()).map(|one| Reverse((0, one))).collect();
    for _ in 0..slots {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((due, one)) = &mut *turn;
        let Claim { owner, weight, taken, preference } = &mut claims[*one];
        while table[preference.slot] != FREE {
            preference.step();
        }
        table[preference.slot] = *owner;
        *taken += 1;
        *due = ((2 * *taken + 1) << 32) / *weight;
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
    Err(format!("expected a prime, such as {below} or {above}, found {value}"))
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
mod tests;
