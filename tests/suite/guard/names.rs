//! Backends that are names.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{End, PATIENCE, Setup, TestBackend, eventually};

/// A server that answers every question for addresses of one name by what it is set to.
struct Dns {
    address: SocketAddr,
    /// The addresses; `None`: there is no such name.
    known: Arc<Mutex<Option<Vec<[u8; 4]>>>>,
}

impl Dns {
    fn start(known: Option<Vec<[u8; 4]>>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let known = Arc::new(Mutex::new(known));
        let shared = Arc::clone(&known);
        // Ends with the process of the test: nobody asks it any more then.
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let known = shared.lock().unwrap().clone();
                let _ = socket.send_to(&reply(&buffer[..length], known), from);
            }
        });
        Self { address, known }
    }

    fn set(&self, known: Option<Vec<[u8; 4]>>) {
        *self.known.lock().unwrap() = known;
    }
}

/// RFC 1035, section 4.1: the header, the question again, and an A record for each address.
fn reply(question: &[u8], known: Option<Vec<[u8; 4]>>) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let code = if known.is_some() { 0 } else { 3 };
    let records = known.filter(|_| is_a).unwrap_or_default();
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    reply.extend(&question[12..end]);
    for address in records {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address);
    }
    reply
}

fn setup(dns: &Dns, port: u16) -> Setup {
    Setup::to([format!("app.test:{port}")]).pool(&format!(
        "resolve: {{servers: [\"{}\"], min_interval: 1s, max_interval: 1s, timeout: 500ms}}",
        dns.address
    ))
}

#[test]
fn a_name_that_does_not_resolve_yet_comes_later_and_stays_when_it_is_lost() {
    let backend = TestBackend::echo();
    let port = backend.address().parse::<SocketAddr>().unwrap().port();
    let dns = Dns::start(None);
    let proxy = setup(&dns, port).start();
    proxy.client().expect_end(End::Reset);
    proxy.expect_ends(&["no_backend"]);
    dns.set(Some(vec![[127, 0, 0, 1]]));
    eventually(PATIENCE, "the name resolves", || {
        let client = proxy.client();
        client.try_send("?").is_ok() && client.try_read(&mut [0]).is_ok_and(|n| n == 1)
    });
    dns.set(None);
    proxy.expect_line("what is known stays");
    proxy.client().expect_echo("still there");
}

#[test]
fn addresses_come_and_go_with_their_name() {
    let backend = TestBackend::echo();
    let port = backend.address().parse::<SocketAddr>().unwrap().port();
    let dns = Dns::start(Some(vec![[127, 0, 0, 2], [127, 0, 0, 3]]));
    let proxy = setup(&dns, port).start();
    let told =
        |text: &str| proxy.events().iter().any(|e| e.kind == "resolved" && e.more.contains(text));
    eventually(PATIENCE, "both are found", || told("127.0.0.2") && told("127.0.0.3"));
    dns.set(Some(vec![[127, 0, 0, 1], [127, 0, 0, 3]]));
    eventually(PATIENCE, "the new one is found", || told("127.0.0.1"));
    dns.set(Some(vec![[127, 0, 0, 1]]));
    eventually(PATIENCE, "the old ones are forgotten", || {
        let client = proxy.client();
        client.try_send("?").is_ok() && client.try_read(&mut [0]).is_ok_and(|n| n == 1)
    });
    (0..6).for_each(|_| proxy.client().expect_echo("the only one left"));
}

#[test]
fn localhost_is_known_without_any_server() {
    let backend = TestBackend::echo();
    let port = backend.address().parse::<SocketAddr>().unwrap().port();
    let proxy = Setup::to([format!("localhost:{port}")]).start();
    eventually(PATIENCE, "the name resolves", || {
        let client = proxy.client();
        client.try_send("?").is_ok() && client.try_read(&mut [0]).is_ok_and(|n| n == 1)
    });
}
