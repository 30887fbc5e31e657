//! Listening sockets change hands: none is bound anew, and nothing that queued up in one is lost.

use std::collections::BTreeSet;

use super::*;
use crate::support::proxy::free_ports;
use crate::support::{End, at_once};

/// The listening sockets of a process, by their inodes.
fn listening(pid: u32) -> BTreeSet<String> {
    let sockets = procfs::descriptors(pid).into_values().filter(|what| what.starts_with("socket:"));
    sockets.collect()
}

#[test]
fn two_hundred_that_queue_in_the_backlog_are_all_served_by_the_new_process() {
    let backend = TestBackend::named("one");
    let setup = Setup::to([backend.address()]).listener("max_connections: 1, tcp: {backlog: 300}");
    let mut proxy = setup.start();
    let old = proxy.client();
    old.expect("one");
    // The limit is reached, so that the old one accepts none of these.
    let queued: Vec<_> = (0..200).map(|_| proxy.client()).collect();
    queued.iter().enumerate().for_each(|(n, client)| client.send(format!("{n:03}")));
    assert_eq!(backend.accepted(), 1);
    proxy.signal(Signal::USR2);
    let _successor = Successor::of(&proxy, 1);
    old.expect_echo("the old one is connected still");
    at_once(200, |n| {
        let client = &queued[n];
        client.expect(format!("one{n:03}"));
        client.fin();
        client.expect_end(End::Fin);
    });
    assert_eq!(backend.accepted(), 201);
    old.fin();
    proxy.expect_exit(PATIENCE);
}

#[test]
fn what_came_while_the_old_process_was_stopped_is_served() {
    let backend = TestBackend::named("one");
    let mut proxy = Setup::to([backend.address()]).start();
    proxy.signal(Signal::STOP);
    let queued: Vec<_> = (0..200).map(|_| proxy.client()).collect();
    queued.iter().enumerate().for_each(|(n, client)| client.send(format!("{n:03}")));
    proxy.signal(Signal::USR2);
    proxy.signal(Signal::CONT);
    let _successor = Successor::of(&proxy, 1);
    at_once(200, |n| {
        let client = &queued[n];
        client.expect(format!("one{n:03}"));
        client.fin();
        client.expect_end(End::Fin);
    });
    proxy.expect_exit(PATIENCE);
}

#[test]
fn three_hundred_listeners_on_tcp_and_unix_sockets_change_hands() {
    const EACH: usize = 150;
    let backend = TestBackend::named("one");
    let folder = crate::support::setup::Scratch::new();
    // Names as long as may be: all of them together are well above what one message of the kernel holds.
    let long = "x".repeat(119);
    let mut text = String::from("listeners:\n");
    for n in 0..EACH {
        let path = folder.path().join(format!("{n}.sock"));
        text += &format!("  tcp-{n:03}-{long}: {{bind: \"127.0.0.1:0\", pool: app}}\n");
        text +=
            &format!("  unix-{n:03}-{long}: {{bind: \"unix:{}\", pool: app}}\n", path.display());
    }
    text += &format!("pools:\n  app: {{backends: [\"{}\"]}}\n", backend.address());
    let mut proxy = Setup::yaml(text).threads(1).listening(2 * EACH).start();
    let addresses = |n: usize| {
        let tcp = proxy.addresses_of(&format!("tcp-{n:03}-{long}"))[0].to_owned();
        [tcp, format!("unix:{}", folder.path().join(format!("{n}.sock")).display())]
    };
    let addresses: Vec<String> = (0..EACH).flat_map(addresses).collect();
    let files = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files.map(|file| file.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    let (before, files_before) = (listening(proxy.pid()), files());
    let old = Peer::connect(&addresses[1]);
    old.expect("one");
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&proxy, 1);
    let after = listening(successor.pid());
    let kept = before.intersection(&after).count();
    assert!(kept >= 2 * EACH, "{kept} of {} sockets are the same", 2 * EACH);
    let all_served = || {
        for address in &addresses {
            let client = Peer::connect(address);
            client.expect("one");
            client.fin();
            client.expect_end(End::Fin);
        }
    };
    all_served();
    old.fin();
    old.expect_end(End::Fin);
    proxy.expect_exit(PATIENCE);
    assert_eq!(files(), files_before, "the end of the old one removes no file");
    all_served();
    successor.signal(Signal::TERM);
    successor.expect_exit(PATIENCE);
    assert!(files().is_empty(), "who stops last removes them");
}

#[test]
fn a_listener_that_is_added_or_removed_by_an_upgrade_comes_and_goes_without_a_loss() {
    let backend = TestBackend::named("one");
    let ports: Vec<u16> = free_ports(3).collect();
    let text = |ports: &[u16]| {
        let of = |port: &u16| {
            format!("  l{port}: {{bind: \"127.0.0.1:{port}\", pool: app, max_connections: 1}}\n")
        };
        let listeners: String = ports.iter().map(of).collect();
        format!("listeners:\n{listeners}pools:\n  app: {{backends: [\"{}\"]}}\n", backend.address())
    };
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut proxy = Setup::yaml(text(&ports[..2])).listening(2).start();
    let first = Peer::connect(&address(ports[0]));
    first.expect("one");
    // Waits in the kernel, because the limit is reached.
    let goes = [first, Peer::connect(&address(ports[0]))];
    let stays = Peer::connect(&address(ports[1]));
    stays.expect("one");
    let new = Setup::yaml(text(&ports[1..])).file();
    std::fs::write(proxy.directory().join("tidegate.yaml"), new).unwrap();
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&proxy, 1);
    for port in &ports[1..] {
        Peer::connect(&address(*port)).expect("one");
    }
    eventually(PATIENCE, "the one that was removed refuses", || {
        Peer::connect_with(&address(ports[0]), Default::default()).is_err()
    });
    // Who is connected there goes on; so does who was queued there.
    goes[0].expect_echo("goes on");
    goes[0].fin();
    goes[0].expect_end(End::Fin);
    goes[1].expect("one");
    goes[1].fin();
    goes[1].expect_end(End::Fin);
    stays.fin();
    proxy.expect_exit(PATIENCE);
    drop(successor);
}
