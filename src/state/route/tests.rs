use proptest::prelude::*;

use super::*;

fn names(texts: &[&str]) -> Vec<NamePattern> {
    texts.iter().map(|text| NamePattern::parse(text).unwrap()).collect()
}

fn origins(texts: &[&str]) -> Vec<Origin> {
    texts.iter().map(|text| Origin::parse(text).unwrap()).collect()
}

fn sni(texts: &[&str]) -> Match {
    Match { sni: names(texts), ..Match::default() }
}

fn source(texts: &[&str]) -> Match {
    Match { source: origins(texts), ..Match::default() }
}

fn alpn(texts: &[&str]) -> Match {
    let alpn = texts.iter().map(|text| text.as_bytes().into()).collect();
    Match { alpn, ..Match::default() }
}

fn any() -> Match {
    Match::default()
}

fn hello(name: &str, protocols: &[&str]) -> ClientHello {
    let sni = Some(name).filter(|name| !name.is_empty()).map(Into::into);
    ClientHello { sni, alpn: protocols.iter().collect() }
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// Which route a TLS client gets that asks for `name`.
fn by_name(routes: &Routes, name: &str) -> Option<usize> {
    by_hello(routes, &hello(name, &[]))
}

fn by_hello(routes: &Routes, hello: &ClientHello) -> Option<usize> {
    routes.first_match(&Caller { source: ip("192.0.2.1"), port: Some(443), hello: Some(hello) })
}

/// Which route a client gets that sends no ClientHello.
fn by_source(routes: &Routes, source: Option<IpAddr>) -> Option<usize> {
    routes.first_match(&Caller { source, port: Some(443), hello: None })
}

#[test]
fn the_first_route_whose_name_matches_wins() {
    let routes = Routes::new(vec![
        sni(&["api.example.com"]),
        sni(&["*.api.example.com", "*.example.com"]),
        sni(&["www.example.com"]),
        sni(&["*"]),
        any(),
    ]);
    assert_eq!(by_name(&routes, "api.example.com"), Some(0));
    assert_eq!(by_name(&routes, "v1.api.example.com"), Some(1));
    assert_eq!(by_name(&routes, "www.example.com"), Some(1), "the order decides, not exactness");
    assert_eq!(by_name(&routes, "example.com"), Some(3));
    assert_eq!(by_name(&routes, ""), Some(4), "no name is not any name");
    assert_eq!(by_source(&routes, ip("192.0.2.1")), Some(4));
}

#[test]
fn without_a_route_that_matches_there_is_none() {
    let routes = Routes::new(vec![sni(&["a.b"]), source(&["10.0.0.0/8"])]);
    assert_eq!(by_name(&routes, "c.d"), None);
    assert_eq!(by_source(&routes, ip("::ffff:10.0.0.1")), Some(1));
    assert_eq!(by_source(&Routes::new(Vec::new()), None), None);
    assert_eq!(by_source(&Routes::new(vec![any()]), None), Some(0));
}

#[test]
fn any_protocol_offered_is_enough() {
    let routes = Routes::new(vec![alpn(&["h2", "h3"]), alpn(&["http/1.1"])]);
    assert_eq!(by_hello(&routes, &hello("", &["http/1.1", "h3"])), Some(0));
    assert_eq!(by_hello(&routes, &hello("", &["http/1.1"])), Some(1));
    assert_eq!(by_hello(&routes, &hello("", &["spdy"])), None);
    assert_eq!(by_hello(&routes, &hello("", &[])), None);
}

#[test]
fn a_unix_client_matches_unix_alone() {
    let routes = Routes::new(vec![source(&["0.0.0.0/0", "::/0"]), source(&["unix"])]);
    assert_eq!(by_source(&routes, None), Some(1));
    assert_eq!(by_source(&routes, ip("fd00::1")), Some(0));
}

#[test]
fn tls_tells_clients_that_begin_with_a_hello_from_others() {
    let is = |tls| Match { tls: Some(tls), ..Match::default() };
    let routes = Routes::new(vec![is(false), is(true)]);
    assert_eq!(by_source(&routes, None), Some(0));
    assert_eq!(by_name(&routes, ""), Some(1));
}

#[test]
fn all_keys_must_hold_and_those_that_do_not_are_named() {
    let route = Match {
        sni: names(&["a.b"]),
        alpn: vec![b"h2"[..].into()],
        tls: Some(true),
        source: origins(&["10.0.0.0/8"]),
        port: vec![443],
    };
    let routes = Routes::new(vec![route]);
    let (right, wrong) = (hello("a.b", &["h2"]), hello("c.d", &["h3"]));
    let caller = Caller { source: ip("10.0.0.1"), port: Some(443), hello: Some(&right) };
    assert_eq!((routes.first_match(&caller), routes.misses(0, &caller)), (Some(0), vec![]));
    let others = [
        (Caller { source: ip("11.0.0.1"), ..caller }, vec![Key::Source]),
        (Caller { port: Some(444), ..caller }, vec![Key::Port]),
        (Caller { port: None, ..caller }, vec![Key::Port]),
        (Caller { hello: Some(&wrong), ..caller }, vec![Key::Sni, Key::Alpn]),
        (Caller { hello: None, ..caller }, vec![Key::Sni, Key::Alpn, Key::Tls]),
    ];
    for (caller, misses) in others {
        assert_eq!((routes.first_match(&caller), routes.misses(0, &caller)), (None, misses));
    }
}

#[test]
fn nothing_is_waited_for_where_no_hello_can_matter() {
    let plain = Routes::new(vec![source(&["10.0.0.0/8"]), any()]);
    assert!(!plain.needs_peek());
    let routes = Routes::new(vec![source(&["10.0.0.0/8"]), sni(&["a.b"]), any()]);
    assert!(routes.needs_peek());
    assert_eq!(routes.before_peek(ip("10.0.0.1"), None), Early::Decided(Some(0)));
    assert_eq!(routes.before_peek(ip("11.0.0.1"), None), Early::NeedsHello);
    assert_eq!(plain.before_peek(None, None), Early::Decided(Some(1)));
    let nothing = Routes::new(vec![Match { tls: Some(true), ..source(&["10.0.0.0/8"]) }]);
    assert_eq!(nothing.before_peek(ip("11.0.0.1"), None), Early::Decided(None));
}

/// What is said of the last of these routes.
fn said_of_last(routes: Vec<Match>, ports: &[u16]) -> String {
    let last = routes.len() - 1;
    let suspicions = Routes::new(routes).suspicions(ports);
    assert!(suspicions.iter().all(|suspicion| suspicion.route() == last), "{suspicions:?}");
    suspicions.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_route_that_can_never_match_is_suspicious() {
    let covered = "this route can never match: routes[0] before it takes all of it";
    let tls = |tls| Match { tls: Some(tls), ..any() };
    let cases = [
        vec![any(), sni(&["a.b"])],
        vec![any(), any()],
        vec![sni(&["*.b"]), sni(&["a.b"])],
        vec![sni(&["*.b"]), sni(&["*.a.b", "c.b"])],
        vec![sni(&["*"]), sni(&["*"])],
        vec![source(&["10.0.0.0/8", "unix"]), source(&["unix", "10.1.0.0/16"])],
        vec![alpn(&["h2", "h3"]), Match { sni: names(&["a.b"]), ..alpn(&["h3"]) }],
        vec![tls(true), sni(&["a.b"])],
        vec![tls(false), Match { tls: Some(false), ..source(&["unix"]) }],
        vec![
            Match { port: vec![1, 2], ..any() },
            Match { port: vec![2], source: origins(&["unix"]), ..any() },
        ],
    ];
    for routes in cases {
        assert_eq!(said_of_last(routes.clone(), &[]), covered, "{routes:?}");
    }
    let two = vec![sni(&["a.b"]), sni(&["*.c"]), sni(&["a.b", "d.c"])];
    let expected = "this route can never match: routes[0] and routes[1] before it takes all of it";
    assert_eq!(said_of_last(two, &[]), expected);
    let contradiction = vec![Match { tls: Some(false), ..sni(&["a.b"]) }];
    assert!(said_of_last(contradiction, &[]).contains("what is no TLS has no sni"));
    let ports = vec![Match { port: vec![80], ..any() }];
    assert!(said_of_last(ports.clone(), &[443]).contains("none of its ports"));
    assert_eq!(said_of_last(ports, &[]), "");
}

#[test]
fn a_shadowed_name_is_suspicious_on_its_own() {
    let routes = vec![sni(&["*.example.com"]), sni(&["a.example.com", "b.org", "*.c.example.com"])];
    let said = said_of_last(routes, &[]);
    assert_eq!(
        said,
        "\"a.example.com\" can never match here: routes[0] before it takes it; \
         \"*.c.example.com\" can never match here: routes[0] before it takes it"
    );
}

#[test]
fn a_route_that_may_match_is_not_suspicious() {
    let tls = |tls| Match { tls: Some(tls), ..any() };
    let cases = [
        vec![sni(&["a.b"]), sni(&["*.b"]), sni(&["*"]), any()],
        vec![source(&["10.0.0.0/8"]), source(&["10.0.0.0/7", "unix"]), any()],
        vec![Match { source: origins(&["10.0.0.0/8"]), ..sni(&["a.b"]) }, sni(&["a.b"])],
        vec![tls(true), tls(false)],
        vec![tls(true), any()],
        vec![alpn(&["h2"]), alpn(&["h2", "h3"])],
        vec![sni(&["*.b"]), sni(&["b"])],
    ];
    for routes in cases {
        assert_eq!(Routes::new(routes.clone()).suspicions(&[443]), [], "{routes:?}");
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", "[ab]\\.[cd]", "[ab]\\.[ab]\\.[cd]"]
}

fn any_match() -> impl Strategy<Value = Match> {
    let pattern = prop_oneof![
        any_name(),
        any_name().prop_map(|name| format!("*.{name}")),
        Just("*".to_owned())
    ];
    let pattern = pattern.prop_map(|text| NamePattern::parse(&text).unwrap());
    let origin = prop_oneof![
        Just("unix".to_owned()),
        (0..4_u8, 0..4_u8, 6..=32_u8).prop_map(|(a, b, bits)| format!("{a}.0.0.{b}/{bits}")),
        (0..4_u8, 14..=128_u8).prop_map(|(a, bits)| format!("{a}::/{bits}")),
    ];
    let origin = origin.prop_map(|text| Origin::parse(&text).unwrap());
    let alpn = prop_oneof![Just(&b"h2"[..]), Just(&b"h3"[..])].prop_map(Into::into);
    (
        prop::collection::vec(pattern, 0..3),
        prop::collection::vec(alpn, 0..2),
        prop::option::weighted(0.2, prop::bool::ANY),
        prop::collection::vec(origin, 0..3),
        prop::collection::vec(1..4_u16, 0..2),
    )
        .prop_map(|(sni, alpn, tls, source, port)| Match { sni, alpn, tls, source, port })
}

#[derive(Clone, Debug)]
struct Asked(Option<IpAddr>, Option<u16>, Option<ClientHello>);

fn any_caller() -> impl Strategy<Value = Asked> {
    let ip = prop_oneof![
        (0..4_u8, 0..4_u8).prop_map(|(a, b)| format!("{a}.0.0.{b}")),
        (0..4_u8, 0..4_u8).prop_map(|(a, b)| format!("::ffff:{a}.0.0.{b}")),
        (0..4_u8, 0..4_u8).prop_map(|(a, b)| format!("{a}::{b}")),
    ];
    let ip = ip.prop_map(|text| text.parse().unwrap());
    let hello = (prop::option::of(any_name()), prop::collection::vec("h[23]", 0..3));
    let hello = hello.prop_map(|(sni, alpn)| ClientHello {
        sni: sni.map(Into::into),
        alpn: alpn.iter().collect(),
    });
    (prop::option::of(ip), prop::option::of(1..4_u16), prop::option::of(hello))
        .prop_map(|(source, port, hello)| Asked(source, port, hello))
}

proptest! {
    #[test]
    fn the_tables_agree_with_going_through_the_list(
        matches in prop::collection::vec(any_match(), 0..150),
        asked in prop::collection::vec(any_caller(), 1..20),
    ) {
        let routes = Routes::new(matches.clone());
        for Asked(source, port, hello) in asked {
            let caller = Caller { source, port, hello: hello.as_ref() };
            let expected = matches.iter().position(|one| one.misses(&caller).is_empty());
            prop_assert_eq!(routes.first_match(&caller), expected);
            match routes.before_peek(source, port) {
                Early::Decided(early) => prop_assert_eq!(early, expected),
                Early::NeedsHello => prop_assert!(routes.needs_peek()),
            }
        }
    }

    #[test]
    fn what_is_said_never_to_match_never_does(
        matches in prop::collection::vec(any_match(), 1..12),
        asked in prop::collection::vec(any_caller(), 1..40),
    ) {
        let routes = Routes::new(matches);
        let suspicions = routes.suspicions(&[1, 2, 3]);
        for Asked(source, port, hello) in &asked {
            let caller = Caller { source: *source, port: *port, hello: hello.as_ref() };
            let found = routes.first_match(&caller);
            for suspicion in &suspicions {
                let is_this = found == Some(suspicion.route());
                match suspicion {
                    Suspicion::Shadowed { name, .. } => {
                        let asked = hello.as_ref().and_then(|hello| hello.sni.as_deref());
                        let own = &routes.matches[suspicion.route()].sni;
                        let others = own.iter().filter(|other| *other != name);
                        let is_other =
                            asked.is_some_and(|asked| others.clone().any(|o| o.matches(asked)));
                        prop_assert!(!is_this || is_other, "{:?}", suspicion);
                    }
                    _ => prop_assert!(!is_this, "{:?} {:?}", suspicion, caller),
                }
            }
        }
    }
}
