//! What the data path and the control side both hold.
//!
//! A [`Pool`] publishes a [`Rotation`]: the backends in rotation now, with the strategy built from
//! them, immutable and complete in itself. The data path only picks; whatever changes becomes a new
//! rotation, made by the control plane. Live numbers are relaxed atomics, each owned by a guard that
//! undoes it. What else the two planes tell each other is in `notice.rs`.

mod backend;
mod budget;
pub mod counters;
mod ending;
mod histogram;
mod notice;
mod pool;
mod queue;
pub mod route;
mod slots;
mod snapshot;
pub mod sources;
mod streak;

pub use backend::{Backend, Lease, Member, Trial};
pub use budget::RetryBudget;
pub use ending::Ending;
pub use histogram::Histogram;
pub use notice::{Ack, Notice, Open, Report, Reporter, Threads, Which};
pub use pool::{Asked, ConnectPolicy, Detection, Live, Met, Pool, Rotation, Wait};
pub use queue::{Place, Queue};
pub use slots::{Slot, Slots};
pub use snapshot::{Entrance, Listener, Snapshot};
pub use streak::{BySecond, Streak};
