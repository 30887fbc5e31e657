//! Connections from an address that is not this host's: what the docs say of routing, done.

use std::fs::File;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space, set_capabilities,
};
use tidegate::net::addr::Address;
use tidegate::net::dial::{ConnectError, Dial, DialOptions, EphemeralPorts, check_transparent};

use crate::support::netns::run;
use crate::support::setup::Scratch;
use crate::support::{PATIENCE, Peer, Setup, eventually};
use crate::{entered, has};

/// Nobody's here.
const CLIENT: &str = "198.51.100.7";
const BACKEND: &str = "10.9.0.2:9000";

/// Another network namespace, which a sleeping process keeps.
struct Neighbour(Child);

impl Neighbour {
    /// A network with one host beside this one, at `.2` of it, that sends whatever it has to this one,
    /// at `.1`. Its first three numbers, and the names of the two ends.
    fn start(network: &str, [near, far]: [&str; 2]) -> Self {
        let mut sleeper = Command::new("unshare");
        sleeper.args(["-n", "sh", "-c", "echo; exec sleep 60"]).stdin(Stdio::null());
        let mut child = sleeper.stdout(Stdio::piped()).spawn().unwrap();
        // Once it says something it has its own network.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let id = child.id().to_string();
        let neighbour = Self(child);
        let [here, there] = ["1", "2"].map(|host| format!("{network}.{host}/24"));
        run("ip", &["link", "add", near, "type", "veth", "peer", "name", far, "netns", &id]);
        run("ip", &["addr", "add", &here, "dev", near]);
        run("ip", &["link", "set", near, "up"]);
        neighbour.run(&["addr", "add", &there, "dev", far]);
        neighbour.run(&["link", "set", far, "up"]);
        neighbour.run(&["route", "add", "default", "via", &format!("{network}.1")]);
        neighbour
    }

    fn run(&self, arguments: &[&str]) {
        let id = self.0.id().to_string();
        run("nsenter", &[&["-t", &id, "-n", "ip"], arguments].concat());
    }

    /// A socket that listens there.
    fn listen(&self, address: &str) -> TcpListener {
        self.within(|| TcpListener::bind(address).unwrap())
    }

    /// What `open` opens there.
    fn within<T: Send>(&self, open: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let within = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            open()
        };
        thread::scope(|scope| scope.spawn(within).join().unwrap())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What comes back for such connections is delivered here: the rules of docs/transparent-source.md.
fn route_back() {
    run("ip", &["rule", "add", "fwmark", "1", "lookup", "100"]);
    run("ip", &["route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100"]);
    let rules = "table inet tidegate {\n chain prerouting {\n \
                 type filter hook prerouting priority mangle\n \
                 meta l4proto tcp socket transparent 1 meta mark set 1\n }\n}\n";
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

fn dial(source: &str, transparent: bool) -> Result<Dial, ConnectError> {
    let options = DialOptions { nodelay: true, ports: EphemeralPorts::read(), transparent };
    let address = Address::parse(BACKEND).unwrap();
    Dial::start(&address, Some(source.parse::<IpAddr>().unwrap()), options)
}

#[test]
fn the_backend_sees_the_client_and_answers_through_this_host() {
    let name =
        concat!(module_path!(), "::the_backend_sees_the_client_and_answers_through_this_host");
    if !has("nft", "-v") || !has("nsenter", "--version") || !entered(name) {
        return;
    }
    let neighbour = Neighbour::start("10.9.0", ["near", "far"]);
    route_back();
    let backend = neighbour.listen(BACKEND);
    let accepted = thread::spawn(move || {
        let (mut stream, source) = backend.accept().unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        (source, hello)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut dial = dial(CLIENT, true).unwrap();
        let address = Address::parse(BACKEND).unwrap();
        let connected = poll_fn(|cx| dial.poll_connected(&address, cx));
        tokio::time::timeout(PATIENCE, connected).await.unwrap().unwrap();
        assert_eq!(dial.into_stream().try_write(b"hello").unwrap(), 5);
    });
    let (source, hello) = accepted.join().unwrap();
    assert_eq!((source.ip(), &hello), (CLIENT.parse::<IpAddr>().unwrap(), b"hello"));
}

/// The whole program between two networks: clients come from one, and backends see them from there;
/// checks come from this host.
#[test]
fn clients_keep_their_addresses_and_checks_have_this_hosts() {
    let name = concat!(module_path!(), "::clients_keep_their_addresses_and_checks_have_this_hosts");
    if !has("nft", "-v") || !has("nsenter", "--version") || !entered(name) {
        return;
    }
    let backends = Neighbour::start("10.9.0", ["near", "far"]);
    let clients = Neighbour::start("198.51.100", ["left", "right"]);
    route_back();
    let (listener, sources) = (backends.listen(BACKEND), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&sources);
    // Ends with the process of the test.
    thread::spawn(move || {
        while let Ok((stream, source)) = listener.accept() {
            seen.lock().unwrap().push(source.ip().to_string());
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let proxy = Setup::yaml(format!(
        "listeners: {{web: {{bind: \"198.51.100.1:8000\", pool: app}}}}\npools:\n  app: {{backends: \
         [\"{BACKEND}\"], connect: {{source: client}}, health_check: {{interval: 100ms}}}}\n"
    ))
    .start();
    let times = |source: &str| sources.lock().unwrap().iter().filter(|s| *s == source).count();
    eventually(PATIENCE, "it is checked", || times("10.9.0.1") >= 2);
    for round in 1..=3 {
        let client = clients.within(|| Peer::connect("198.51.100.1:8000"));
        client.expect_echo("by way of both networks");
        assert_eq!(times("198.51.100.2"), round);
    }
    assert!(proxy.told("evicted", BACKEND).is_empty());
    // From nowhere else has anybody come.
    let seen = sources.lock().unwrap().clone();
    assert!(seen.iter().all(|s| ["10.9.0.1", "198.51.100.2"].contains(&s.as_str())), "{seen:?}");
}

#[test]
fn without_the_capability_the_start_is_refused_with_what_is_missing() {
    let name = concat!(
        module_path!(),
        "::without_the_capability_the_start_is_refused_with_what_is_missing"
    );
    if !has("setpriv", "--version") || !entered(name) {
        return;
    }
    let scratch = Scratch::new();
    let text = format!(
        "listeners: {{web: {{bind: \"127.0.0.1:8000\", pool: app}}}}\npools:\n  app: {{backends: \
         [\"{BACKEND}\"], connect: {{source: client}}}}\n"
    );
    let file = scratch.write("tidegate.yaml", text);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]);
    let outcome =
        command.args([env!("CARGO_BIN_EXE_tidegate"), "run", "-c", &file]).output().unwrap();
    let told = String::from_utf8_lossy(&outcome.stderr);
    for part in ["pools.app.connect.source", "CAP_NET_RAW", "CAP_NET_ADMIN"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    assert!(!outcome.status.success());
}

#[test]
fn an_address_that_is_not_this_hosts_needs_the_option_and_the_option_a_capability() {
    let name = concat!(
        module_path!(),
        "::an_address_that_is_not_this_hosts_needs_the_option_and_the_option_a_capability"
    );
    if !entered(name) {
        return;
    }
    check_transparent().unwrap();
    let local = |errno| ConnectError::Local(errno);
    assert_eq!(dial(CLIENT, false).unwrap_err(), local(rustix::io::Errno::ADDRNOTAVAIL));
    assert_eq!(dial("fd00::1", true).unwrap_err(), local(rustix::io::Errno::AFNOSUPPORT));
    // Capabilities are a thread's own.
    let without = thread::spawn(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        set_capabilities(None, sets).unwrap();
        (check_transparent().unwrap_err().kind(), dial(CLIENT, true).unwrap_err())
    });
    let denied = (std::io::ErrorKind::PermissionDenied, local(rustix::io::Errno::PERM));
    assert_eq!(without.join().unwrap(), denied);
}
