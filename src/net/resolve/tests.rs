//! Against a scripted server on loopback, over UDP and TCP.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use hickory_resolver::proto::op::{Message, MessageType, OpCode};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// What the server does with a question.
#[derive(Clone, Debug)]
enum Reply {
    /// Records with a time to live.
    Records(u32, Vec<RData>),
    /// Records of other names too.
    Chain(Vec<(&'static str, RData)>),
    /// NXDOMAIN with a negative time to live.
    NoSuchName(u32),
    Code(ResponseCode),
    Silence,
    /// Nothing over UDP but the wish to be asked over TCP.
    OnlyOverTcp(Vec<RData>),
}

type Script = BTreeMap<(&'static str, RecordType), Reply>;

/// What is not in its script has no records of that kind.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicU32>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Server {
    async fn start(script: Script) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let (script, asked) = (Arc::new(script), Arc::<AtomicU32>::default());
        let over_udp = serve_udp(udp, Arc::clone(&script), Arc::clone(&asked));
        let tasks = [
            tokio::task::spawn_local(over_udp),
            tokio::task::spawn_local(serve_tcp(tcp, script, Arc::clone(&asked))),
        ];
        Self { address, asked, tasks }
    }

    fn resolver(&self, timeout_ms: u64) -> Resolver {
        Resolver::new(&[self.address], Duration::from_millis(timeout_ms)).unwrap()
    }

    fn asked(&self) -> u32 {
        self.asked.load(SeqCst)
    }
}

/// The same port over UDP and TCP.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(udp: UdpSocket, script: Arc<Script>, asked: Arc<AtomicU32>) {
    let mut buf = [0; 4096];
    loop {
        let (length, from) = udp.recv_from(&mut buf).await.unwrap();
        asked.fetch_add(1, SeqCst);
        if let Some(reply) = reply(&script, &buf[..length], false) {
            udp.send_to(&reply, from).await.unwrap();
        }
    }
}

async fn serve_tcp(tcp: TcpListener, script: Arc<Script>, asked: Arc<AtomicU32>) {
    loop {
        let (mut stream, _) = tcp.accept().await.unwrap();
        // One client, one question after the other.
        while let Some(question) = read_question(&mut stream).await {
            asked.fetch_add(1, SeqCst);
            let Some(reply) = reply(&script, &question, true) else { continue };
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    }
}

async fn read_question(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut question = vec![0; stream.read_u16().await.ok()?.into()];
    stream.read_exact(&mut question).await.ok()?;
    Some(question)
}

fn reply(script: &Script, question: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let asked = query.name().to_utf8().to_ascii_lowercase();
    let key = (asked.trim_end_matches('.'), query.query_type());
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(query.clone());
    let own = |ttl, data| Record::from_rdata(query.name().clone(), ttl, data);
    let scripted = script.iter().find(|((name, kind), _)| (*name, *kind) == key);
    match scripted.map(|(_, reply)| reply.clone()) {
        Some(Reply::Records(ttl, records)) => {
            message.add_answers(records.into_iter().map(|data| own(ttl, data)));
        }
        Some(Reply::Chain(records)) => {
            message.add_answers(
                records.into_iter().map(|(name, data)| {
                    Record::from_rdata(Name::from_utf8(name).unwrap(), 60, data)
                }),
            );
        }
        Some(Reply::NoSuchName(ttl)) => {
            message.metadata.response_code = ResponseCode::NXDomain;
            let (zone, mail) = (Name::from_utf8("test.").unwrap(), Name::root());
            let soa = SOA::new(zone.clone(), mail, 1, 60, 60, 60, ttl);
            message.add_authority(Record::from_rdata(zone, ttl, RData::SOA(soa)));
        }
        Some(Reply::Code(code)) => message.metadata.response_code = code,
        Some(Reply::Silence) => return None,
        Some(Reply::OnlyOverTcp(_)) if !is_tcp => message.metadata.truncation = true,
        Some(Reply::OnlyOverTcp(records)) => {
            message.add_answers(records.into_iter().map(|data| own(60, data)));
        }
        None => {}
    }
    Some(message.to_vec().unwrap())
}

fn a(texts: &[&str]) -> Vec<RData> {
    texts.iter().map(|text| RData::A(A(text.parse().unwrap()))).collect()
}

fn aaaa(text: &str) -> Vec<RData> {
    vec![RData::AAAA(AAAA(text.parse().unwrap()))]
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_utf8(target).unwrap()))
}

fn host(name: &str) -> Query {
    Query::Host(name.into(), 9501)
}

fn addresses(part: &Result<Vec<Found>, LookupError>) -> Vec<String> {
    let mut found: Vec<_> = part.as_ref().unwrap().iter().map(|f| f.address.to_string()).collect();
    found.sort_unstable();
    found
}

/// Runs a test on a thread with one server and what it answers to.
fn with_server<F: Future<Output = ()>>(
    script: impl IntoIterator<Item = (&'static str, RecordType, Reply)>,
    test: impl FnOnce(Rc<Server>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = script.into_iter().map(|(name, kind, reply)| ((name, kind), reply)).collect();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { test(Rc::new(Server::start(script).await)).await });
}

#[test]
fn both_families_are_found_with_the_shorter_time_to_live() {
    let script = [
        ("app.test", RecordType::A, Reply::Records(30, a(&["10.0.0.2", "10.0.0.1"]))),
        ("app.test", RecordType::AAAA, Reply::Records(20, aaaa("fd00::1"))),
    ];
    with_server(script, |server| async move {
        let answer = server.resolver(2000).look_up(&host("app.test")).await;
        assert_eq!(addresses(&answer.v4), ["10.0.0.1:9501", "10.0.0.2:9501"]);
        assert_eq!(addresses(&answer.v6), ["[fd00::1]:9501"]);
        assert_eq!(answer.ttl, Some(Duration::from_secs(20)));
    });
}

#[test]
fn a_family_that_is_not_there_is_empty_and_no_failure() {
    let script = [("six.test", RecordType::AAAA, Reply::Records(60, aaaa("fd00::1")))];
    with_server(script, |server| async move {
        let answer = server.resolver(2000).look_up(&host("six.test")).await;
        assert_eq!(addresses(&answer.v6), ["[fd00::1]:9501"]);
        assert_eq!(answer.v4, Err(LookupError::Empty));
    });
}

#[test]
fn what_goes_wrong_is_told_apart() {
    let both = |name, reply: Reply| {
        [(name, RecordType::A, reply.clone()), (name, RecordType::AAAA, reply)]
    };
    let script = [
        both("none.test", Reply::NoSuchName(7)),
        both("fail.test", Reply::Code(ResponseCode::ServFail)),
        both("refused.test", Reply::Code(ResponseCode::Refused)),
        both("empty.test", Reply::Records(60, Vec::new())),
    ];
    with_server(script.into_iter().flatten(), |server| async move {
        let resolver = server.resolver(2000);
        let none = resolver.look_up(&host("none.test")).await;
        assert_eq!(none.v4, Err(LookupError::NoSuchName));
        assert_eq!(none.ttl, Some(Duration::from_secs(7)));
        for name in ["fail.test", "refused.test"] {
            let answer = resolver.look_up(&host(name)).await;
            let is_refused = |part: &Result<_, _>| matches!(part, Err(LookupError::Refused(_)));
            assert!(is_refused(&answer.v4) && is_refused(&answer.v6), "{answer:?}");
        }
        let empty = resolver.look_up(&host("empty.test")).await;
        assert_eq!((empty.v4, empty.v6), (Err(LookupError::Empty), Err(LookupError::Empty)));
    });
}

#[test]
fn silence_ends_at_the_timeout_and_takes_no_other_family_along() {
    let script = [
        ("app.test", RecordType::A, Reply::Records(60, a(&["10.0.0.1"]))),
        ("app.test", RecordType::AAAA, Reply::Silence),
        ("dead.test", RecordType::A, Reply::Silence),
        ("dead.test", RecordType::AAAA, Reply::Silence),
    ];
    with_server(script, |server| async move {
        let (resolver, start) = (server.resolver(500), Instant::now());
        let half = resolver.look_up(&host("app.test")).await;
        assert_eq!(addresses(&half.v4), ["10.0.0.1:9501"]);
        assert_eq!(half.v6, Err(LookupError::Timeout));
        let dead = resolver.look_up(&host("dead.test")).await;
        assert_eq!((dead.v4, dead.v6), (Err(LookupError::Timeout), Err(LookupError::Timeout)));
        assert!(start.elapsed() < Duration::from_millis(1900), "{:?}", start.elapsed());
    });
}

#[test]
fn an_answer_that_was_cut_short_is_asked_for_over_tcp() {
    let many: Vec<_> = (1..=250).map(|n| format!("10.0.{}.{n}", n % 4)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let script = [("big.test", RecordType::A, Reply::OnlyOverTcp(a(&many)))];
    with_server(script, |server| async move {
        let answer = server.resolver(2000).look_up(&host("big.test")).await;
        assert_eq!(addresses(&answer.v4).len(), 250);
    });
}

#[test]
fn a_thousand_records_are_one_answer() {
    let many: Vec<_> = (0..1000).map(|n| format!("10.{}.{}.1", n / 250, n % 250)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let script = [("huge.test", RecordType::A, Reply::OnlyOverTcp(a(&many)))];
    with_server(script, |server| async move {
        let answer = server.resolver(2000).look_up(&host("huge.test")).await;
        let mut known = Known::default();
        let bounds = Bounds { min: Duration::from_secs(5), max: Duration::from_secs(300) };
        let change = known.learn(answer, bounds);
        assert_eq!((change.added.len(), change.dropped), (1000, 0));
    });
}

#[test]
fn aliases_are_followed_and_a_loop_of_them_ends() {
    let alias = |name: &str| RData::CNAME(CNAME(Name::from_utf8(name).unwrap()));
    let script = [
        (
            "www.test",
            RecordType::A,
            Reply::Chain(vec![
                ("www.test.", alias("app.test.")),
                ("app.test.", a(&["10.0.0.1"])[0].clone()),
            ]),
        ),
        ("one.test", RecordType::A, Reply::Chain(vec![("one.test.", alias("two.test."))])),
        ("two.test", RecordType::A, Reply::Chain(vec![("two.test.", alias("one.test."))])),
        ("one.test", RecordType::AAAA, Reply::Chain(vec![("one.test.", alias("one.test."))])),
    ];
    with_server(script, |server| async move {
        let resolver = server.resolver(2000);
        let answer = resolver.look_up(&host("www.test")).await;
        assert_eq!(addresses(&answer.v4), ["10.0.0.1:9501"]);
        let before = server.asked();
        let looped = resolver.look_up(&host("one.test")).await;
        assert!(looped.v4.is_err() && looped.v6.is_err(), "{looped:?}");
        assert!(server.asked() - before < 100, "{} questions", server.asked() - before);
    });
}

#[test]
fn a_service_brings_hosts_with_ports_weights_and_priorities() {
    let records = vec![
        srv(1, 20, 9001, "a.test."),
        srv(2, 0, 9002, "b.test."),
        srv(1, 5, 9003, "none.test."),
        srv(9, 9, 9, "."),
    ];
    let script = [
        ("_web._tcp.test", RecordType::SRV, Reply::Records(60, records)),
        ("_none._tcp.test", RecordType::SRV, Reply::Records(60, vec![srv(0, 0, 0, ".")])),
        ("a.test", RecordType::A, Reply::Records(40, a(&["10.0.0.1", "10.0.0.2"]))),
        ("b.test", RecordType::AAAA, Reply::Records(60, aaaa("fd00::1"))),
        ("none.test", RecordType::A, Reply::NoSuchName(60)),
        ("none.test", RecordType::AAAA, Reply::NoSuchName(60)),
    ];
    with_server(script, |server| async move {
        let resolver = server.resolver(2000);
        let service = |name: &str| Query::Service(name.into());
        let answer = resolver.look_up(&service("_web._tcp.test")).await;
        let of = |address: &str, priority, weight| Found {
            address: address.parse().unwrap(),
            service: Some(Service { priority, weight }),
        };
        let mut found = answer.v4.unwrap();
        found.sort_unstable();
        assert_eq!(
            found,
            [of("10.0.0.1:9001", 1, 20), of("10.0.0.2:9001", 1, 20), of("[fd00::1]:9002", 2, 0),]
        );
        assert_eq!(answer.ttl, Some(Duration::from_secs(40)));
        let none = resolver.look_up(&service("_none._tcp.test")).await;
        assert_eq!(none.v4, Err(LookupError::Empty));
    });
}

#[test]
fn a_service_of_which_a_host_cannot_be_looked_up_is_not_known() {
    let records = vec![srv(1, 1, 1, "a.test."), srv(1, 1, 1, "fail.test.")];
    let script = [
        ("_web._tcp.test", RecordType::SRV, Reply::Records(60, records)),
        ("a.test", RecordType::A, Reply::Records(60, a(&["10.0.0.1"]))),
        ("fail.test", RecordType::A, Reply::Code(ResponseCode::ServFail)),
    ];
    with_server(script, |server| async move {
        let query = Query::Service("_web._tcp.test".into());
        let answer = server.resolver(2000).look_up(&query).await;
        assert!(matches!(answer.v4, Err(LookupError::Refused(_))), "{answer:?}");
    });
}

#[test]
fn a_watched_name_is_asked_for_no_more_often_than_the_bounds_allow() {
    let script = [("app.test", RecordType::A, Reply::Records(0, a(&["10.0.0.1"])))];
    with_server(script, |server| async move {
        let bounds = Bounds { min: Duration::from_millis(200), max: Duration::from_secs(300) };
        let resolver = Rc::new(server.resolver(1000));
        let mut watch = Watch::new(resolver, host("app.test"), bounds, Known::default());
        let start = Instant::now();
        assert_eq!(watch.next().await.added.len(), 1);
        // Giving up the wait loses nothing.
        let given_up = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(given_up.is_err());
        for _ in 0..3 {
            let change = watch.next().await;
            assert_eq!((change.added, change.removed, change.error), (vec![], vec![], None));
        }
        assert!(start.elapsed() >= Duration::from_millis(600));
        assert_eq!((server.asked(), watch.known().found().count()), (8, 1), "A and AAAA each");
    });
}
