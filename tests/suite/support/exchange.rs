//! Bytes both ways at once, every one of them checked.

use std::path::Path;
use std::thread;

use socket2::SockAddr;

use super::{End, Pattern, Peer, TestBackend};

/// A connection on which each side sends its own pattern while it reads the other's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// What makes this connection's bytes differ from another's.
    pub(crate) seed: u64,
    /// Bytes from client to backend.
    pub(crate) up: u64,
    /// Bytes from backend to client.
    pub(crate) down: u64,
}

impl Exchange {
    /// A backend for exchanges; its clients say how much they want.
    pub(crate) fn backend() -> TestBackend {
        TestBackend::scripted(Self::serve)
    }

    /// The same on a unix socket.
    pub(crate) fn backend_on_unix(path: &Path) -> TestBackend {
        TestBackend::scripted_on(&SockAddr::unix(path).unwrap(), Self::serve)
    }

    fn serve(peer: Peer) {
        let numbers = peer.receive(24);
        let number = |i: usize| u64::from_le_bytes(numbers[i * 8..][..8].try_into().unwrap());
        let exchange = Self { seed: number(0), up: number(1), down: number(2) };
        exchange.run(&peer, exchange.backwards(), exchange.forwards());
    }

    /// The client's part.
    #[track_caller]
    pub(crate) fn run_as_client(self, peer: &Peer) {
        peer.send([self.seed, self.up, self.down].map(u64::to_le_bytes).concat());
        self.run(peer, self.forwards(), self.backwards());
    }

    fn forwards(self) -> (Pattern, u64) {
        (Pattern::new(self.seed * 2), self.up)
    }

    fn backwards(self) -> (Pattern, u64) {
        (Pattern::new(self.seed * 2 + 1), self.down)
    }

    fn run(self, peer: &Peer, out: (Pattern, u64), back: (Pattern, u64)) {
        thread::scope(|scope| {
            scope.spawn(|| {
                out.0.send(peer, out.1);
                peer.fin();
            });
            assert_eq!(back.0.receive_all(peer), (back.1, End::Fin), "{self:?}");
        });
    }
}
