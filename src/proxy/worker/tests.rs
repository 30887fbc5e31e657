use std::net::{SocketAddr, TcpStream};

use super::*;
use crate::balance::Registry;
use crate::config::load_with_places;
use crate::net::listen::bind_all;
use crate::state::{Entrance, Snapshot};

/// A worker of a fleet of two, the socket it accepts from, and where the fleet hears its orders.
fn worker() -> (Rc<Worker>, Socket, Vec<UnboundedReceiver<Order>>) {
    let text = "listeners: { web: { bind: \"127.0.0.1:0\", pool: app } }\n\
                pools: { app: { backends: [\"127.0.0.1:1\"] } }\n";
    let loaded = load_with_places(text.as_bytes(), &|_| None, &Registry::default()).unwrap();
    let snapshot = Snapshot::new(&loaded.config, None).unwrap();
    let listener = Arc::clone(&snapshot.listeners[0]);
    let mut bound = bind_all(&listener.bind[0], 1, &listener.options).unwrap();
    let entrance = Arc::new(Entrance::new(listener));
    let socket = Socket { entrance, fd: bound.sockets.remove(0), is_lent: false };
    let (fleet, orders) = Fleet::new(2);
    let shared = Arc::new(Shared {
        clock: Clock::start(),
        ports: EphemeralPorts::read(),
        slots: Arc::new(Slots::new(None)),
        reporter: Reporter::new().0,
        fleet,
        end_all: watch::Sender::new(None),
        access: Arc::default(),
    });
    let reactor = Reactor::new().unwrap();
    let worker = Worker {
        index: 0,
        engine: Engine::new(shared.clock, 1),
        relays: Relays::new(&reactor),
        reactor,
        shared,
        random: RefCell::new(fastrand::Rng::with_seed(1)),
        connections: RefCell::default(),
        entered: Cell::new(0),
        races: RefCell::default(),
        staying: Cell::new(0),
        is_draining: Cell::new(false),
        empty: Notify::new(),
    };
    (Rc::new(worker), socket, orders)
}

fn address(socket: &Socket) -> SocketAddr {
    rustix::net::getsockname(&socket.fd).unwrap().try_into().unwrap()
}

async fn until(worker: &Worker, holds: impl Fn() -> bool) {
    let (engine, start) = (&worker.engine, worker.engine.clock.exact());
    while !holds() {
        assert!(engine.clock.exact() < start + 10_000, "not within ten seconds");
        engine.deadlines.sleep_until(engine.clock, engine.clock.now() + 5).await;
    }
}

#[test]
#[expect(clippy::await_holding_refcell_ref, reason = "so that somebody else panics")]
fn a_panic_while_accepting_ends_one_connection_and_no_more() {
    let (worker, socket, _orders) = worker();
    let (at, listener) = (address(&socket), Arc::clone(&socket.entrance.listener()));
    let door = Door::open(&worker.reactor, socket).unwrap();
    let main = Rc::clone(&worker);
    drive(&worker.engine, (&worker.reactor, &worker.relays), async move {
        let mut porter = Porter { worker: Rc::clone(&main), doors: Vec::new() };
        porter.attend(Rc::new(door));
        // What is borrowed already cannot be borrowed again: as good a bug as any.
        let borrowed = main.random.borrow_mut();
        let _first = TcpStream::connect(at).unwrap();
        until(&main, || listener.counters.accepted() == 1).await;
        drop(borrowed);
        assert_eq!(main.shared.fleet.open(), 0);
        let _second = TcpStream::connect(at).unwrap();
        until(&main, || listener.counters.accepted() == 2).await;
        porter.leave().await;
    });
}

#[test]
fn a_thread_that_dies_of_a_panic_leaves_its_sockets_to_the_next_one() {
    let (worker, socket, mut orders) = worker();
    let fd = Arc::clone(&socket.fd);
    let door = Door::open(&worker.reactor, socket).unwrap();
    let main = Rc::clone(&worker);
    // A task that panics ends, and its thread with it.
    drive(&worker.engine, (&worker.reactor, &worker.relays), async move {
        let mut porter = Porter { worker: Rc::clone(&main), doors: Vec::new() };
        porter.attend(Rc::new(door));
        panic!("a bug outside of everything that is caught");
    });
    match orders[1].try_recv() {
        Ok(Order::Open(socket)) => assert!(Arc::ptr_eq(&socket.fd, &fd)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn orders_for_a_thread_that_has_ended_go_to_the_next_one() {
    let (fleet, mut orders) = Fleet::new(3);
    drop(orders.remove(1));
    fleet.tell(1, Order::Renew);
    assert!(orders[0].try_recv().is_err());
    assert!(matches!(orders[1].try_recv(), Ok(Order::Renew)));
}
