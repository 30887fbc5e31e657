use proptest::prelude::*;

use super::*;

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(data)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &long(&[&[0], &long(name)[..]].concat()))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list = protocols.iter().map(|p| [&[u8::try_from(p.len()).unwrap()], *p].concat());
    extension(16, &long(&list.collect::<Vec<_>>().concat()))
}

/// A ClientHello with these extensions, without records around it.
fn handshake(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([4, 1, 2, 3, 4]);
    body.extend(long(&[0x13, 1, 0x13, 2]));
    body.extend([1, 0]);
    body.extend(long(&extensions.concat()));
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1], &length[1..], body].concat()
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &long(payload)[..]].concat()
}

fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    handshake.chunks(size).map(record).collect::<Vec<_>>().concat()
}

fn read(bytes: &[u8]) -> Peeked {
    Reader::default().read(bytes)
}

/// What a reader says that sees the bytes come in pieces of `size`, and how many it then had.
fn read_in_pieces(bytes: &[u8], size: usize) -> (Peeked, usize) {
    let mut reader = Reader::default();
    for end in (size..bytes.len()).step_by(size).chain([bytes.len()]) {
        match reader.read(&bytes[..end]) {
            Peeked::NeedMore => {}
            peeked => return (peeked, end),
        }
    }
    (Peeked::NeedMore, bytes.len())
}

fn hello(name: Option<&str>, protocols: &[&str]) -> Peeked {
    let alpn = protocols.iter().collect();
    Peeked::Hello(ClientHello { sni: name.map(Into::into), alpn })
}

#[test]
fn the_name_and_the_protocols_are_found() {
    let bytes = record(&handshake(&[
        extension(0x0a0a, b""),
        sni(b"example.com"),
        extension(43, &[2, 3, 4]),
        alpn(&[b"h2", b"http/1.1"]),
    ]));
    assert_eq!(read(&bytes), hello(Some("example.com"), &["h2", "http/1.1"]));
    let Peeked::Hello(found) = read(&bytes) else { panic!() };
    assert_eq!(found.alpn.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn a_name_is_lowered_and_what_is_none_is_left_out() {
    let longest =
        [&[b'a'; 63][..], b".", &[b'b'; 63], b".", &[b'c'; 63], b".", &[b'd'; 61]].concat();
    let with_dot = [&longest[..], b"."].concat();
    let names: [(&[u8], Option<&str>); 18] = [
        (b"Example.COM", Some("example.com")),
        (b"example.com.", Some("example.com")),
        (b"localhost", Some("localhost")),
        (b"_dmarc.example.com", Some("_dmarc.example.com")),
        (b"xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        (&longest, Some(std::str::from_utf8(&longest).unwrap())),
        (&with_dot, Some(std::str::from_utf8(&longest).unwrap())),
        (b"", None),
        (b".", None),
        (b"example..com", None),
        (b"example.com..", None),
        (b"192.0.2.1", None),
        (b"2001:db8::1", None),
        (b"exam\0ple.com", None),
        (b"exam ple.com", None),
        (b"*.example.com", None),
        ("bücher.example".as_bytes(), None),
        (b"example.com\n", None),
    ];
    for (name, expected) in names {
        assert_eq!(read(&record(&handshake(&[sni(name)]))), hello(expected, &[]), "{name:?}");
    }
    for name in [vec![b'a'; 64], [&longest[..], b"e"].concat(), [&longest[..], b"ee"].concat()] {
        assert_eq!(read(&record(&handshake(&[sni(&name)]))), hello(None, &[]));
    }
}

#[test]
fn without_a_name_it_is_a_client_hello_all_the_same() {
    assert_eq!(read(&record(&handshake(&[]))), hello(None, &[]));
    let old = &handshake(&[])[4..];
    let without_extensions = framed(&old[..old.len() - 2]);
    assert_eq!(read(&record(&without_extensions)), hello(None, &[]));
    assert_eq!(read(&record(&handshake(&[extension(0, &long(b""))]))), hello(None, &[]));
    let other_kind = extension(0, &long(&[&[9], &long(b"x")[..]].concat()));
    assert_eq!(read(&record(&handshake(&[other_kind]))), hello(None, &[]));
}

#[test]
fn any_version_from_ssl_3_on_may_stand_in_a_record() {
    let bytes = record(&handshake(&[sni(b"a.b")]));
    for minor in [0, 1, 2, 3, 4, 255] {
        let mut bytes = bytes.clone();
        bytes[2] = minor;
        assert_eq!(read(&bytes), hello(Some("a.b"), &[]));
    }
}

#[test]
fn it_is_the_same_split_over_two_records_at_any_byte() {
    let whole = handshake(&[sni(b"example.com"), alpn(&[b"h2"])]);
    let expected = hello(Some("example.com"), &["h2"]);
    for at in 1..whole.len() {
        let bytes = [record(&whole[..at]), record(&whole[at..])].concat();
        assert_eq!(read(&bytes), expected, "split at {at}");
        assert_eq!(read_in_pieces(&bytes, 1), (expected.clone(), bytes.len()));
        assert_eq!(read(&bytes[..bytes.len() - 1]), Peeked::NeedMore);
    }
    assert_eq!(read(&records(&whole, 1)), expected);
}

/// Sizes as they come with post-quantum key shares, an encrypted hello, and both; and the largest.
#[test]
fn large_hellos_come_whole_whatever_the_records_and_the_segments() {
    for (padding, is_known) in [(1216, true), (4000, true), (15_000, true), (LONGEST - 80, true)] {
        let whole = handshake(&[
            extension(51, &vec![1; padding / 2]),
            extension(0xfe0d, &vec![2; padding - padding / 2]),
            sni(b"example.com"),
        ]);
        assert_eq!(whole.len() <= HANDSHAKE_HEADER + LONGEST, is_known);
        for size in [100, 1399, 16_384] {
            let bytes = records(&whole, size);
            for segment in [1, 536, 1460, 65_536] {
                let peeked = read_in_pieces(&bytes, segment);
                assert_eq!(peeked, (hello(Some("example.com"), &[]), bytes.len()));
            }
        }
    }
}

#[test]
fn a_hello_of_16_kib_is_read_and_one_byte_more_is_not() {
    let empty = handshake(&[extension(21, b"")]).len() - HANDSHAKE_HEADER;
    let padded = |length: usize| handshake(&[extension(21, &vec![0; length - empty])]);
    assert_eq!(read(&records(&padded(LONGEST), 16_384)), hello(None, &[]));
    let over = records(&padded(LONGEST + 1), 16_384);
    assert_eq!(read_in_pieces(&over, 1), (Peeked::NotTls, 9), "as soon as its length is there");
    // 64 KiB and more have a length of three bytes.
    assert_eq!(read(&[22, 3, 1, 64, 0, 1, 1]), Peeked::NotTls);
}

#[test]
fn records_of_a_byte_each_are_given_up_at_32_kib() {
    let whole = handshake(&[extension(21, &vec![0; 8000])]);
    let bytes = records(&whole, 1);
    assert_eq!(read_in_pieces(&bytes, 1), (Peeked::NotTls, LONGEST_RAW));
    assert_eq!(read(&bytes[..LONGEST_RAW]), Peeked::NotTls);
}

#[test]
fn what_is_no_tls_is_known_at_the_first_byte_that_says_so() {
    let cases: [(&[u8], usize); 11] = [
        (b"GET / HTTP/1.1\r\n", 1),
        (b"SSH-2.0-x\r\n", 1),
        (b"\0\0\0\0", 1),
        // An alert, application data, and the hello of SSL 2.
        (&[21, 3, 1, 0, 2], 1),
        (&[23, 3, 3, 0, 2], 1),
        (&[0x80, 0x2e, 1, 3, 1], 1),
        (&[22, 2, 0, 0, 9], 2),
        (&[22, 3, 1, 0, 0], 5),
        (&[22, 3, 1, 64, 1], 5),
        // A ServerHello, and a hello without end.
        (&[22, 3, 1, 0, 9, 2], 6),
        (&[22, 3, 1, 0, 9, 1, 1], 7),
    ];
    for (bytes, known_at) in cases {
        assert_eq!(read_in_pieces(bytes, 1), (Peeked::NotTls, known_at), "{bytes:?}");
    }
    // Another kind of record between two of the handshake.
    let whole = handshake(&[sni(b"a.b")]);
    let mut bytes = [record(&whole[..20]), record(&whole[20..])].concat();
    bytes[25] = 23;
    assert_eq!(read_in_pieces(&bytes, 1), (Peeked::NotTls, 26));
}

#[test]
fn lengths_that_do_not_fit_make_it_no_tls() {
    let name = |bytes: &[u8]| handshake(&[extension(0, bytes)]);
    let list = |bytes: &[u8]| handshake(&[extension(16, bytes)]);
    let ordinary = handshake(&[]);
    let mut odd_ciphers = ordinary.clone();
    odd_ciphers[4 + 2 + 32 + 5 + 1] = 3;
    let wrong = [
        name(b""),
        name(&[0]),
        name(&[0, 4, 0, 0, 9, b'a']),
        name(&[0, 3, 0, 0, 0, 0]),
        [name(&[0, 3, 0, 0]), vec![]].concat(),
        list(b""),
        list(&[0, 1, 0]),
        list(&[0, 2, 5, b'h']),
        list(&[0, 2, 1, b'h', 0]),
        handshake(&[sni(b"a.b"), sni(b"c.d")]),
        handshake(&[alpn(&[b"h2"]), alpn(&[b"h3"])]),
        handshake(&[extension(0, &long(&[&[0], &long(b"a")[..], &[0], &long(b"b")].concat()))]),
        handshake(&[vec![0, 21, 0]]),
        framed(&[&ordinary[4..], b"x"].concat()),
        framed(&[3, 3]),
        framed(b""),
        odd_ciphers,
    ];
    for handshake in wrong {
        assert_eq!(read(&record(&handshake)), Peeked::NotTls, "{handshake:?}");
    }
}

proptest! {
    #[test]
    fn every_prefix_needs_more_and_every_split_says_the_same(
        name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}",
        protocols in prop::collection::vec("[a-z0-9/.]{1,10}", 0..4),
        size in 1..200_usize,
        segment in 1..200_usize,
    ) {
        let offered: Vec<_> = protocols.iter().map(String::as_bytes).collect();
        let whole = handshake(&[alpn(&offered), extension(10, b"xx"), sni(name.as_bytes())]);
        let bytes = records(&whole, size);
        let protocols: Vec<_> = protocols.iter().map(String::as_str).collect();
        let expected = hello(Some(&name), &protocols);
        prop_assert_eq!(read_in_pieces(&bytes, segment).0, expected);
        for length in 0..bytes.len() {
            prop_assert_eq!(read(&bytes[..length]), Peeked::NeedMore, "{} bytes", length);
        }
    }

    /// One wrong byte anywhere, or noise behind a good beginning: never a panic, and the same answer
    /// however it comes.
    #[test]
    fn hostile_bytes_are_judged_the_same_however_they_come(
        at in 0..400_usize,
        flip in 1..=255_u8,
        size in 1..100_usize,
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let whole = handshake(&[sni(b"example.com"), alpn(&[b"h2", b"http/1.1"])]);
        let mut bytes = records(&whole, size);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        bytes.extend_from_slice(&noise);
        let (in_pieces, known_at) = read_in_pieces(&bytes, 1);
        prop_assert_eq!(&in_pieces, &read(&bytes));
        if in_pieces != Peeked::NeedMore {
            prop_assert_eq!(&read(&bytes[..known_at - 1]), &Peeked::NeedMore);
        }
        let noise = [&[22, 3, 1], &noise[..]].concat();
        prop_assert_eq!(read_in_pieces(&noise, 1).0, read(&noise));
    }
}
