use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::super::peer::{PATIENCE, Peer, assert_fails, on_control_thread, time_waits};
use super::super::{build, check};
use super::*;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/tls/", $name))
    };
}

fn config(certificate: &'static [u8]) -> ServerConfig {
    let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(file!("server.key")).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// A server of TLS with this certificate; it answers nothing.
fn server(certificate: &'static [u8]) -> Peer {
    let config = Arc::new(config(certificate));
    Peer::scripted(move |stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        while tls.is_handshaking() && tls.complete_io(stream).is_ok() {}
    })
}

fn roots() -> Roots {
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_slice(file!("authority.pem")).unwrap()).unwrap();
    Roots::only(store)
}

fn look(peer: &Peer, name: Option<&str>, verify: bool, roots: &Roots) -> Outcome {
    let options = model::TlsProbe { server_name: name.map(str::to_owned), verify };
    let probe = build(&model::Probe::Tls(options), roots).unwrap();
    on_control_thread(check(&*probe, &peer.target, PATIENCE))
}

#[test]
fn a_valid_certificate_passes_by_name_and_by_address() {
    let peer = server(file!("valid.pem"));
    assert_eq!(look(&peer, Some("app.example"), true, &roots()), Outcome::Pass);
    assert_eq!(look(&peer, None, true, &roots()), Outcome::Pass);
}

#[test]
fn a_handshake_that_succeeded_leaves_no_time_wait() {
    let peer = server(file!("valid.pem"));
    for _ in 0..50 {
        assert_eq!(look(&peer, None, true, &roots()), Outcome::Pass);
        peer.end();
    }
    assert_eq!(time_waits(&peer.target.address), 0);
}

#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    let valid = server(file!("valid.pem"));
    let other = look(&valid, Some("other.example"), true, &roots());
    assert_fails(other, "its certificate is not for other.example");
    let expired = look(&server(file!("expired.pem")), None, true, &roots());
    assert_fails(expired, "its certificate has expired");
    let future = look(&server(file!("future.pem")), None, true, &roots());
    assert_fails(future, "its certificate is not valid yet");
    let mut strangers = RootCertStore::empty();
    strangers.add(CertificateDer::from_pem_slice(file!("valid.pem")).unwrap()).unwrap();
    let unknown = look(&valid, None, true, &Roots::only(strangers));
    assert_fails(unknown, "its certificate is of an authority that this host does not know");
}

#[test]
fn without_verify_any_certificate_passes() {
    for certificate in [&file!("valid.pem")[..], file!("expired.pem"), file!("future.pem")] {
        let peer = server(certificate);
        assert_eq!(look(&peer, Some("other.example"), false, &Roots::default()), Outcome::Pass);
    }
}

#[test]
fn each_check_makes_a_full_handshake_and_so_sees_the_certificate() {
    // A session that was resumed shows no certificate: one that has expired meanwhile would pass.
    let (sender, kinds) = std::sync::mpsc::channel();
    let config = Arc::new(config(file!("valid.pem")));
    let peer = Peer::scripted(move |stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        while tls.is_handshaking() && tls.complete_io(stream).is_ok() {}
        sender.send(tls.handshake_kind()).unwrap();
    });
    let options = model::TlsProbe { server_name: Some("app.example".into()), verify: true };
    let probe = Tls::new(&options, &roots()).unwrap();
    for _ in 0..3 {
        assert_eq!(on_control_thread(check(&probe, &peer.target, PATIENCE)), Outcome::Pass);
        assert_eq!(kinds.recv().unwrap(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn an_alert_is_told() {
    let peer = Peer::scripted(|stream| {
        let _ = stream.read(&mut [0; 4096]);
        // A fatal alert, handshake_failure (RFC 8446, 6).
        stream.write_all(&[21, 3, 3, 0, 2, 2, 40]).unwrap();
    });
    let outcome = look(&peer, None, false, &Roots::default());
    assert_fails(outcome, "refused the TLS handshake: alert HandshakeFailure");
}

#[test]
fn what_is_no_tls_is_told() {
    let answers: [fn(&mut TcpStream); 2] = [
        |stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap(),
        |stream| stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap(),
    ];
    for answer in answers {
        let peer = Peer::scripted(move |stream| {
            let _ = stream.read(&mut [0; 4096]);
            answer(stream);
        });
        let outcome = look(&peer, None, false, &Roots::default());
        assert_fails(outcome, "answered with something that is no TLS");
    }
}

#[test]
fn a_name_that_is_none_is_refused() {
    let options = model::TlsProbe { server_name: Some("a b".into()), verify: false };
    let error = build(&model::Probe::Tls(options), &Roots::default()).unwrap_err();
    assert!(error.starts_with("server_name: expected a host name"), "{error}");
}
