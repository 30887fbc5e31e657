//! nginx behind it: many requests on one connection, and a long download.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::http::Http;
use crate::server::{Server, program, sha256};
use crate::support::setup::Scratch;
use crate::support::{Pattern, Setup, at_once};

const GIB: u64 = 1 << 30;

/// nginx that serves the files of `root` and tells in a header which request of its connection it
/// answers.
fn nginx(binary: &Path, root: &Scratch) -> Server {
    Server::start(|address| {
        let own = root.path().display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "daemon off; master_process off; {user} pid {own}/nginx.pid; error_log stderr;
             events {{}}
             http {{
               access_log off; keepalive_requests 100000; sendfile on;
               client_body_temp_path {own}/b; proxy_temp_path {own}/p; fastcgi_temp_path {own}/f;
               uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;
               server {{
                 listen {address}; root {own};
                 add_header Nth $connection_requests;
               }}
             }}"
        );
        let file = root.write("nginx.conf", text);
        let mut command = Command::new(binary);
        command.args(["-e", "stderr", "-p"]).arg(root.path()).args(["-c", &file]);
        command
    })
}

#[test]
fn nginx_keeps_connections_alive_through_it() {
    let Some(binary) = program("nginx", "nginx") else { return };
    let root = Scratch::new();
    root.write("page", "hello from nginx\n");
    let server = nginx(&binary, &root);
    let proxy = Setup::to([server.address()]).start();
    at_once(8, |_| {
        let mut http = Http::connect(proxy.address());
        for nth in 1..=250 {
            let (head, body) = http.get("/page");
            assert_eq!((head.status(), body.as_slice()), ("200", b"hello from nginx\n".as_slice()));
            assert_eq!(head.number("Nth"), Some(nth), "all on one connection");
        }
    });
    proxy.expect_ends(&["client_closed"; 8]);
}

#[test]
fn a_gibibyte_from_nginx_arrives_with_its_hash() {
    let Some(binary) = program("nginx", "nginx") else { return };
    let root = Scratch::new();
    let file = root.path().join("large");
    write_pattern(&file, GIB);
    let server = nginx(&binary, &root);
    let proxy = Setup::to([server.address()]).start();

    let mut hash =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut feed = hash.stdin.take().unwrap();
    let mut bytes = 0;
    let head = Http::connect(proxy.address()).try_get("/large", |piece| {
        bytes += piece.len() as u64;
        feed.write_all(piece).unwrap();
    });
    drop(feed);
    assert_eq!((head.unwrap().status(), bytes), ("200", GIB));
    let arrived = hash.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&arrived), sha256(&file));
}

fn write_pattern(path: &Path, count: u64) {
    const PIECE: usize = 256 * 1024;
    let mut file = std::fs::File::create(path).unwrap();
    for piece in 0..count / PIECE as u64 {
        file.write_all(Pattern::new(1).at(piece * PIECE as u64, PIECE)).unwrap();
    }
}
