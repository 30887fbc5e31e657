//! Each timeout alone, the others far away: row CA-6.

use std::time::{Duration, Instant};

use crate::support::backend::drain;
use crate::support::peer::Options;
use crate::support::{End, Pattern, Peer, Proxy, SLACK, Setup, TestBackend, ms, pause};

const SECOND: Duration = Duration::from_secs(1);

/// A relay to this backend with these timeouts.
fn with(backend: &TestBackend, timeouts: &str) -> Proxy {
    Setup::to([backend.address()]).listener(&format!("timeouts: {{{timeouts}}}")).start()
}

/// A connection that has carried a message each way.
fn pair(proxy: &Proxy, backend: &TestBackend) -> (Peer, Peer) {
    let client = proxy.client();
    let server = backend.accept();
    client.send("ping");
    server.expect("ping");
    server.send("pong");
    client.expect("pong");
    (client, server)
}

/// Ten percent either way, and what a busy machine adds.
#[track_caller]
fn assert_a_second(time: Duration) {
    let range = ms(900)..SECOND + ms(100) + SLACK;
    assert!(range.contains(&time), "fired after {time:?}");
}

#[test]
fn an_idle_connection_is_ended_by_fin_on_both_sides() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: 1s");
    let (client, server) = pair(&proxy, &backend);
    let start = Instant::now();
    client.expect_end(End::Fin);
    assert_a_second(start.elapsed());
    server.expect_end(End::Fin);
    assert_a_second(start.elapsed());
    proxy.expect_ends(&["idle_timeout"]);
}

#[test]
fn a_connection_that_never_carried_a_byte_is_idle_too() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: 1s");
    let client = proxy.client();
    let server = backend.accept();
    assert_a_second(client.time_to_end(End::Fin));
    server.expect_end(End::Fin);
    proxy.expect_ends(&["idle_timeout"]);
}

#[test]
fn one_way_traffic_is_not_idle() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: 1s");
    let (uploader, sink) = pair(&proxy, &backend);
    let (downloader, source) = pair(&proxy, &backend);
    for _ in 0..5 {
        pause(ms(300));
        uploader.send("up");
        sink.expect("up");
        source.send("down");
        downloader.expect("down");
    }
    let start = Instant::now();
    uploader.expect_end(End::Fin);
    downloader.expect_end(End::Fin);
    assert_a_second(start.elapsed());
    proxy.expect_ends(&["idle_timeout"; 2]);
}

#[test]
fn a_half_closed_connection_without_traffic_is_ended() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "half_closed: 1s");
    let (client, server) = pair(&proxy, &backend);
    let (client2, server2) = pair(&proxy, &backend);
    client.fin();
    server2.fin();
    let start = Instant::now();
    server.expect_end(End::Fin);
    client2.expect_end(End::Fin);
    client.expect_end(End::Fin);
    assert_a_second(start.elapsed());
    server2.expect_end(End::Fin);
    assert_a_second(start.elapsed());
    proxy.expect_ends(&["half_closed_timeout"; 2]);
}

#[test]
fn a_half_closed_connection_lives_while_bytes_move() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "half_closed: 1s");
    let (client, server) = pair(&proxy, &backend);
    client.fin();
    for _ in 0..4 {
        pause(ms(400));
        server.send("more");
        client.expect("more");
    }
    drop(server);
    client.expect_end(End::Fin);
    proxy.expect_ends(&["client_closed"]);
}

#[test]
fn with_half_closed_zero_the_first_end_ends_both() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "half_closed: 0s");
    let (client, server) = pair(&proxy, &backend);
    client.send("last words");
    client.fin();
    let start = Instant::now();
    assert_eq!(server.receive_all(), (b"last words".to_vec(), End::Fin));
    client.expect_end(End::Fin);
    assert!(start.elapsed() < SLACK, "took {:?}", start.elapsed());
    let (client, server) = pair(&proxy, &backend);
    server.send("last words");
    server.fin();
    assert_eq!(client.receive_all(), (b"last words".to_vec(), End::Fin));
    server.expect_end(End::Fin);
    assert!(start.elapsed() < 2 * SLACK, "took {:?}", start.elapsed());
}

#[test]
fn the_longest_duration_ends_a_busy_connection_with_what_was_read_delivered() {
    let backend = TestBackend::scripted(|peer| {
        // Writes for ever, until the connection is gone.
        let _ = Pattern::new(1).try_send(&peer, 0..1 << 40);
    });
    let proxy = with(&backend, "max_duration: 1s");
    let start = Instant::now();
    let client = proxy.client();
    let (bytes, end) = Pattern::new(1).receive_all(&client);
    assert_a_second(start.elapsed());
    assert_eq!(end, End::Fin, "after {bytes} bytes");
    assert!(bytes > 0);
    drop(client);
    proxy.expect_ends(&["max_duration"]);
}

#[test]
fn after_a_timeout_a_slow_reader_still_gets_what_was_read() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: 1s");
    let options = Options { receive_buffer: Some(4096), ..Options::default() };
    let client = Peer::connect_with(proxy.address(), options).unwrap();
    let server = backend.accept();
    Pattern::new(2).send(&server, 60_000);
    server.expect_end(End::Fin);
    // The client reads only now that the connection is over for the backend.
    assert_eq!(Pattern::new(2).receive_all(&client), (60_000, End::Fin));
    drop(client);
    proxy.expect_ends(&["idle_timeout"]);
}

#[test]
fn timeouts_that_are_off_never_fire() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: off, half_closed: \"off\", max_duration: off");
    let (client, server) = pair(&proxy, &backend);
    client.fin();
    server.expect_end(End::Fin);
    client.expect_silence(ms(1_300));
    server.send("still there");
    client.expect("still there");
    drop(server);
}

#[test]
fn the_shorter_of_two_timeouts_gives_the_reason() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: 3s, half_closed: 5s, max_duration: 1s");
    let (client, server) = pair(&proxy, &backend);
    client.fin();
    server.expect_end(End::Fin);
    let start = Instant::now();
    client.expect_end(End::Fin);
    assert!(start.elapsed() < SECOND + ms(100) + SLACK);
    proxy.expect_ends(&["max_duration"]);
}

#[test]
fn many_connections_that_time_out_together_all_end() {
    let backend = TestBackend::manual();
    let proxy = with(&backend, "idle: 1s");
    let clients: Vec<_> = (0..100).map(|_| proxy.client()).collect();
    let start = Instant::now();
    clients.iter().for_each(|client| client.expect_end(End::Fin));
    assert!(start.elapsed() < SECOND + ms(100) + 2 * SLACK, "took {:?}", start.elapsed());
    drop(clients);
    proxy.expect_ends(&["idle_timeout"; 100]);
}

#[test]
fn defaults_are_taken_where_a_listener_says_nothing() {
    let backend = TestBackend::manual();
    let text = format!(
        "defaults: {{listener: {{timeouts: {{idle: 1s, half_closed: 30s}}}}}}\n\
         listeners:\n  short: {{bind: \"127.0.0.1:0\", pool: app}}\n  \
         long: {{bind: \"127.0.0.1:0\", pool: app, timeouts: {{idle: 30s}}}}\n\
         pools:\n  app: {{backends: [\"{}\"]}}\n",
        backend.address()
    );
    let proxy = Setup::yaml(text).listening(2).start();
    let short = Peer::connect(proxy.addresses_of("short")[0]);
    let _short_server = backend.accept();
    let long = Peer::connect(proxy.addresses_of("long")[0]);
    let long_server = backend.accept();
    assert_a_second(short.time_to_end(End::Fin));
    long.expect_silence(ms(300));
    drop(long_server);
}

#[test]
fn after_a_timeout_even_a_client_that_goes_on_sending_gets_its_answer() {
    // Closing while input arrives makes the kernel send a reset, which destroys what is on its way.
    let backend = TestBackend::scripted(|peer| {
        Pattern::new(4).send(&peer, 60_000);
        drain(&peer);
    });
    let proxy = with(&backend, "max_duration: 1s");
    let options = Options { receive_buffer: Some(4096), ..Options::default() };
    let client = Peer::connect_with(proxy.address(), options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                // Nobody wants it any more at some time, which is no matter.
                let _ = client.try_send([0; 1000]);
                pause(ms(10));
            }
        });
        pause(ms(1_200));
        assert_eq!(Pattern::new(4).receive_all(&client), (60_000, End::Fin));
    });
}
