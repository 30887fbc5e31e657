use super::super::tests::{config, problem, problems};

/// A file with these listeners, and these backends in the pool `app`.
fn file(listeners: &[&str], backends: &str) -> String {
    let mut text = "listeners:\n".to_owned();
    for (index, bind) in listeners.iter().enumerate() {
        text += &format!("  l{index}: {{ bind: {bind}, pool: app }}\n");
    }
    text + &format!("pools: {{ app: {{ backends: {backends} }} }}\n")
}

const FAR: &str = "[10.0.0.1:9501]";

#[test]
fn addresses_that_clash() {
    for (first, second) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("\"[::]:80\"", "\"[::1]:80\""),
        ("127.0.0.1:80-90", "127.0.0.1:90"),
        ("0.0.0.0:80", "127.0.0.1:70-80"),
        ("unix:/run/a", "unix:/run/a"),
    ] {
        let problem = problem(&file(&[first, second], FAR));
        assert!(problem.contains("is taken by listener \"l0\" (first on line 2)"), "{problem}");
        assert!(problem.starts_with("3:15: listeners.l1.bind: "), "{problem}");
    }
}

#[test]
fn addresses_that_do_not_clash() {
    for (first, second) in [
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "\"[::]:80\""),
        ("127.0.0.1:80", "\"[::1]:80\""),
        ("0.0.0.0:0", "127.0.0.1:0"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:80-89", "127.0.0.1:90-99"),
        ("unix:/run/a", "unix:/run/b"),
    ] {
        config(&file(&[first, second], FAR));
    }
}

#[test]
fn an_address_is_listed_once() {
    let problem = problem(&file(&["[127.0.0.1:80, 127.0.0.1:80]"], FAR));
    assert_eq!(
        problem,
        "2:30: listeners.l0.bind[1]: 127.0.0.1:80 is bound twice (first on line 2)"
    );
}

#[test]
fn listeners_that_forward_to_themselves() {
    for (bind, backends) in [
        ("127.0.0.1:80", "[127.0.0.1:80]"),
        ("0.0.0.0:80", "[10.0.0.1:1, 127.0.0.1:80]"),
        ("0.0.0.0:80", "[127.0.0.9:80]"),
        ("0.0.0.0:80", "[0.0.0.0:80]"),
        ("127.0.0.1:80", "[0.0.0.0:80]"),
        ("0.0.0.0:70-80", "[{ address: 127.0.0.1:75 }]"),
        ("\"[::]:80\"", "[\"[::1]:80\"]"),
        ("\"[::1]:80\"", "[\"[::]:80\"]"),
        ("0.0.0.0:80", "[\"[::ffff:127.0.0.1]:80\"]"),
        ("10.0.0.1:80", "[10.0.0.1:80]"),
        ("unix:/run/a", "[unix:/run/a]"),
        ("[127.0.0.1:1, 127.0.0.1:80]", "[127.0.0.1:80]"),
    ] {
        let problem = problem(&file(&[bind], backends));
        assert!(problem.contains("forwards to itself"), "{problem}");
        assert!(problem.contains("listeners.l0.bind"), "{problem}");
    }
}

#[test]
fn listeners_that_do_not_forward_to_themselves() {
    for (bind, backends) in [
        ("127.0.0.1:80", "[127.0.0.1:81]"),
        ("127.0.0.1:80", "[127.0.0.2:80]"),
        ("0.0.0.0:80", "[10.0.0.1:80]"),
        ("0.0.0.0:80", "[\"[::1]:80\"]"),
        ("\"[::]:80\"", "[127.0.0.1:80]"),
        ("127.0.0.1:0", "[127.0.0.1:80]"),
    ] {
        config(&file(&[bind], backends));
    }
}

#[test]
fn rules_are_told_together_with_what_is_wrong_elsewhere() {
    let text = "\
listeners:
  a: { bind: 127.0.0.1:80, pool: nowhere, typo: 1 }
  b: { bind: 127.0.0.1:80, pool: app }
pools:
  app: { backends: [{ address: 10.0.0.1:1, weight: 0 }], strategy: { random: { x: 1 } } }
  bad: { backends: [{ address: x, name: n }, { address: 10.0.0.1:1, name: n, weight: -1 }] }
";
    let problems = problems(text);
    for part in [
        "2:34: listeners.a.pool: unknown pool \"nowhere\"",
        "2:43: listeners.a.typo: unknown key",
        "3:14: listeners.b.bind: 127.0.0.1:80 is taken",
        "5:20: pools.app.backends: every backend has weight 0",
        "5:80: pools.app.strategy.random.x: unknown key",
        "6:32: pools.bad.backends[0].address: expected",
        "6:75: pools.bad.backends[1]: duplicate backend name \"n\"",
        "6:86: pools.bad.backends[1].weight: expected",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(part)), "{part}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 8, "{problems:#?}");
}

#[test]
fn a_weight_that_cannot_be_read_is_not_taken_for_zero() {
    let problem = problem(&file(&["127.0.0.1:80"], "[{ address: 10.0.0.1:1, weight: x }]"));
    assert!(problem.contains("weight: expected a whole number"), "{problem}");
}

#[test]
fn the_number_of_bound_addresses_is_bounded() {
    let problem = problem(&file(&["127.0.0.1:1-65535", "127.0.0.2:1-65535"], FAR));
    assert!(problem.contains("more than 65536 addresses to listen on"), "{problem}");
}

#[test]
fn a_listener_that_forwards_to_itself_by_a_route_is_found() {
    let text = "\
listeners:
  a:
    bind: 127.0.0.1:80
    routes: [{ match: { tls: true }, pool: far }, { pool: near }]
pools: { far: { backends: [10.0.0.1:80] }, near: { backends: [127.0.0.1:80] } }
";
    let problem = problem(text);
    assert!(problem.starts_with("3:11: listeners.a.bind: the listener forwards to itself"));
}

#[test]
fn the_endpoint_listens_where_no_listener_does_and_asks_for_a_token() {
    let with = |admin: &str| file(&["0.0.0.0:9900"], FAR) + &format!("admin: {admin}\n");
    for (admin, start) in [
        ("{}", "4:8: admin.bind: 127.0.0.1:9900 is taken by listener \"l0\""),
        ("{ bind: 10.0.0.1:9900, token_file: /t }", "4:16: admin.bind: 10.0.0.1:9900 is taken"),
        ("{ bind: 10.0.0.1:9901 }", "4:16: admin.token_file: the key is missing"),
        ("{ bind: \"[::]:9900\" }", "4:16: admin.token_file: the key is missing"),
        ("{ bind: 127.0.0.1:9901-9902 }", "4:16: admin.bind: expected an address"),
        ("on", "4:8: admin: expected a section with the keys bind, token_file"),
    ] {
        let problem = problem(&with(admin));
        assert!(problem.starts_with(start), "{problem}");
    }
    for admin in ["off", "{ bind: 127.0.0.1:0 }", "{ bind: \"[::1]:9900\" }", "{ bind: unix:/a }"] {
        config(&with(admin));
    }
    config(&with("{ bind: 0.0.0.0:9901, token_file: /t }"));
}

#[test]
fn a_listener_has_a_pool_or_routes() {
    let listener = |keys: &str| {
        format!(
            "defaults: {{ listener: {{ over_limit: wait }} }}\n\
             listeners: {{ a: {{ bind: 127.0.0.1:80, {keys} }} }}\n\
             pools: {{ app: {{ backends: {FAR} }}, other: {{ backends: {FAR} }} }}\n"
        )
    };
    assert_eq!(
        problem(&listener("")),
        "2:17: listeners.a: a key is missing; expected one of pool, routes"
    );
    assert_eq!(
        problem(&listener("routes: [{ pool: app }], pool: app")),
        "2:64: listeners.a.pool: expected one of pool, routes, found \"routes\" too"
    );
    assert_eq!(
        problem(&listener("routes: []")),
        "2:47: listeners.a.routes: the list is empty; expected at least 1"
    );
    let inherited = |keys: &str, default: &str| {
        config(&listener(keys).replace("over_limit: wait", default)).listeners["a"].routes.clone()
    };
    assert_eq!(inherited("", "pool: other")[0].pool, "other");
    assert_eq!(inherited("", "routes: [{ pool: app }, { pool: other }]").len(), 2);
    assert_eq!(inherited("pool: app", "routes: [{ pool: app }, { pool: other }]").len(), 1);
    let routes = inherited("routes: [{ match: { tls: true }, pool: app }]", "pool: other");
    assert_eq!((routes.len(), routes[0].pool.as_str()), (1, "app"));
    let both = listener("").replace("over_limit: wait", "pool: app, routes: [{ pool: app }]");
    assert!(problem(&both).starts_with("1:36: defaults.listener.routes: expected one of pool"));
}
