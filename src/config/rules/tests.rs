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
