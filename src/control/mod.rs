//! The control plane: what notices, decides, repairs and tells. The data path never waits for it.

pub mod recovery;
