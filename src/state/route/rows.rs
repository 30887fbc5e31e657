//! Sets of routes, and the first route that several of them agree on.

/// A set of routes: words of 64, those that are not empty, in order. A word's number, then its bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows(Vec<(u32, u64)>);

impl Rows {
    /// Adds a route behind those that are in it, or the last one again.
    pub(super) fn push(&mut self, route: u32) {
        let (word, bit) = (route / 64, 1 << (route % 64));
        match self.0.last_mut() {
            Some((last, bits)) if *last == word => *bits |= bit,
            _ => self.0.push((word, bit)),
        }
    }

    pub(super) fn contains(&self, route: u32) -> bool {
        let (word, bit) = (route / 64, 1 << (route % 64));
        let at = self.0.binary_search_by_key(&word, |(word, _)| *word);
        at.is_ok_and(|at| self.0[at].1 & bit != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The routes that are in a set of every group, in order.
///
/// One group for each key that is asked for: the sets of routes that the value at hand satisfies, and
/// the set of those that have no such key. Costs a step for each word at which groups may meet, times
/// the sets; usually one.
#[derive(Debug, Default)]
pub(super) struct Common<'a> {
    /// What is left of each set.
    sets: Vec<&'a [(u32, u64)]>,
    /// Where each group ends in `sets`.
    ends: Vec<usize>,
    /// Bits of `word` that are not given out yet.
    bits: u64,
    word: u32,
    /// The next word to look at.
    next_word: u32,
}

impl<'a> Common<'a> {
    /// Adds a set to the group under way.
    pub(super) fn add(&mut self, set: &'a Rows) {
        let is_new = !self.open_group().iter().any(|other| std::ptr::eq(*other, &raw const *set.0));
        if is_new && !set.is_empty() {
            self.sets.push(&set.0);
        }
    }

    /// Closes the group under way, which may have no set at all.
    pub(super) fn close_group(&mut self) {
        self.ends.push(self.sets.len());
    }

    /// Whether any group was closed.
    pub(super) fn has_groups(&self) -> bool {
        !self.ends.is_empty()
    }

    fn open_group(&self) -> &[&'a [(u32, u64)]] {
        &self.sets[self.ends.last().copied().unwrap_or(0)..]
    }

    /// The first word from `from` on at which the group between `start` and `end` has any.
    fn seek(&mut self, start: usize, end: usize, from: u32) -> Option<(u32, u64)> {
        let mut found: Option<(u32, u64)> = None;
        for set in &mut self.sets[start..end] {
            while let [(word, _), rest @ ..] = set
                && *word < from
            {
                *set = rest;
            }
            let Some((word, bits)) = set.first().copied() else { continue };
            found = match found {
                Some((least, _)) if word < least => Some((word, bits)),
                Some((least, all)) if word == least => Some((least, all | bits)),
                Some(kept) => Some(kept),
                None => Some((word, bits)),
            };
        }
        found
    }

    /// The next word at which all groups have any, and what they have in common there.
    fn next_common(&mut self) -> Option<(u32, u64)> {
        if self.ends.is_empty() {
            return None;
        }
        let mut word = self.next_word;
        'word: loop {
            let (mut start, mut common) = (0, u64::MAX);
            for group in 0..self.ends.len() {
                let end = self.ends[group];
                let (found, bits) = self.seek(start, end, word)?;
                if found > word {
                    word = found;
                    continue 'word;
                }
                common &= bits;
                start = end;
            }
            self.next_word = word + 1;
            if common != 0 {
                return Some((word, common));
            }
            word += 1;
        }
    }
}

impl Iterator for Common<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.bits == 0 {
            (self.word, self.bits) = self.next_common()?;
        }
        let bit = self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        usize::try_from(self.word * 64 + bit).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn rows(routes: &BTreeSet<u32>) -> Rows {
        let mut rows = Rows::default();
        routes.iter().for_each(|route| rows.push(*route));
        rows
    }

    fn any_set() -> impl Strategy<Value = BTreeSet<u32>> {
        prop_oneof![
            prop::collection::btree_set(0..400_u32, 0..200),
            prop::collection::btree_set(0..10_000_u32, 0..20),
            (0..100_u32, 0..100_u32).prop_map(|(from, many)| (from..from + many).collect()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_common_is_the_meet_of_the_joins(
            groups in prop::collection::vec(prop::collection::vec(any_set(), 0..4), 1..4),
        ) {
            let sets: Vec<Vec<Rows>> =
                groups.iter().map(|group| group.iter().map(rows).collect()).collect();
            let mut common = Common::default();
            for group in &sets {
                group.iter().for_each(|set| common.add(set));
                common.close_group();
            }
            let joined = groups.iter().map(|group| group.concat_sets());
            let expected = joined.reduce(|a, b| &a & &b).unwrap_or_default();
            let found: Vec<_> = common.map(|route| u32::try_from(route).unwrap()).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_set_contains_what_was_pushed(set in any_set(), asked in 0..10_000_u32) {
            prop_assert_eq!(rows(&set).contains(asked), set.contains(&asked));
        }
    }

    trait Join {
        fn concat_sets(&self) -> BTreeSet<u32>;
    }

    impl Join for Vec<BTreeSet<u32>> {
        fn concat_sets(&self) -> BTreeSet<u32> {
            self.iter().flatten().copied().collect()
        }
    }
}
