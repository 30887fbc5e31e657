use proptest::prelude::*;

use super::*;

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

#[test]
fn addresses_are_read() {
    for text in ["10.0.0.11:9501", "[2001:db8::1]:9501", "[fe80::1%3]:80"] {
        assert_eq!(Address::parse(text), Ok(tcp(text)), "{text}");
        assert_eq!(Bind::parse(text).map(|bind| bind.addresses()), Ok(vec![tcp(text)]), "{text}");
    }
    let unix = Address::Unix(PathBuf::from("/run/app.sock"));
    assert_eq!(Address::parse("unix:/run/app.sock"), Ok(unix.clone()));
    assert_eq!(unix.to_string(), "unix:/run/app.sock");
}

#[test]
fn a_range_stands_for_each_of_its_ports() {
    let bind = Bind::parse("0.0.0.0:9501-9503").unwrap();
    assert_eq!(bind.count(), 3);
    assert_eq!(
        bind.addresses(),
        vec![tcp("0.0.0.0:9501"), tcp("0.0.0.0:9502"), tcp("0.0.0.0:9503")]
    );
    assert_eq!(Bind::parse("[::]:1-65535").unwrap().count(), 65_535);
    assert_eq!(Bind::parse("127.0.0.1:0").unwrap().addresses(), vec![tcp("127.0.0.1:0")]);
}

#[test]
fn what_cannot_be_reached_gets_a_hint() {
    for (text, hint) in [
        ("10.0.0.11", "the port is missing; write 10.0.0.11:9501 for port 9501"),
        ("::1", "the port is missing; write [::1]:9501 for port 9501"),
        ("::1:9501", "an IPv6 address stands in brackets: \"[::1]:9501\""),
        ("[::1]", "the port is missing; write [::1]:9501 for port 9501"),
        ("10.0.0.11:", "the port is missing"),
        ("10.0.0.11:0", "nothing can be reached at port 0"),
        ("10.0.0.11:65536", "a port is a whole number from 1 to 65535"),
        ("10.0.0.11:+80", "a port is a whole number from 1 to 65535"),
        ("10.0.0.11:80-81", "a backend has one port; write one backend for each port"),
        ("2001:db8::1%2:80", ""),
        ("app.internal:9501", NO_NAMES),
        ("app", NO_NAMES),
        ("localhost:80", "did you mean \"127.0.0.1:80\"?"),
        ("http://10.0.0.1:80", NO_SCHEME),
        ("10.0.0.256:80", "an IPv4 address is four numbers from 0 to 255 without leading zeros"),
        ("[10.0.0.1]:80", "without brackets: 10.0.0.1:80"),
        ("[::g]:80", "what stands in brackets is no IPv6 address"),
        ("/run/app.sock", "did you mean \"unix:/run/app.sock\"?"),
        ("unix:", "the path is missing"),
        ("unix:app.sock", "the path must be absolute, as in unix:/run/app.sock"),
        ("", ""),
    ] {
        assert_eq!(Address::parse(text), Err(hint.to_owned()), "{text}");
    }
}

#[test]
fn what_cannot_be_bound_gets_a_hint() {
    for (text, hint) in [
        ("9501", "did you mean \"0.0.0.0:9501\"?"),
        (":9501", "did you mean \"0.0.0.0:9501\"?"),
        ("*:9501", "did you mean \"0.0.0.0:9501\"?"),
        ("0.0.0.0:9504-9501", "the range goes down; did you mean 9501-9504?"),
        ("0.0.0.0:0-5", "a range of ports starts at 1 or more"),
        ("[::ffff:10.0.0.1]:80", "write the IPv4 address as it is: 10.0.0.1"),
    ] {
        assert_eq!(Bind::parse(text), Err(hint.to_owned()), "{text}");
    }
}

#[test]
fn a_unix_path_has_at_most_107_bytes() {
    let path = |bytes: usize| format!("unix:/{}", "x".repeat(bytes - 1));
    assert!(Address::parse(&path(107)).is_ok());
    assert_eq!(
        Bind::parse(&path(108)),
        Err("a path of 108 bytes; unix sockets allow 107".to_owned())
    );
}

#[test]
fn a_local_address_has_no_port() {
    assert_eq!(parse_ip("10.0.0.2"), Ok("10.0.0.2".parse().unwrap()));
    assert_eq!(parse_ip("10.0.0.2:80"), Err("without a port: 10.0.0.2".to_owned()));
    assert_eq!(parse_ip("[::1]"), Err("without brackets: ::1".to_owned()));
    assert_eq!(parse_ip("client"), Err(String::new()));
}

proptest! {
    #[test]
    fn every_address_survives_the_round_trip(ip: IpAddr, port in 1_u16..) {
        let address = Address::Tcp(SocketAddr::new(ip, port));
        prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
    }

    #[test]
    fn no_text_panics(text in "\\PC*", near in "(unix:)?[\\[\\]0-9a-f:.*/-]{0,24}") {
        for text in [text, near] {
            let _ = Address::parse(&text);
            let _ = Bind::parse(&text);
            let _ = parse_ip(&text);
        }
    }
}
