//! Who is told what a connection says about its backend while it lives.

use crate::net::clock::Tick;

/// Watches the relay of one connection.
pub trait Watch {
    /// The backend's first byte has come. Called once.
    fn first_byte(&self) {}

    /// For how long the backend may be silent once it has acknowledged what the client sent, in
    /// milliseconds; `None`: as long as it likes.
    fn silence(&self) -> Option<Tick> {
        None
    }

    /// The backend has been silent for that long (`ms`). Called once; the connection goes on.
    fn silent(&self, ms: Tick) {
        let _ = ms;
    }
}

/// Nobody.
impl Watch for () {}
