//! The endpoint with made-up traffic, for looking at: with a browser, `top`, Prometheus.

use std::time::Duration;

use super::super::Options;
use super::script::{Shared, World};
use super::{Endpoint, guarded};

/// Moves the counters as two seconds of traffic would, `round` after `round`.
fn flow(world: &Shared, round: u64) {
    let mut world = world.lock().unwrap();
    let mut sum = 0;
    for pool in &mut world.status.pools {
        for (index, backend) in pool.backends.iter_mut().enumerate() {
            if !backend.in_rotation {
                backend.connections_active = backend.connections_active.saturating_sub(3);
                continue;
            }
            let wave = (round + 7 * index as u64) % 40;
            let rate = 5 + wave.min(40 - wave) / 2 + fastrand::u64(..6);
            backend.connections_active = 20 + rate + fastrand::u64(..4);
            backend.connections_total += rate;
            backend.bytes_in += rate * 9_000;
            backend.bytes_out += rate * 140_000;
            sum += rate;
        }
    }
    world.status.listeners[0].connections_active = 20 + sum;
    world.status.listeners[0].connections_total += sum;
    world.status.uptime_seconds += 1;
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// `TIDEGATE_LOOK_PORT=9900 cargo test --lib look -- --ignored`; also `_BACKENDS`, `_SECONDS`,
/// `_TOKEN`, `_STORY` (1: things happen).
#[tokio::test]
#[ignore = "serves for people to look at, for a minute or as long as they say"]
#[allow(clippy::print_stderr, reason = "tells a person where to look")]
async fn look_at_a_made_up_instance() {
    let world = World::new(number("TIDEGATE_LOOK_BACKENDS", 6));
    let options = if number("TIDEGATE_LOOK_TOKEN", 0) > 0 { guarded() } else { Options::default() };
    let port = u16::try_from(number("TIDEGATE_LOOK_PORT", 0)).unwrap();
    let endpoint = Endpoint::at(port, world, options).await;
    eprintln!("LOOK http://{}/", endpoint.address);
    let story = number("TIDEGATE_LOOK_STORY", 0) > 0;
    for round in 0..number("TIDEGATE_LOOK_SECONDS", 60) as u64 {
        flow(&endpoint.world, round);
        if story && round == 3 {
            let why = "3 checks failed in a row, the last one: connect refused";
            endpoint.world.lock().unwrap().set("app", "app-2", "unhealthy", why);
        }
        if story && round == 5 {
            let _ = endpoint.world.lock().unwrap().failover("db", None);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
