//! DI-1 and RX-4: every byte, in order, both ways at once.

use crate::support::setup::Scratch;
use crate::support::{
    End, Exchange, Pattern, Proxy, Setup, TestBackend, at_once, ms, pause, skipped,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Bytes of the large transfers; a debug build is not made to move much.
const LARGE: u64 = if cfg!(debug_assertions) { 32 * MIB } else { 256 * MIB };

#[test]
fn sizes_around_the_buffers_arrive_whole() {
    let backend = Exchange::backend();
    let proxy = Proxy::before(&backend);
    let around = |size: u64| [size - 1, size, size + 1];
    let sizes: Vec<u64> = [1, 16 * KIB, 64 * KIB, MIB].into_iter().flat_map(around).collect();
    at_once(sizes.len(), |i| {
        let (up, down) = (sizes[i], sizes[(i + 5) % sizes.len()]);
        Exchange { seed: i as u64, up, down }.run_as_client(&proxy.client());
    });
    backend.expect_finished();
    proxy.expect_orderly_ends(sizes.len());
}

#[test]
fn one_large_connection_arrives_whole_both_ways_at_once() {
    let backend = Exchange::backend();
    let proxy = Proxy::before(&backend);
    let exchange = Exchange { seed: 1, up: LARGE / 2, down: LARGE / 2 };
    exchange.run_as_client(&proxy.client());
    backend.expect_finished();
}

#[test]
fn many_connections_at_once_arrive_whole_and_unmixed() {
    let backend = Exchange::backend();
    let proxy = Proxy::before(&backend);
    // More than an ordinary user gets large pipes for.
    at_once(96, |i| {
        let i = i as u64;
        let exchange = Exchange { seed: 100 + i, up: LARGE / 192 + i, down: LARGE / 192 - i };
        exchange.run_as_client(&proxy.client());
    });
    backend.expect_finished();
    proxy.expect_orderly_ends(96);
}

#[test]
fn a_single_thread_relays_large_and_small_side_by_side() {
    let backend = Exchange::backend();
    let proxy = Setup::to([backend.address()]).threads(1).start();
    at_once(12, |i| {
        let size = if i % 3 == 0 { 4 * MIB } else { 10 };
        for round in 0..(if i % 3 == 0 { 1 } else { 20 }) {
            let seed = 1000 * round + i as u64;
            Exchange { seed, up: size, down: size + 3 }.run_as_client(&proxy.client());
        }
    });
    backend.expect_finished();
}

#[test]
fn a_stream_that_pauses_and_bursts_arrives_whole() {
    // Bursts make a relay change its mechanism, pauses make it change back.
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    let pattern = Pattern::new(5);
    let mut position = 0;
    for burst in [1, 300_000, 1, 1, 2_000_000, 70_000, 1] {
        std::thread::scope(|scope| {
            scope.spawn(|| pattern.try_send(&server, position..position + burst).unwrap());
            pattern.receive(&client, position, burst);
        });
        position += burst;
        pause(ms(20));
    }
    drop(server);
    client.expect_end(End::Fin);
}

#[test]
fn without_descriptors_for_pipes_bulk_goes_on_by_copying() {
    let backend = Exchange::backend();
    let proxy = Proxy::before(&backend);
    if !proxy.is_tidegate() {
        return;
    }
    // Room for the connection's two sockets and nothing else.
    proxy.leave_descriptors(2);
    let exchange = Exchange { seed: 3, up: 8 * MIB, down: 24 * MIB };
    exchange.run_as_client(&proxy.client());
    backend.expect_finished();
}

#[test]
fn unix_sockets_carry_the_same_bytes_on_both_sides() {
    if std::env::var_os("TIDEGATE_TEST_RELAY").is_some() {
        return skipped("another relay is put between TCP ports only");
    }
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name);
    let backend = Exchange::backend_on_unix(&path("back.sock"));
    let text = format!(
        "listeners:\n  web: {{bind: \"unix:{}\", pool: app}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        path("front.sock").display(),
        backend.address()
    );
    let proxy = Setup::yaml(text).start();
    at_once(4, |i| {
        let exchange = Exchange { seed: i as u64, up: 5 * MIB + 1, down: 3 * MIB - 1 };
        exchange.run_as_client(&proxy.client());
    });
    backend.expect_finished();
    proxy.expect_orderly_ends(4);
}
