//! What checks cost: processor time of the thread that makes them, kernel work included. Backends
//! answer on threads of their own; as everything is on this host, the kernel's work for both ends of
//! a handshake is counted.
//!
//! `cargo bench --bench checks`; the fleet alone: `cargo bench --bench checks -- fleet`. There the
//! time is that of one second of 5,000 backends at an interval of 2 s: 10 ms are 1 % of a core.

#![expect(clippy::expect_used, reason = "a benchmark that cannot run is of no use")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use tidegate::config::model::{ExecProbe, HttpProbe, Probe, SendExpectProbe};
use tidegate::net::addr::Address;
use tidegate::net::dial::EphemeralPorts;
use tidegate::probe::{Outcome, Roots, Target, build, check};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

const TIMEOUT: Duration = Duration::from_secs(10);
const BACKENDS: u32 = 5_000;
const INTERVAL: Duration = Duration::from_secs(2);

/// Reaches every address of this host; answers each connection by `answer`.
fn backend(answer: Option<&'static [u8]>) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Some(answer) = answer {
                serve(stream, answer);
            }
        }
    });
    port
}

fn serve(mut stream: TcpStream, answer: &[u8]) {
    if matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
        let _ = stream.write_all(answer);
        let _ = stream.read(&mut [0]);
    }
}

fn target(host: Ipv4Addr, port: u16) -> Target {
    Target {
        pool: "bench".into(),
        backend: "one".into(),
        address: Address::Tcp(SocketAddr::from((host, port))),
        source: None,
        ports: EphemeralPorts::read(),
        preface: Arc::from([]),
    }
}

fn runtime() -> LocalRuntime {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all().build_local(LocalOptions::default()).expect("a runtime")
}

/// Processor time of this thread so far.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("it is not negative")
}

/// One check after the other.
fn single(c: &mut Criterion) {
    let http = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let ping = SendExpectProbe { send: "PING\r\n".into(), expect: "+PONG".into() };
    let kinds: [(&str, Probe, u16); 4] = [
        ("tcp", Probe::Tcp, backend(None)),
        ("http", Probe::Http(HttpProbe::default()), backend(Some(http))),
        ("send_expect", Probe::SendExpect(ping), backend(Some(b"+PONG\r\n"))),
        ("exec", Probe::Exec(ExecProbe { command: vec!["/bin/true".into()] }), 1),
    ];
    let runtime = runtime();
    let mut group = c.benchmark_group("check");
    for (name, options, port) in kinds {
        let probe = build(&options, &Roots::default()).expect("valid options");
        let target = target(Ipv4Addr::LOCALHOST, port);
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let before = processor_time();
                runtime.block_on(async {
                    for _ in 0..count {
                        assert_eq!(check(&*probe, &target, TIMEOUT).await, Outcome::Pass);
                    }
                });
                processor_time() - before
            });
        });
    }
}

/// A second of many backends, whose checks begin evenly.
fn fleet(c: &mut Criterion) {
    let port = backend(None);
    let address = |n: u32| Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + n);
    let targets: Vec<_> = (0..BACKENDS).map(|n| target(address(n), port)).collect();
    let each_second = BACKENDS / u32::try_from(INTERVAL.as_secs()).expect("a few");
    let probe = build(&Probe::Tcp, &Roots::default()).expect("valid options");
    let runtime = runtime();
    let mut group = c.benchmark_group("fleet");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.bench_function("a second of 5000 at 2s", |b| {
        b.iter_custom(|count| {
            let before = processor_time();
            runtime.block_on(async {
                let mut ticks = tokio::time::interval(Duration::from_secs(1) / each_second);
                let mut targets = targets.iter().cycle();
                for target in (0..count * u64::from(each_second)).map_while(|_| targets.next()) {
                    ticks.tick().await;
                    assert_eq!(check(&*probe, target, TIMEOUT).await, Outcome::Pass);
                }
            });
            processor_time() - before
        });
    });
}

criterion_group!(benches, single, fleet);
criterion_main!(benches);
