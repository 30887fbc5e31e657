//! What the data path and the control side both hold.
//!
//! A [`Pool`] publishes a [`Rotation`]: the backends in rotation now, with the strategy built from
//! them, immutable and complete in itself. The data path only picks; whatever changes becomes a new
//! rotation. Live numbers are relaxed atomics, each owned by a guard that undoes it.

mod backend;
mod budget;
mod pool;
pub mod route;
mod slots;
mod snapshot;

pub use backend::{Backend, Lease};
pub use budget::RetryBudget;
pub use pool::{ConnectPolicy, Member, Pool, Rotation};
pub use slots::{Slot, Slots};
pub use snapshot::{Listener, Snapshot};
