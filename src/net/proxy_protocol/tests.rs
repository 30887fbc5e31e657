use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Ends {
    Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// The header at the beginning of `bytes`, which is whole.
#[track_caller]
fn header(bytes: &[u8]) -> Header {
    parse(bytes).unwrap().unwrap()
}

fn written(version: Version, ends: Option<Ends>) -> Vec<u8> {
    let mut out = Vec::new();
    write(version, ends, &mut out);
    out
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header, its length filled in.
fn v2(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let block = parts.concat();
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, &block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// A header with a checksum TLV behind `before` and before `after`.
fn with_checksum(before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut bytes = v2(0x21, 0x11, &[TCP4, before, &tlv(3, &[0; 4]), after]);
    let at = 16 + TCP4.len() + before.len() + 3;
    let sum = crc32c::checksum(&[&bytes]).to_be_bytes();
    bytes[at..at + 4].copy_from_slice(&sum);
    bytes
}

/// 192.0.2.1:4660 to 198.51.100.2:443.
const TCP4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 187];

#[test]
fn a_line_of_version_1_names_both_ends() {
    let cases = [
        ("TCP4 192.0.2.1 198.51.100.2 4660 443", Some(("192.0.2.1:4660", "198.51.100.2:443"))),
        ("TCP4 255.255.255.255 0.0.0.0 65535 0", Some(("255.255.255.255:65535", "0.0.0.0:0"))),
        ("TCP6 2001:db8::1 ::1 1 2", Some(("[2001:db8::1]:1", "[::1]:2"))),
        ("TCP6 ::ffff:192.0.2.1 ::ffff:1.2.3.4 1 2", Some(("192.0.2.1:1", "1.2.3.4:2"))),
        ("UNKNOWN", None),
        ("UNKNOWN ffff::1 ffff::2 65535 65535", None),
        ("UNKNOWN \0\u{ff} whatever", None),
    ];
    for (line, expected) in cases {
        let bytes = format!("PROXY {line}\r\n");
        let found = header(bytes.as_bytes());
        assert_eq!(found.ends, expected.map(|(a, b)| ends(a, b)), "{line}");
        assert_eq!(found.length, bytes.len());
    }
}

#[test]
fn a_line_that_is_not_exact_is_refused() {
    let lines = [
        "",
        "TCP4",
        "TCP5 1.2.3.4 1.2.3.4 1 2",
        "tcp4 1.2.3.4 1.2.3.4 1 2",
        "UNKNOWNX",
        "TCP4 1.2.3.4 1.2.3.4 1",
        "TCP4 1.2.3.4 1.2.3.4 1 2 3",
        "TCP4 1.2.3.4 1.2.3.4 1 2 ",
        "TCP4  1.2.3.4 1.2.3.4 1 2",
        "TCP4 01.2.3.4 1.2.3.4 1 2",
        "TCP4 1.2.3 1.2.3.4 1 2",
        "TCP4 ::1 ::1 1 2",
        "TCP6 1.2.3.4 1.2.3.4 1 2",
        "TCP6 [::1] ::1 1 2",
        "TCP6 fe80::1%1 ::1 1 2",
        "TCP4 1.2.3.4 1.2.3.4 01 2",
        "TCP4 1.2.3.4 1.2.3.4 +1 2",
        "TCP4 1.2.3.4 1.2.3.4 65536 2",
        "TCP4 1.2.3.4 1.2.3.4 -1 2",
        "TCP4 1.2.3.4 1.2.3.4  2",
        "TCP4 1.2.3.4 1.2.3.4 1 \u{e9}",
    ];
    for line in lines {
        let bytes = format!("PROXY {line}\r\n");
        assert_eq!(parse(bytes.as_bytes()), Err(HeaderError::Line), "{line:?}");
    }
    for bytes in ["PROXY UNKNOWN\n", "PROXY UNKNOWN\rX", "PROXY UN\n\r\n", "PROXY UNKNOWN\r\r\n"] {
        assert_eq!(parse(bytes.as_bytes()), Err(HeaderError::Line), "{bytes:?}");
    }
}

#[test]
fn a_line_may_have_107_bytes_and_no_more() {
    let line = |length: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(length - 2, b'x');
        [&line[..], b"\r\n"].concat()
    };
    assert_eq!(header(&line(107)).length, 107);
    assert_eq!(parse(&line(108)), Err(HeaderError::TooLong));
    // As soon as it cannot end in time, and not before.
    assert_eq!(parse(&line(200)[..106]), Ok(None));
    assert_eq!(parse(&line(200)[..107]), Err(HeaderError::TooLong));
}

#[test]
fn what_begins_like_no_header_is_refused_at_its_first_byte() {
    let others: [&[u8]; 6] =
        [b"G", b"PRO\r\n", b"PROXY\t", b"proxy ", &SIGNATURE[1..], b"\r\n\r\n\0\r\nQUIT\r"];
    for bytes in others {
        assert_eq!(parse(bytes), Err(HeaderError::Missing), "{bytes:?}");
    }
    assert_eq!(parse(b""), Ok(None));
}

#[test]
fn version_2_names_both_ends() {
    let found = header(&v2(0x21, 0x11, &[TCP4]));
    assert_eq!(found.ends, Some(ends("192.0.2.1:4660", "198.51.100.2:443")));
    let mut tcp6 = [0; 36];
    tcp6[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    tcp6[31] = 1;
    tcp6[33] = 7;
    tcp6[35] = 8;
    assert_eq!(header(&v2(0x21, 0x21, &[&tcp6])).ends, Some(ends("[2001:db8::]:7", "[::1]:8")));
    let mapped = [&[0; 10][..], &[255, 255, 192, 0, 2, 1]].concat();
    let both = v2(0x21, 0x21, &[&mapped, &mapped, &[0, 7, 0, 8]]);
    assert_eq!(header(&both).ends, Some(ends("192.0.2.1:7", "192.0.2.1:8")));
}

#[test]
fn local_unspec_unix_and_datagrams_stand_for_the_peer_itself() {
    let unix = [b'/'; 216];
    let cases = [
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &[TCP4]),
        // All of a LOCAL header is to be ignored, its family and what would be TLVs too.
        v2(0x20, 0xff, &[b"anything"]),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x00, &[&tlv(4, b"padding")]),
        v2(0x21, 0x01, &[]),
        v2(0x21, 0x10, &[TCP4]),
        v2(0x21, 0x12, &[TCP4]),
        v2(0x21, 0x22, &[&[0; 36]]),
        v2(0x21, 0x31, &[&unix]),
        v2(0x21, 0x32, &[&unix]),
    ];
    for bytes in cases {
        let found = header(&bytes);
        assert_eq!((found.ends, found.length), (None, bytes.len()), "{bytes:?}");
    }
}

#[test]
fn what_version_2_does_not_have_is_refused() {
    for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x31, 0), (0x21, 0x13), (0x21, 0x41)] {
        let bytes = v2(command, family, &[TCP4]);
        assert_eq!(parse(&bytes), Err(HeaderError::Unknown), "{command:x} {family:x}");
    }
    for (family, length) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x31, 215)] {
        let bytes = v2(0x21, family, &[&vec![0; length]]);
        assert_eq!(parse(&bytes), Err(HeaderError::Bounds), "{family:x}");
    }
    // The wrong command is known before the rest has come.
    assert_eq!(parse(&v2(0x2f, 0, &[])[..13]), Err(HeaderError::Unknown));
}

#[test]
fn version_2_may_have_4_kib_and_no_more() {
    let padded = |length: usize| v2(0x21, 0x11, &[TCP4, &tlv(4, &vec![0; length - 16 - 12 - 3])]);
    assert_eq!(header(&padded(LONGEST)).length, LONGEST);
    assert_eq!(parse(&padded(LONGEST + 1)[..16]), Err(HeaderError::TooLong));
    let longest = [SIGNATURE, b"\x20\0\xff\xff"].concat();
    assert_eq!(parse(&longest), Err(HeaderError::TooLong));
}

#[test]
fn authority_and_unique_id_are_kept_and_others_skipped() {
    let tlvs = [
        tlv(0xe0, b"unknown"),
        tlv(2, b"example.com"),
        tlv(5, b"\x00id"),
        tlv(2, b"second"),
        tlv(0x20, b"\x01\0\0\0\0"),
        tlv(4, b""),
    ];
    let found = header(&v2(0x21, 0x11, &[TCP4, &tlvs.concat()]));
    assert_eq!(found.authority.as_deref(), Some(&b"example.com"[..]));
    assert_eq!(found.unique_id.as_deref(), Some(&b"\x00id"[..]));
}

#[test]
fn a_tlv_that_leaves_the_header_is_refused() {
    let wrong = [
        b"\x04".to_vec(),
        b"\x04\0".to_vec(),
        b"\x04\0\x01".to_vec(),
        b"\xff\xff\xff1234".to_vec(),
        [tlv(4, b"fits"), b"\x04\0\x05four".to_vec()].concat(),
        tlv(2, &[b'a'; 256]),
        tlv(5, &[0; 129]),
    ];
    for tlvs in wrong {
        let bytes = [&v2(0x21, 0x11, &[TCP4, &tlvs])[..], b"payload behind it"].concat();
        assert_eq!(parse(&bytes), Err(HeaderError::Bounds), "{tlvs:?}");
    }
    assert!(parse(&v2(0x21, 0x11, &[TCP4, &tlv(2, &[b'a'; 255]), &tlv(5, &[0; 128])])).is_ok());
}

#[test]
fn a_checksum_must_be_right_wherever_it_stands() {
    let (before, after) = (tlv(2, b"example.com"), tlv(4, b"pad"));
    for (before, after) in [(&[][..], &[][..]), (&before, &[]), (&[], &after), (&before, &after)] {
        let right = with_checksum(before, after);
        assert!(header(&right).ends.is_some());
        for at in 16..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            // A flipped bit in a kind or a length makes it no checksum, or out of bounds.
            let is_value = at < 28 || (28 + before.len() + 3..28 + before.len() + 7).contains(&at);
            if is_value {
                assert_eq!(parse(&wrong), Err(HeaderError::Checksum), "byte {at}");
            }
        }
    }
    for value in [&[][..], &[0; 3], &[0; 5]] {
        let bytes = v2(0x21, 0x11, &[TCP4, &tlv(3, value)]);
        assert_eq!(parse(&bytes), Err(HeaderError::Checksum));
    }
    // One is enough: many would cost the square of the header.
    let twice = with_checksum(&[], &tlv(3, &[0; 4]));
    assert_eq!(parse(&twice), Err(HeaderError::Checksum));
}

#[test]
fn a_second_header_is_payload() {
    let lines: [&[u8]; 2] = [b"PROXY UNKNOWN\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"];
    for first in lines.iter().map(|line| line.to_vec()).chain([v2(0x21, 0x11, &[TCP4])]) {
        for second in [lines[1].to_vec(), v2(0x20, 0, &[])] {
            assert_eq!(header(&[&first[..], &second].concat()).length, first.len());
        }
    }
}

#[test]
fn headers_are_written_byte_for_byte() {
    let v4 = Some(ends("192.0.2.1:4660", "198.51.100.2:443"));
    let v6 = Some(ends("[2001:db8::1]:1", "[::1]:65535"));
    let mapped = Some(ends("[::ffff:192.0.2.1]:4660", "[::ffff:198.51.100.2]:443"));
    let mixed = Some(ends("192.0.2.1:1", "[::1]:2"));
    let lines: [(Option<Ends>, &[u8]); 5] = [
        (v4, b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"),
        (mapped, b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"),
        (v6, b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
        (mixed, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"),
        (None, b"PROXY UNKNOWN\r\n"),
    ];
    for (ends, line) in lines {
        assert_eq!(written(Version::V1, ends), line);
    }
    assert_eq!(written(Version::V2, v4), v2(0x21, 0x11, &[TCP4]));
    assert_eq!(written(Version::V2, mapped), v2(0x21, 0x11, &[TCP4]));
    let first = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let second = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let tail = [0, 1, 0xff, 0xff];
    assert_eq!(written(Version::V2, v6), v2(0x21, 0x21, &[&first, &second, &tail]));
    assert_eq!(written(Version::V2, None), v2(0x21, 0, &[]));
    assert_eq!(local(Version::V2), v2(0x20, 0, &[]));
    assert_eq!(local(Version::V1), b"PROXY UNKNOWN\r\n");
}

fn any_ends() -> impl Strategy<Value = Ends> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
    (prop_oneof![v4, v6], any::<u16>(), any::<u16>()).prop_map(|((a, b), from, to)| Ends {
        source: SocketAddr::new(a, from),
        destination: SocketAddr::new(b, to),
    })
}

fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2)]
}

/// Bytes that get past the first checks, and then go anywhere.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    let fixed = prop_oneof![
        Just(b"PROXY ".to_vec()),
        Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
        (0..0x40_u8, 0..0x40_u8, 0..0x140_u16).prop_map(|(command, family, length)| {
            [SIGNATURE, &[command, family], &length.to_be_bytes()].concat()
        }),
        Just([SIGNATURE, &[0x21, 0x11, 0, 60], TCP4].concat()),
        Just(Vec::new()),
    ];
    (fixed, noise).prop_map(|(fixed, noise)| [fixed, noise].concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(version in any_version(), ends in any_ends(), tail: Vec<u8>) {
        let bytes = written(version, Some(ends));
        let whole = [&bytes[..], &tail].concat();
        let found = header(&whole);
        prop_assert_eq!(found.ends, Some(ends.canonical()));
        prop_assert_eq!(found.length, bytes.len());
    }

    #[test]
    fn every_prefix_of_a_header_needs_more(version in any_version(), ends in any_ends()) {
        for bytes in [written(version, Some(ends)), with_checksum(&tlv(2, b"a"), &tlv(9, b""))] {
            for length in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..length]), Ok(None), "{} bytes", length);
            }
        }
    }

    /// More bytes never change a verdict.
    #[test]
    fn hostile_bytes_are_judged_the_same_however_they_come(bytes in hostile()) {
        let whole = parse(&bytes);
        for length in 0..bytes.len() {
            let part = parse(&bytes[..length]);
            prop_assert!(part == Ok(None) || part == whole, "{length} bytes: {part:?}, {whole:?}");
        }
        if let Ok(Some(header)) = whole {
            prop_assert!(header.length <= bytes.len().min(LONGEST));
        }
    }
}
