//! Backends that refuse: attempts and the retry budget.

use std::time::Instant;

use crate::support::setup::Scratch;
use crate::support::{
    End, PATIENCE, Proxy, Refusing, SLACK, Setup, TestBackend, at_once, eventually,
};

#[test]
fn a_refused_backend_is_invisible_while_another_answers() {
    let (down, up) = (Refusing::new(), TestBackend::echo());
    let proxy = Setup::to([down.address(), up.address().into()]).start();
    at_once(4, |_| {
        for _ in 0..5 {
            // The first bytes are sent before there is a backend; they must not be lost.
            proxy.client().expect_echo("early bytes");
        }
    });
    proxy.expect_ends(&["client_closed"; 20]);
    let served_by = proxy.ended().into_iter().map(|end| end.backend);
    assert!(served_by.into_iter().all(|backend| backend.as_deref() == Some(up.address())));
}

#[test]
fn when_all_refuse_the_client_is_reset_at_once() {
    let down = [Refusing::new(), Refusing::new(), Refusing::new()];
    let proxy = Setup::to(down.iter().map(Refusing::address)).start();
    let time = proxy.client().time_to_end(End::Reset);
    assert!(time < SLACK, "took {time:?}");
    proxy.expect_ends(&["connect_failed"]);
}

#[test]
fn a_single_backend_that_refuses_is_a_failed_connect() {
    let down = Refusing::new();
    let proxy = Setup::to([down.address()]).start();
    proxy.client().expect_end(End::Reset);
    proxy.expect_ends(&["connect_failed"]);
}

#[test]
fn a_backend_that_comes_back_is_used_again() {
    let down = Refusing::new();
    let proxy = Setup::to([down.address()]).start();
    proxy.client().expect_end(End::Reset);
    let back = down.recover();
    let client = proxy.client();
    let server = back.accept();
    client.send("?");
    server.expect("?");
    drop(server);
    drop(client);
}

#[test]
fn no_more_attempts_are_made_than_configured() {
    let down = [Refusing::new(), Refusing::new(), Refusing::new()];
    let up = TestBackend::echo();
    let backends = || down.iter().map(Refusing::address).chain([up.address().to_owned()]);
    let in_order = Setup::to(backends()).pool("strategy: first_available");
    let three = in_order.clone().pool("connect: {attempts: 3}").start();
    three.client().expect_end(End::Reset);
    three.expect_ends(&["connect_failed"]);
    assert_eq!(up.accepted(), 0);
    let four = in_order.pool("connect: {attempts: 4}").start();
    four.client().expect_echo("fourth time lucky");
}

#[test]
fn each_attempt_goes_to_another_backend() {
    // Two backends and three attempts: nothing is left to try after two.
    let down = [Refusing::new(), Refusing::new()];
    let proxy = Setup::to(down.iter().map(Refusing::address))
        .pool("connect: {attempts: 100, deadline: 5s}")
        .start();
    let time = proxy.client().time_to_end(End::Reset);
    assert!(time < SLACK, "took {time:?}");
}

#[test]
fn without_a_retry_budget_there_are_ten_retries_a_second() {
    let (down, up) = (Refusing::new(), TestBackend::echo());
    let backends = [down.address(), up.address().to_owned()];
    let in_order = Setup::to(&backends).pool("strategy: first_available");
    let proxy = in_order.pool("connect: {retry_budget: 0}, outlier_detection: off").start();
    let start = Instant::now();
    let served = served(&proxy, 400);
    // Ten a second may be counted over any part of the last ten seconds.
    let most = 10 * (start.elapsed().as_secs() as usize + 11);
    assert!((10..=most).contains(&served), "{served} of 400 were served by a retry");
    let ends = proxy.ended();
    let failed = ends.iter().filter(|end| end.reason == "connect_failed").count();
    assert_eq!(failed, 400 - served);
}

#[test]
fn with_the_default_budget_every_connection_may_be_retried() {
    let (down, up) = (Refusing::new(), TestBackend::echo());
    let backends = [down.address(), up.address().to_owned()];
    let proxy = Setup::to(&backends).pool("strategy: first_available").start();
    assert_eq!(served(&proxy, 400), 400);
}

/// How many of `count` connections got an answer, once all have ended.
fn served(proxy: &Proxy, count: usize) -> usize {
    let answers = at_once(4, |_| {
        let each = (0..count / 4).filter(|_| {
            let client = proxy.client();
            client.try_send("x").is_ok() && client.try_read(&mut [0; 8]).is_ok_and(|n| n == 1)
        });
        each.count()
    });
    eventually(PATIENCE, "all have ended", || proxy.ended().len() == count);
    answers.into_iter().sum()
}

#[test]
fn a_missing_unix_socket_counts_as_refused() {
    let scratch = Scratch::new();
    let missing = format!("unix:{}", scratch.path().join("nobody.sock").display());
    let up = TestBackend::echo();
    let proxy = Setup::to([missing.as_str(), up.address()]).start();
    for _ in 0..4 {
        proxy.client().expect_echo("hello");
    }
}
