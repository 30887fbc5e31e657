use proptest::prelude::*;

use super::*;

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_network_is_written_with_its_prefix_or_as_one_address() {
    let written = [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("fd00::/8", "fd00::/8"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::/0", "::/0"),
        ("::ffff:0:0/95", "::fffe:0:0/95"),
    ];
    for (text, printed) in written {
        assert_eq!(cidr(text).to_string(), printed, "{text}");
    }
}

#[test]
fn what_is_no_network_gets_a_hint() {
    let hints = [
        ("10.0.0.0/33", "after the slash stands a number of bits from 0 to 32"),
        ("fd00::/129", "after the slash stands a number of bits from 0 to 128"),
        ("10.0.0.0/255.0.0.0", "the number of bits, not a mask: 10.0.0.0/8"),
        ("10.0.0.1:80", "did you mean 10.0.0.1?"),
        ("[fd00::]/8", "did you mean fd00::/8?"),
        ("10.*", "write a network such as 10.0.0.0/8"),
        ("fe80::1%eth0/64", "without a scope"),
        ("ten", ""),
        ("", ""),
    ];
    for (text, hint) in hints {
        assert_eq!(Cidr::parse(text), Err(hint.to_owned()), "{text}");
    }
}

#[test]
fn an_origin_is_a_network_or_unix() {
    assert_eq!(Origin::parse("unix"), Ok(Origin::Unix));
    assert_eq!(Origin::parse("10.0.0.0/8"), Ok(Origin::Net(cidr("10.0.0.0/8"))));
    assert!(Origin::parse("unix:/run/a.sock").unwrap_err().contains("\"unix\""));
    let origins = Origins::new(&[Origin::Unix, Origin::Net(cidr("10.0.0.0/8"))]);
    assert!(origins.contains(None) && origins.contains(Some(ip("10.1.1.1"))));
    assert!(!origins.contains(Some(ip("11.1.1.1"))));
    assert!(!Origins::new(&[Origin::Net(cidr("::/0"))]).contains(None));
}

#[test]
fn a_mapped_address_is_an_ipv4_address_and_never_an_ipv6_one() {
    let v4: CidrSet = [cidr("10.0.0.0/8")].into_iter().collect();
    assert!(
        v4.contains(ip("::ffff:10.1.2.3")) && cidr("10.0.0.0/8").contains(ip("::ffff:10.0.0.1"))
    );
    let v6: CidrSet = [cidr("::/0")].into_iter().collect();
    assert!(v6.contains(ip("::1")) && !v6.contains(ip("::ffff:10.1.2.3")));
    assert!(!v6.contains(ip("10.1.2.3")));
}

#[test]
fn the_longest_prefix_comes_first_and_its_outer_ones_follow() {
    let texts = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.1.0/24", "10.0.255.0/24"];
    let set: CidrSet = texts.iter().map(|text| cidr(text)).collect();
    let found = |text: &str| -> Vec<String> {
        set.matches(ip(text)).map(|at| set.cidrs()[at].to_string()).collect()
    };
    assert_eq!(found("10.0.1.255"), ["10.0.1.0/24", "10.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]);
    assert_eq!(found("10.0.255.255")[0], "10.0.255.0/24");
    assert_eq!(found("10.1.0.0"), ["10.0.0.0/8", "0.0.0.0/0"]);
    assert_eq!(found("255.255.255.255"), ["0.0.0.0/0"]);
    assert_eq!(found("::1"), Vec::<String>::new());
    let covering: Vec<_> = set.covering(cidr("10.0.0.0/12")).collect();
    assert_eq!(
        covering.iter().map(|at| set.cidrs()[*at]).collect::<Vec<_>>(),
        [cidr("10.0.0.0/8"), cidr("0.0.0.0/0")]
    );
}

/// Networks and addresses that often meet: few distinct bits, at both ends of the line.
fn any_ip() -> impl Strategy<Value = IpAddr> {
    let v4 = (any::<bool>(), 0..16_u32, 0..16_u32).prop_map(|(is_high, top, low)| {
        let fill = if is_high { 0x0fff_fff0 } else { 0 };
        IpAddr::V4(Ipv4Addr::from_bits((top << 28) | fill | low))
    });
    let v6 = (any::<bool>(), 0..16_u128, 0..16_u128).prop_map(|(is_high, top, low)| {
        let fill = if is_high { (u128::MAX << 8) >> 4 } else { 0 };
        IpAddr::V6(Ipv6Addr::from_bits((top << 124) | fill | low))
    });
    let mapped = any::<u8>()
        .prop_map(|low| IpAddr::V6(Ipv4Addr::from([low & 0xf0, 0, 0, low & 15]).to_ipv6_mapped()));
    prop_oneof![v4, v6, mapped]
}

fn any_cidr() -> impl Strategy<Value = Cidr> {
    (any_ip(), 0..=8_u8, any::<bool>()).prop_map(|(ip, bits, is_long)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let length = if is_long { longest - bits } else { bits };
        Cidr::from(IpNet::new(ip, length).unwrap())
    })
}

proptest! {
    #[test]
    fn the_set_agrees_with_asking_each_network(
        cidrs in prop::collection::vec(any_cidr(), 0..40),
        ips in prop::collection::vec(any_ip(), 1..20),
    ) {
        let set: CidrSet = cidrs.iter().copied().collect();
        for ip in ips {
            let found: Vec<_> = set.matches(ip).map(|at| set.cidrs()[at]).collect();
            let mut expected: Vec<_> = cidrs.iter().copied().filter(|c| c.contains(ip)).collect();
            expected.sort_by_key(|c| std::cmp::Reverse(c.0.prefix_len()));
            expected.dedup();
            prop_assert_eq!(&found, &expected, "{}", ip);
        }
    }

    #[test]
    fn what_is_printed_is_read_again(cidr in any_cidr()) {
        prop_assert_eq!(Cidr::parse(&cidr.to_string()), Ok(cidr));
    }
}
