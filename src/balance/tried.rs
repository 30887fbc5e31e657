//! The backends that one connection has tried.

/// The backends one connection has tried, by [`Candidate::id`](super::Candidate::id).
///
/// Empty costs nothing: no allocation and no search. The ids are sorted, so that asking costs
/// O(log n) and marking many in ascending order O(1) each. A caller whose first pick had no free
/// slot should mark every full backend at once instead of asking the strategy for each of them:
/// that is one look at each candidate, not one pick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(Vec<u32>);

impl Tried {
    /// Remembers that `id` was tried.
    pub fn insert(&mut self, id: u32) {
        if let Err(place) = self.0.binary_search(&id) {
            self.0.insert(place, id);
        }
    }

    /// Whether `id` was tried.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// Whether nothing was tried yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many backends were tried.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets `id`: it was not tried after all.
    pub fn remove(&mut self, id: u32) {
        if let Ok(place) = self.0.binary_search(&id) {
            self.0.remove(place);
        }
    }
}

impl FromIterator<u32> for Tried {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut tried = Self::default();
        ids.into_iter().for_each(|id| tried.insert(id));
        tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_is_remembered_once_and_until_it_is_forgotten() {
        let mut tried: Tried = [7, 3, 7].into_iter().collect();
        assert_eq!(tried.len(), 2);
        assert!(tried.contains(3) && tried.contains(7) && !tried.contains(5));
        tried.remove(3);
        assert!(!tried.contains(3) && tried.contains(7) && !tried.is_empty());
    }
}
