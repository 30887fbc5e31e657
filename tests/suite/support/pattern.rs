//! Bytes that show where a relay lost, doubled, moved or mixed up some of them.

use std::sync::LazyLock;
use std::time::Duration;

use super::{End, Peer, pause, peer::is_reset};

/// Random bytes with a prime period, so that no buffer size hides a shift. Compared byte for byte,
/// which says more than equal hashes would: where the first difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    start: u64,
}

const PERIOD: usize = 1_000_003;
const LONGEST: usize = 256 * 1024;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut block = vec![0; PERIOD];
    fastrand::Rng::with_seed(7).fill(&mut block);
    block.extend_from_within(..LONGEST);
    block
});

impl Pattern {
    /// The pattern of one direction of one connection: another seed, another place to start.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { start: seed.wrapping_mul(7_919) % PERIOD as u64 }
    }

    /// `count` bytes of it from `position` on; at most 256 KiB at a time.
    pub(crate) fn at(self, position: u64, count: usize) -> &'static [u8] {
        let start = usize::try_from((self.start + position) % PERIOD as u64).unwrap();
        &BLOCK[start..start + count]
    }

    /// Panics where `bytes` are not the pattern from `position` on.
    #[track_caller]
    pub(crate) fn check(self, position: u64, bytes: &[u8]) {
        let expected = self.at(position, bytes.len());
        if expected != bytes {
            let at = expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap();
            panic!("the stream differs from what was sent at byte {}", position + at as u64);
        }
    }

    /// Sends the first `count` bytes in chunks of random sizes.
    #[track_caller]
    pub(crate) fn send(self, peer: &Peer, count: u64) {
        self.try_send(peer, 0..count).unwrap_or_else(|e| panic!("could not send: {e}"));
    }

    /// Sends the bytes of a range in chunks of random sizes, or says why not.
    pub(crate) fn try_send(self, peer: &Peer, range: std::ops::Range<u64>) -> std::io::Result<()> {
        let mut random = fastrand::Rng::with_seed(range.end ^ self.start);
        let mut position = range.start;
        while position < range.end {
            let longest = if random.u8(..) < 8 { 3 } else { 128 * 1024 };
            let left = usize::try_from(range.end - position).unwrap_or(usize::MAX);
            let chunk = random.usize(1..=longest).min(left);
            peer.try_send(self.at(position, chunk))?;
            position += chunk as u64;
        }
        Ok(())
    }

    /// Reads to the end, checking every byte; gives how many came and how it ended.
    #[track_caller]
    pub(crate) fn receive_all(self, peer: &Peer) -> (u64, End) {
        self.receive_from(peer, 0, Pace::FULL)
    }

    /// As [`Pattern::receive_all`] after `position` bytes that have been read already, at a pace.
    #[track_caller]
    pub(crate) fn receive_from(self, peer: &Peer, mut position: u64, pace: Pace) -> (u64, End) {
        let mut buffer = vec![0; pace.chunk];
        loop {
            let count = match peer.try_read(&mut buffer) {
                Ok(0) => return (position, End::Fin),
                Ok(count) => count,
                Err(error) if is_reset(&error) => return (position, End::Reset),
                Err(error) => panic!("no end after {position} bytes: {error}"),
            };
            self.check(position, &buffer[..count]);
            position += count as u64;
            if !pace.rest.is_zero() {
                pause(pace.rest);
            }
        }
    }

    /// Reads and checks exactly `count` bytes from `position` on.
    #[track_caller]
    pub(crate) fn receive(self, peer: &Peer, position: u64, count: u64) {
        let mut done = 0;
        while done < count {
            let chunk = usize::try_from((count - done).min(64 * 1024)).unwrap();
            self.check(position + done, &peer.receive(chunk));
            done += chunk as u64;
        }
    }
}

/// How fast a reader reads: at most `chunk` bytes, then a rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    chunk: usize,
    rest: Duration,
}

impl Pace {
    /// As fast as it comes.
    pub(crate) const FULL: Self = Self { chunk: 64 * 1024, rest: Duration::ZERO };

    /// At most `bytes` a second.
    pub(crate) fn per_second(bytes: u32) -> Self {
        let chunk = (bytes / 100).max(1);
        Self { chunk: chunk as usize, rest: Duration::from_secs(chunk.into()) / bytes }
    }
}
