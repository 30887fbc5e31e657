//! [BF-2, BF-3, BF-6, RX-7, HH-1] Health where packets are dropped, processes frozen, and this one
//! starved.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::hole::drop_packets;
use crate::support::netns::run;
use crate::support::{
    PATIENCE, Peer, Proxy, SLACK, Setup, TestBackend, at_once, eventually, ms, pause,
};
use crate::{echo_on, entered, has, local};

fn backends(ports: &[u16]) -> Vec<TestBackend> {
    ports.iter().map(|port| echo_on(*port)).collect()
}

/// The time a new client waits for its echo.
fn time_to_echo(proxy: &Proxy) -> Duration {
    let start = Instant::now();
    proxy.client().expect_echo("x");
    start.elapsed()
}

/// New clients every few milliseconds for so long; how long each waited, in order of their coming.
fn stream_of_clients(proxy: &Proxy, time: Duration) -> Vec<(Duration, Duration)> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        while start.elapsed() < time {
            let came = start.elapsed();
            clients.push(scope.spawn(move || (came, time_to_echo(proxy))));
            pause(ms(4));
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

/// [BF-2] The active one of a hot standby vanishes from the network.
#[test]
fn no_client_of_a_black_holed_active_one_waits_longer_than_one_timeout() {
    let name = concat!(
        module_path!(),
        "::no_client_of_a_black_holed_active_one_waits_longer_than_one_timeout"
    );
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let backends = backends(&[9001, 9002]);
    let setup = Setup::to(backends.iter().map(TestBackend::address));
    let proxy = setup.pool("strategy: hot_standby, connect: {timeout: 500ms}").start();
    assert!(time_to_echo(&proxy) < SLACK);
    drop_packets(&[9001]);
    let clients = stream_of_clients(&proxy, ms(1500));
    let slowest = clients.iter().map(|(_, waited)| *waited).max().unwrap();
    assert!(slowest > ms(400) && slowest < ms(550) + SLACK, "{slowest:?}");
    let told = proxy.expect_told("takeover", backends[1].address());
    assert_eq!(told.evidence, "3 connections failed in a row: timed out");
    assert_eq!(told.number("lost"), 0, "{told:?}");
    // Those that had waited when it was decided were served at once, and those after it did not wait.
    let late = clients.iter().filter(|(came, _)| *came > ms(550) + SLACK);
    let slowest = late.map(|(_, waited)| *waited).max().unwrap();
    assert!(slowest < ms(100), "after the takeover somebody waited {slowest:?}");
    assert!(told.number("retried") > 20, "{told:?}");
}

/// [BF-2] With nobody else about, it is the lone client's own timeouts that make the row; one is enough
/// where one is to evict.
#[test]
fn a_lone_client_of_a_black_holed_active_one_waits_one_timeout_where_one_evicts() {
    let name = concat!(
        module_path!(),
        "::a_lone_client_of_a_black_holed_active_one_waits_one_timeout_where_one_evicts"
    );
    if !has("nft", "-v") || !entered(name) {
        return;
    }
    let backends = backends(&[9001, 9002]);
    let setup = Setup::to(backends.iter().map(TestBackend::address));
    let keys = "strategy: hot_standby, connect: {timeout: 500ms}, \
                outlier_detection: {consecutive_failures: 1}";
    let proxy = setup.pool(keys).start();
    assert!(time_to_echo(&proxy) < SLACK);
    drop_packets(&[9001]);
    let waited = time_to_echo(&proxy);
    assert!(waited > ms(450) && waited < ms(550) + SLACK, "{waited:?}");
    assert_eq!(proxy.expect_told("takeover", backends[1].address()).number("retried"), 1);
    let waited = time_to_echo(&proxy);
    assert!(waited < ms(50) + SLACK, "the next one does not: {waited:?}");
}

/// A process that accepts and echoes, in Python: something that can be frozen.
struct Server(Child);

impl Server {
    fn on(port: u16) -> Self {
        let program = format!(
            "import socket,threading\n\
             s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
             s.bind(('127.0.0.1',{port}));s.listen(1024);print('up',flush=True)\n\
             def serve(c):\n\
             \x20while True:\n\
             \x20 b=c.recv(4096)\n\
             \x20 if not b: break\n\
             \x20 c.sendall(b)\n\
             \x20c.close()\n\
             while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()\n"
        );
        let mut child =
            Command::new("python3").args(["-c", &program]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// [BF-3] One of three is frozen: a check that needs an answer finds it, and so does `first_byte`.
#[test]
fn a_frozen_process_is_found_by_an_answer_that_does_not_come() {
    let name =
        concat!(module_path!(), "::a_frozen_process_is_found_by_an_answer_that_does_not_come");
    if !has("python3", "-V") || !entered(name) {
        return;
    }
    let check = "health_check: {probe: {send_expect: {send: \"?\", expect: \"?\"}}, \
                 interval: 200ms, fast_interval: 100ms, timeout: 200ms, fall: 2}";
    let tcp = "health_check: {interval: 100ms, fast_interval: 50ms, timeout: 100ms}";
    let first_byte = "outlier_detection: {first_byte: 150ms, base_ejection: 1m}";
    for (keys, cause) in [(check.to_owned(), "probe"), (format!("{first_byte}, {tcp}"), "outlier")]
    {
        let servers = [9001, 9002, 9003].map(Server::on);
        let addresses = [9001, 9002, 9003].map(|port| local(port).to_string());
        let proxy = Setup::to(&addresses).pool(&keys).start();
        at_once(9, |_| time_to_echo(&proxy));
        servers[1].signal(Signal::STOP);
        let start = Instant::now();
        let waiting: Vec<Peer> = (0..9).map(|_| proxy.client()).collect();
        waiting.iter().for_each(|client| client.send("x"));
        let told = proxy.expect_told("evicted", &addresses[1]);
        assert_eq!(told.cause, cause, "{told:?}");
        assert!(start.elapsed() < ms(900) + SLACK, "{:?}", start.elapsed());
        at_once(9, |_| assert!(time_to_echo(&proxy) < SLACK));
        servers[1].signal(Signal::CONT);
        // Who waited is served now: nothing was lost.
        waiting.iter().for_each(|client| client.expect("x"));
    }
}

/// [BF-6] The ways in which the kernel says at once that a connect fails: the backend's faults, whichever.
#[test]
fn each_error_of_a_connect_blames_whom_it_should() {
    let name = concat!(module_path!(), "::each_error_of_a_connect_blames_whom_it_should");
    if !entered(name) {
        return;
    }
    run("ip", &["route", "add", "unreachable", "10.9.1.0/24"]);
    run("ip", &["route", "add", "prohibit", "10.9.2.0/24"]);
    run("ip", &["route", "add", "blackhole", "10.9.3.0/24"]);
    let up = echo_on(9000);
    let unreachable = ["10.9.1.1:80", "10.9.2.1:80", "10.9.3.1:80"].map(|to| (to, "unreachable"));
    for (address, words) in [("127.0.0.1:9999", "refused")].into_iter().chain(unreachable) {
        let setup = Setup::to([address, up.address()]);
        let keys =
            "connect: {hedge: off, timeout: 4s}, outlier_detection: {consecutive_failures: 2}";
        let proxy = setup.pool(keys).start();
        at_once(4, |_| proxy.client().expect_echo("x"));
        let told = proxy.expect_told("evicted", address);
        assert!(told.evidence.ends_with(words), "{address}: {told:?}");
    }
}

/// [RX-7] The program itself is frozen for a while: no backend is evicted for that, and nothing is
/// caught up.
#[test]
fn a_program_that_was_frozen_evicts_nobody_and_catches_nothing_up() {
    let name =
        concat!(module_path!(), "::a_program_that_was_frozen_evicts_nobody_and_catches_nothing_up");
    if !entered(name) {
        return;
    }
    let any = SocketAddr::from(([0, 0, 0, 0], 9000));
    let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&times);
    let _all = TestBackend::serving(&any.into(), move |peer| {
        log.lock().unwrap().push(Instant::now());
        let _ = peer.try_read(&mut [0; 8]);
        let _ = peer.try_send("fine");
    });
    let addresses = (1..=40).map(|number| format!("127.0.1.{number}:9000"));
    let check = "health_check: {probe: {send_expect: {send: \"?\", expect: fine}}, \
                 interval: 500ms, fast_interval: 200ms, timeout: 300ms, fall: 1, jitter: 20}";
    let proxy = Setup::to(addresses).pool(check).start();
    eventually(PATIENCE, "all are checked", || times.lock().unwrap().len() >= 80);
    for freeze in [ms(60), ms(350), ms(3000)] {
        proxy.signal(Signal::STOP);
        pause(freeze);
        times.lock().unwrap().clear();
        proxy.signal(Signal::CONT);
        pause(ms(480));
        let checks = times.lock().unwrap().len();
        // Those that were under way may come besides.
        assert!(checks <= 40 + 20, "{checks} checks of 40 backends in one interval");
        pause(ms(600));
        assert!(proxy.events().is_empty(), "{freeze:?}: {:?}", proxy.events());
        assert!(times.lock().unwrap().len() >= 40, "checks go on");
    }
}
