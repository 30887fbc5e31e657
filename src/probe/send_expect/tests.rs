use super::super::peer::{PATIENCE, Peer, assert_fails, ms};
use super::*;

fn ping(expect: &str) -> model::Probe {
    model::Probe::SendExpect(model::SendExpectProbe {
        send: "PING\r\n".into(),
        expect: expect.into(),
    })
}

#[test]
fn the_expected_answer_passes_wherever_it_stands_and_however_it_is_split() {
    let peers: [&'static [&'static [u8]]; 4] =
        [&[b"+PONG\r\n"], &[b"+P", b"ON", b"G"], &[b"hello\r\n", b"+PONG\r\n"], &[b"xx+PONGxx"]];
    for pieces in peers {
        let peer = Peer::answering(pieces, ms(20));
        assert_eq!(peer.check(&ping("+PONG"), PATIENCE), Outcome::Pass, "{pieces:?}");
    }
}

#[test]
fn what_is_expected_of_a_server_that_speaks_first_needs_nothing_sent() {
    let peer = Peer::scripted(|stream| {
        std::io::Write::write_all(stream, b"220 mail.example ESMTP\r\n").unwrap();
    });
    let greeting = model::SendExpectProbe { send: String::new(), expect: "220 ".into() };
    assert_eq!(peer.check(&model::Probe::SendExpect(greeting), PATIENCE), Outcome::Pass);
}

#[test]
fn another_answer_fails_at_the_end_of_the_time_in_words() {
    let peer = Peer::answering(&[b"-LOADING\r\n"], ms(0));
    let words =
        r#"timed out after 300ms while waiting for "+PONG" in the answer, so far "-LOADING""#;
    assert_fails(peer.check(&ping("+PONG"), ms(300)), words);
}

#[test]
fn another_answer_and_the_end_fail_at_once() {
    let peer = Peer::scripted(|stream| {
        std::io::Read::read(stream, &mut [0; 64]).unwrap();
        std::io::Write::write_all(stream, b"-LOADING\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let words = r#"answered "-LOADING" where "+PONG" was expected, then closed by the peer"#;
    assert_fails(peer.check(&ping("+PONG"), PATIENCE), words);
}

#[test]
fn a_banner_alone_is_no_answer() {
    let peer = Peer::scripted(|stream| {
        std::io::Write::write_all(stream, b"hello\r\n").unwrap();
    });
    let words = r#"timed out after 300ms while waiting for "+PONG" in the answer, so far "hello""#;
    assert_fails(peer.check(&ping("+PONG"), ms(300)), words);
}

#[test]
fn an_answer_that_is_late_fails() {
    let peer = Peer::scripted(|stream| {
        std::io::Read::read(stream, &mut [0; 64]).unwrap();
        super::super::peer::rest(ms(500));
        let _ = std::io::Write::write_all(stream, b"+PONG\r\n");
    });
    let words = "timed out after 250ms while waiting for the answer";
    assert_fails(peer.check(&ping("+PONG"), ms(250)), words);
}

#[test]
fn an_answer_without_end_fails_when_it_is_too_long() {
    let peer =
        Peer::scripted(|stream| while std::io::Write::write_all(stream, &[b'x'; 1000]).is_ok() {});
    let Outcome::Fail(words) = peer.check(&ping("+PONG"), PATIENCE) else { panic!("it passed") };
    assert!(words.ends_with(r#"where "+PONG" was expected, in the first 16384 bytes"#), "{words}");
}

#[test]
fn what_is_expected_at_the_very_end_of_the_longest_answer_passes() {
    let peer = Peer::scripted(|stream| {
        let mut answer = vec![b'x'; LONGEST];
        answer[LONGEST - 5..].copy_from_slice(b"+PONG");
        std::io::Write::write_all(stream, &answer).unwrap();
    });
    assert_eq!(peer.check(&ping("+PONG"), PATIENCE), Outcome::Pass);
}
