//! [HH-9] What is known of a name outlives reloads, upgrades and restarts.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::Signal;

use super::support::admin::Admin;
use super::support::setup::Scratch;
use super::support::{PATIENCE, Proxy, Setup, TestBackend, eventually};
use super::upgrade::upgrade;

const ADMIN: &str = "admin: {bind: \"127.0.0.1:0\"}";
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

/// What a server says to every question.
#[derive(Clone, Debug)]
enum Says {
    /// These IPv4 addresses.
    Addresses(Vec<[u8; 4]>),
    /// This code, and nothing else.
    Code(u8),
    Nothing,
}

const NO_SUCH_NAME: Says = Says::Code(3);
const FAILURE: Says = Says::Code(2);

/// A DNS server. Ends with the process of the test: nobody asks it any more then.
struct Dns {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    fn saying(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let dns = Self { address, says: Arc::new(Mutex::new(says)), asked: Arc::default() };
        let (says, asked) = (Arc::clone(&dns.says), Arc::clone(&dns.asked));
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::SeqCst);
                let says = says.lock().unwrap().clone();
                let reply = reply(&buffer[..length], &says);
                let _ = reply.map(|reply| socket.send_to(&reply, from));
            }
        });
        dns
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Waits until all of so many names have been looked up anew, and what followed has followed.
    #[track_caller]
    fn expect_round(&self, names: usize) {
        let before = self.asked.load(Ordering::SeqCst);
        // For both families; those of the first round may have been under way.
        let more = 2 * 2 * names;
        eventually(PATIENCE, "questions", || self.asked.load(Ordering::SeqCst) > before + more);
    }

    /// The keys of a pool that asks it.
    fn keys(&self, timeout: &str) -> String {
        format!(
            "resolve: {{servers: [\"{}\"], min_interval: 1s, max_interval: 1s, timeout: {timeout}}}",
            self.address
        )
    }
}

/// RFC 1035, section 4.1: the header, the question again, and an A record for each address.
fn reply(question: &[u8], says: &Says) -> Option<Vec<u8>> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let (code, addresses) = match says {
        Says::Nothing => return None,
        Says::Code(code) => (*code, &[][..]),
        Says::Addresses(all) => (0, if is_a { &all[..] } else { &[] }),
    };
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1]);
    reply.extend((addresses.len() as u16).to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(&question[12..end]);
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address);
    }
    Some(reply)
}

/// The port of a backend that is asked for by a name.
fn port(backend: &TestBackend) -> u16 {
    backend.address().parse::<SocketAddr>().unwrap().port()
}

/// What the backend says that a new client gets; empty for none.
fn who(proxy: &Proxy) -> String {
    let mut name = [0; 1];
    let client = proxy.client();
    match client.try_read(&mut name) {
        Ok(1) => String::from_utf8_lossy(&name).into_owned(),
        _ => String::new(),
    }
}

#[track_caller]
fn expect(proxy: &Proxy, name: &str) {
    eventually(PATIENCE, name, || who(proxy) == name);
}

#[track_caller]
fn stop(mut proxy: Proxy) {
    proxy.signal(Signal::TERM);
    assert!(proxy.expect_exit(PATIENCE).success());
}

#[test]
fn a_reload_while_the_dns_is_down_leaves_the_addresses_as_they_are() {
    for (fault, timeout) in [(FAILURE, "500ms"), (Says::Nothing, "400ms"), (NO_SUCH_NAME, "400ms")]
    {
        let backend = TestBackend::named("a");
        let dns = Dns::saying(Says::Addresses(vec![LOOPBACK]));
        let setup = Setup::to([format!("app.test:{}", port(&backend))]).head(ADMIN);
        let proxy = setup.clone().pool(&dns.keys("500ms")).start();
        expect(&proxy, "a");
        dns.say(fault.clone());
        // The same file, and one by which names are looked up anew.
        let file = setup.pool(&dns.keys(timeout)).file();
        std::fs::write(proxy.directory().join("tidegate.yaml"), file).unwrap();
        Admin::of(&proxy).post("/api/v1/reload", "").ok();
        proxy.expect_line("what is known stays");
        dns.expect_round(1);
        assert_eq!(who(&proxy), "a", "{fault:?}");
        let told = proxy.events();
        assert_eq!(told.iter().filter(|told| told.kind == "resolved").count(), 1, "{fault:?}");
    }
}

#[test]
fn an_upgrade_while_the_dns_is_down_takes_the_addresses_along() {
    let backend = TestBackend::named("a");
    let dns = Dns::saying(Says::Addresses(vec![LOOPBACK]));
    let setup = Setup::to([format!("app.test:{}", port(&backend))]).pool(&dns.keys("500ms"));
    let mut proxy = setup.start();
    expect(&proxy, "a");
    dns.say(Says::Nothing);
    let _successor = upgrade(&mut proxy);
    (0..20).for_each(|_| assert_eq!(who(&proxy), "a"));
}

#[test]
fn a_restart_while_the_dns_is_down_knows_the_addresses_from_the_state_file() {
    let backend = TestBackend::named("a");
    let dns = Dns::saying(Says::Addresses(vec![LOOPBACK]));
    let scratch = Scratch::new();
    let setup = Setup::to([format!("app.test:{}", port(&backend))])
        .pool(&dns.keys("500ms"))
        .head(&format!("state_file: \"{}\"", scratch.path().join("state.json").display()));
    let proxy = setup.clone().start();
    expect(&proxy, "a");
    stop(proxy);
    dns.say(FAILURE);
    let proxy = setup.start();
    assert_eq!(who(&proxy), "a");
    proxy.expect_line("what is known stays");
    assert_eq!(who(&proxy), "a");
    // Once it answers, its word holds.
    dns.say(Says::Addresses(vec![[127, 0, 0, 2]]));
    eventually(PATIENCE, "the address goes", || who(&proxy).is_empty());
}

/// A hot standby of two names, with the role moved to the second by an operator.
fn moved(backends: &[TestBackend; 2], dns: &Dns, keys: &str) -> (Setup, Proxy) {
    let backend = |index: usize| {
        let (name, port) = (["A", "B"][index], port(&backends[index]));
        format!("{{address: \"{name}.test:{port}\", name: {name}}}")
    };
    let setup = Setup::to([backend(0), backend(1)])
        .pool("strategy: hot_standby")
        .pool(&dns.keys("500ms"))
        .head(ADMIN)
        .head(keys);
    let proxy = setup.clone().start();
    expect(&proxy, "a");
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "both are found", || {
        let answer = admin.post("/api/v1/pools/app/failover", "{\"backend\":\"B\"}");
        answer.code == 200
    });
    expect(&proxy, "b");
    (setup, proxy)
}

#[test]
fn an_upgrade_does_not_move_the_active_role_among_names() {
    let backends = ["a", "b"].map(TestBackend::named);
    let dns = Dns::saying(Says::Addresses(vec![LOOPBACK]));
    let (_, mut proxy) = moved(&backends, &dns, "");
    let _successor = upgrade(&mut proxy);
    (0..20).for_each(|_| assert_eq!(who(&proxy), "b"));
    let admin = Admin::of(&proxy);
    let pool = admin.get("/api/v1/pools/app").ok();
    assert_eq!(pool["backends"].as_array().unwrap().len(), 2, "{pool}");
    dns.expect_round(2);
    assert_eq!(who(&proxy), "b", "after the names were looked up");
}

#[test]
fn a_restart_does_not_move_the_active_role_among_names() {
    let backends = ["a", "b"].map(TestBackend::named);
    let dns = Dns::saying(Says::Addresses(vec![LOOPBACK]));
    let scratch = Scratch::new();
    let file = format!("state_file: \"{}\"", scratch.path().join("state.json").display());
    let (setup, proxy) = moved(&backends, &dns, &file);
    stop(proxy);
    let proxy = setup.start();
    (0..20).for_each(|_| assert_eq!(who(&proxy), "b"));
    dns.expect_round(2);
    assert_eq!(who(&proxy), "b", "after the names were looked up");
}
