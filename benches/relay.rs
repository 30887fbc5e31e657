//! The whole data path within one process: a round trip of 64 bytes over an open connection, a
//! connection opened for one round trip, and bulk data one way. For comparisons of one build with
//! another; beside its peers it is measured by `benches/peers`.

#![expect(clippy::expect_used, reason = "a benchmark that cannot run is of no use")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::balance::Registry;
use tidegate::config::load;
use tidegate::net::addr::Address;
use tidegate::process::Server;

const MESSAGE: [u8; 64] = [7; 64];
const BULK_BYTES: usize = 16 * 1024 * 1024;

/// A backend that serves each connection on a thread of its own.
fn backend(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|s| drop(thread::spawn(move || serve(s))));
    });
    address
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut message = MESSAGE;
    while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
}

fn send_bulk(mut stream: TcpStream) {
    let bulk = vec![7; BULK_BYTES];
    while stream.read_exact(&mut [0]).is_ok() && stream.write_all(&bulk).is_ok() {}
}

/// A balancer of one thread before `backend`: where it listens.
fn balancer(backend: SocketAddr) -> SocketAddr {
    let text = format!(
        "runtime: {{ threads: 1 }}\nlisteners: {{ web: {{ bind: '127.0.0.1:0', pool: app }} }}\n\
         pools: {{ app: {{ backends: ['{backend}'] }} }}\n"
    );
    let registry = Registry::default();
    let config = load(&text, &|_| None, &registry).expect("the text is valid");
    let server = Server::start(&config, &registry).expect("it can listen");
    match &server.addresses()[0].1 {
        Address::Tcp(address) => *address,
        Address::Unix(_) => unreachable!("it listens on a TCP address"),
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the balancer listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

fn round_trip(stream: &mut TcpStream) {
    let mut message = MESSAGE;
    stream.write_all(&message).and_then(|()| stream.read_exact(&mut message)).expect("an echo");
}

fn relay(c: &mut Criterion) {
    let echoing = balancer(backend(echo));
    let mut stream = connect(echoing);
    c.bench_function("relay/round trip of 64 B", |b| b.iter(|| round_trip(&mut stream)));
    c.bench_function("relay/connection with a round trip", |b| {
        b.iter(|| round_trip(&mut connect(echoing)));
    });
    let mut stream = connect(balancer(backend(send_bulk)));
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Bytes(BULK_BYTES as u64)).sample_size(20);
    let mut received = vec![0; BULK_BYTES];
    group.bench_function("bulk to the client", |b| {
        b.iter(|| {
            stream.write_all(&[0]).and_then(|()| stream.read_exact(&mut received)).expect("bytes");
        });
    });
    group.finish();
}

criterion_group!(benches, relay);
criterion_main!(benches);
