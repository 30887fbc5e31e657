//! A connection is no faster than its listener allows.

use std::time::Instant;

use crate::support::{Exchange, Setup, ms};

#[test]
fn both_directions_take_the_time_they_must_and_lose_nothing() {
    let backend = Exchange::backend();
    let proxy =
        Setup::to([backend.address()]).listener("bandwidth: {in: 1MiB/s, out: 2MiB/s}").start();
    let start = Instant::now();
    Exchange { seed: 3, up: 1 << 20, down: 2 << 20 }.run_as_client(&proxy.client());
    let time = start.elapsed();
    // A busy machine can make it slower, never faster.
    assert!(time > ms(750), "took {time:?}");
    assert!(time < ms(5_000), "took {time:?}");
}
