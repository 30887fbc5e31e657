//! The loop of a thread of the data path.
//!
//! The thread sleeps in one place, its epoll instance, until there is news of a socket, a time has
//! come or another thread has woken a task. News of relayed connections are acted on at once; all
//! else is tasks, which tokio's `LocalSet` runs. There is no tokio runtime on the thread: what needs
//! one (`tokio::time`, `tokio::net`) has [`Deadlines`](super::clock::Deadlines) and
//! [`Stream`](super::stream::Stream) here.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::task::LocalSet;

use super::reactor::{About, BATCH, Reactor};
use super::relay::{Carried, Engine, Relays};

/// Runs `main` and the tasks it starts (`tokio::task::spawn_local`), and relays the connections of
/// `relays`, until `main` has ended. What is left of both is dropped.
pub fn drive<C: Carried>(
    engine: &Engine,
    (reactor, relays): (&Rc<Reactor>, &Relays<C>),
    main: impl Future<Output = ()> + 'static,
) {
    let _entered = reactor.enter();
    let mut tasks = LocalSet::new();
    let main = tasks.spawn_local(main);
    let waker = Waker::from(Rc::clone(reactor).alarm().clone());
    let mut cx = Context::from_waker(&waker);
    let mut news = Vec::with_capacity(BATCH);
    loop {
        if reactor.alarm().take() {
            // It is told of by `main` when all is over, and not by the tasks that are left.
            let _ = Pin::new(&mut tasks).poll(&mut cx);
            if main.is_finished() {
                break;
            }
        }
        relays.take_turns(engine);
        let now = engine.clock.now();
        engine.deadlines.wake_due(now);
        let next = [relays.take_due(engine, now), engine.deadlines.next()];
        let pause = next.into_iter().flatten().min().map(|at| at.saturating_sub(now));
        let is_busy = relays.has_turns();
        reactor.wait(&mut news, if is_busy { Some(0) } else { pause });
        for event in &news {
            match Reactor::about(event) {
                (About::Source(token), news) => reactor.hear(token, news),
                (About::Alarm, _) => {}
                (about, news) => relays.hear(engine, about, news),
            }
        }
    }
    drop(tasks);
    relays.clear();
}
