//! DI-3: an answer that comes before the question has ended is delivered whole.

use crate::support::pattern::Pace;
use crate::support::peer::Options;
use crate::support::{End, PATIENCE, Pattern, Peer, Proxy, TestBackend, eventually, ms};

const ANSWER: u64 = 300_000;
/// Slow enough to be behind the backend's close by far, quick enough for a test.
const SLOW: u32 = 400_000;

#[test]
fn an_answer_during_an_upload_arrives_whole_and_ends_by_fin() {
    let backend = TestBackend::scripted(|peer| {
        peer.receive(10_000);
        Pattern::new(1).send(&peer, ANSWER);
        peer.fin();
        crate::support::backend::drain(&peer);
    });
    let proxy = Proxy::before(&backend);
    let client = slow_client(&proxy);
    std::thread::scope(|scope| {
        scope.spawn(|| upload(&client, 4 << 20));
        let answer = Pattern::new(1).receive_from(&client, 0, Pace::per_second(SLOW));
        assert_eq!(answer, (ANSWER, End::Fin));
        // What the client still sends goes on to the backend, which drains it.
    });
    client.fin();
    backend.expect_finished();
    proxy.expect_ends(&["backend_closed"]);
}

#[test]
fn a_backend_that_closes_with_unread_input_does_not_destroy_its_answer() {
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = slow_client(&proxy);
    let server = backend.accept();
    std::thread::scope(|scope| {
        scope.spawn(|| upload(&client, 4 << 20));
        server.receive(10_000);
        let reader =
            scope.spawn(|| Pattern::new(1).receive_from(&client, 0, Pace::per_second(SLOW)));
        Pattern::new(1).send(&server, ANSWER);
        // All of it is with the balancer's kernel now: what is lost from here on, it has lost.
        eventually(PATIENCE, "the answer is taken", || server.unsent() == 0);
        drop(server);
        assert_eq!(reader.join().unwrap(), (ANSWER, End::Reset));
    });
    proxy.expect_ends(&["backend_reset"]);
}

#[test]
fn a_quick_client_gets_the_whole_answer_too() {
    // The same without slowness, many times: what arrives last arrives with the reset.
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    for _ in 0..8 {
        let client = proxy.client();
        let server = backend.accept();
        client.send([7; 5_000]);
        server.receive(100);
        Pattern::new(2).send(&server, 20_000);
        eventually(PATIENCE, "the answer is taken", || server.unsent() == 0);
        drop(server);
        assert_eq!(Pattern::new(2).receive_all(&client), (20_000, End::Reset));
    }
    proxy.expect_ends(&["backend_reset"; 8]);
}

#[test]
fn a_client_that_closes_with_unread_answer_loses_none_of_its_question() {
    // The mirror image: the client goes with unread bytes, so its kernel sends a reset.
    let backend = TestBackend::manual();
    let proxy = Proxy::before(&backend);
    let client = proxy.client();
    let server = backend.accept();
    client.send("hello");
    server.expect("hello");
    server.send([7; 5_000]);
    client.receive(100);
    Pattern::new(3).send(&client, 50_000);
    eventually(PATIENCE, "the question is taken", || client.unsent() == 0);
    drop(client);
    let question = Pattern::new(3).receive_from(&server, 0, Pace::per_second(SLOW));
    assert_eq!(question, (50_000, End::Reset));
    proxy.expect_ends(&["client_reset"]);
}

fn slow_client(proxy: &Proxy) -> Peer {
    let options = Options { receive_buffer: Some(4096), ..Options::default() };
    Peer::connect_with(proxy.address(), options).unwrap()
}

/// Sends until it is done or nobody wants it.
fn upload(client: &Peer, bytes: usize) {
    let chunk = [0; 16 * 1024];
    client.socket().set_write_timeout(Some(ms(2_000))).unwrap();
    for _ in 0..bytes / chunk.len() {
        if client.try_send(chunk).is_err() {
            return;
        }
    }
}
