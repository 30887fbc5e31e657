//! The reference page.
use crate::balance::Registry;
/// The page.
#[must_use]
pub fn reference(_registry: &Registry) -> String {
    String::new()
}
