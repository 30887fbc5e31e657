//! The machinery on a model of its own, with the forms that later keys need.

use std::num::NonZeroU32;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{Name, Period};
use super::super::problem::{Path, Problems};
use super::super::shape::Shape;
use super::super::written::{As, ListOf, OrOff, Section, Whole};
use super::super::{read, schema, tests as base};
use super::check;

/// A model with every kind of key.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Later {
    probe: Probe,
    /// A section that may be turned off.
    #[serde(with = "OrOff::<Section<Outlier>>")]
    outlier_detection: Option<Outlier>,
    /// A section that may be absent.
    admin: Option<Admin>,
    /// A number that may be absent.
    port: Option<u16>,
    /// A list of choices.
    on_evict: Vec<Action>,
    #[serde(with = "ListOf::<Name>")]
    hosts: Vec<String>,
    send_proxy_protocol: Version,
}

impl Default for Later {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            outlier_detection: Some(Outlier::default()),
            admin: None,
            port: None,
            on_evict: Vec::new(),
            hosts: Vec::new(),
            send_proxy_protocol: Version::Off,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Probe {
    /// Connects.
    Tcp,
    /// Asks.
    Http(Http),
    /// Sends and waits.
    SendExpect(SendExpect),
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Http {
    path: String,
    expect_status: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SendExpect {
    expect: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Outlier {
    #[serde(with = "As::<Period>")]
    base_ejection: Duration,
    #[serde(with = "OrOff::<Whole<NonZeroU32, 1, 10>>")]
    max: Option<NonZeroU32>,
}

impl Default for Outlier {
    fn default() -> Self {
        Self { base_ejection: Duration::from_secs(10), max: None }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Admin {
    bind: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Action {
    Exec { command: Vec<String> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Version {
    Off,
    V1,
    V2,
}

fn later(text: &str) -> Result<Later, Vec<String>> {
    let mut problems = Problems::default();
    let read = read::read(text, &base::env, &mut problems).expect("a tree");
    let shape = Shape::of(&schema::of_type::<Later>());
    let value = check(&read.root, &shape, &Path::Root, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_list().iter().map(ToString::to_string).collect());
    }
    Ok(serde_yaml::with::singleton_map_recursive::deserialize(value).expect("a value"))
}

fn with(change: impl FnOnce(&mut Later)) -> Result<Later, Vec<String>> {
    let mut later = Later::default();
    change(&mut later);
    Ok(later)
}

#[test]
fn absent_keys_have_their_defaults() {
    assert_eq!(later("{}"), Ok(Later::default()));
}

#[test]
fn a_choice_is_a_name_or_a_name_with_options() {
    let http = |path: &str| Probe::Http(Http { path: path.to_owned(), expect_status: Vec::new() });
    assert_eq!(later("probe: tcp"), Ok(Later::default()));
    assert_eq!(later("probe: { tcp: {} }"), Ok(Later::default()));
    assert_eq!(later("probe: http"), with(|later| later.probe = http("")));
    assert_eq!(later("probe: { http: }"), with(|later| later.probe = http("")));
    assert_eq!(later("probe: { http: { path: /x } }"), with(|later| later.probe = http("/x")));
    assert_eq!(
        later("probe: { send_expect: { expect: x } }"),
        with(|later| later.probe = Probe::SendExpect(SendExpect { expect: "x".to_owned() }))
    );
}

#[test]
fn what_is_wrong_in_a_choice_is_told() {
    for (text, problem) in [
        ("probe: htp", "1:8: probe: unknown probe \"htp\"; did you mean \"http\"?"),
        ("probe: { htp: {} }", "1:10: probe: unknown probe \"htp\"; did you mean \"http\"?"),
        (
            "on_evict: [{ exec: { command: systemctl restart a } }]",
            "1:31: on_evict[0].exec.command: expected a list, each item text, found \
             \"systemctl restart a\"; did you mean [\"systemctl\", \"restart\", \"a\"]?",
        ),
        ("probe: send_expect", "1:8: probe.send_expect.expect: the key is missing; expected text"),
        ("probe: { tcp: { a: b } }", "1:17: probe.tcp.a: unknown key \"a\"; expected nothing"),
        (
            "probe: { http: { paht: x } }",
            "1:18: probe.http.paht: unknown key \"paht\"; did you mean \"path\"?",
        ),
        (
            "probe: { tcp: {}, http: {} }",
            "1:8: probe: expected one of tcp, http, send_expect, with its options, found 2 keys",
        ),
        ("probe: [tcp]", "1:8: probe: expected one of tcp, http, send_expect, found a list"),
        (
            "on_evict: [exec]",
            "1:12: on_evict[0].exec.command: the key is missing; expected a list, each item text",
        ),
    ] {
        assert_eq!(later(text), Err(vec![problem.to_owned()]), "{text}");
    }
}

#[test]
fn a_section_can_be_turned_off() {
    for text in ["outlier_detection: off", "outlier_detection: \"off\"", "outlier_detection: false"]
    {
        assert_eq!(later(text), with(|later| later.outlier_detection = None), "{text}");
    }
    let outlier = Outlier { base_ejection: Duration::from_secs(1), max: NonZeroU32::new(3) };
    assert_eq!(
        later("outlier_detection: { base_ejection: 1s, max: 3 }"),
        with(|later| later.outlier_detection = Some(outlier))
    );
    assert_eq!(
        later("outlier_detection: { base_ejection: off }").unwrap_err(),
        ["1:37: outlier_detection.base_ejection: expected a duration such as 250ms, 2s or 1m30s, \
          found \"off\""]
    );
    assert_eq!(
        later("outlier_detection: on").unwrap_err(),
        ["1:20: outlier_detection: expected a section with the keys base_ejection, max, or off, \
          found \"on\""]
    );
}

#[test]
fn what_may_be_absent_is_never_null() {
    assert_eq!(later("port: 80"), with(|later| later.port = Some(80)));
    let admin = Admin { bind: "x".to_owned() };
    assert_eq!(later("admin: { bind: x }"), with(|later| later.admin = Some(admin)));
    assert_eq!(
        later("admin: ~\nport:\n").unwrap_err(),
        [
            "1:1: admin: expected a section with the keys bind, found nothing",
            "2:1: port: expected a whole number from 0 to 65535, found nothing",
        ]
    );
}

#[test]
fn words_and_lists_are_checked() {
    assert_eq!(later("send_proxy_protocol: v2"), with(|l| l.send_proxy_protocol = Version::V2));
    assert_eq!(later("send_proxy_protocol: no"), Ok(Later::default()));
    assert_eq!(
        later("on_evict: [{ exec: { command: [a, 1, \"{host}\"] } }]\nhosts: [a.b]"),
        with(|later| {
            let command = vec!["a".to_owned(), "1".to_owned(), "{host}".to_owned()];
            later.on_evict = vec![Action::Exec { command }];
            later.hosts = vec!["a.b".to_owned()];
        })
    );
    let wrong = later("hosts: [a b, c]\nsend_proxy_protocol: v3\n").unwrap_err();
    assert_eq!(wrong.len(), 2, "{wrong:#?}");
    assert!(
        wrong[1].ends_with("unknown send_proxy_protocol \"v3\"; expected one of off, v1, v2"),
        "{wrong:#?}"
    );
}

#[test]
fn every_value_of_the_models_is_told_apart_by_its_kind() {
    fn walk(shape: &Shape, path: &str) {
        match shape {
            Shape::Any(shapes) => {
                let leaves = shapes.iter().filter(|shape| shape.is_leaf()).count();
                let maps = shapes.iter().filter(|shape| {
                    matches!(shape, Shape::Section(_) | Shape::Named { .. } | Shape::Choice(_))
                });
                assert!(leaves <= 1 && maps.count() <= 1, "{path}: {shape:?}");
                shapes.iter().for_each(|shape| walk(shape, path));
            }
            Shape::Section(section) => {
                assert!(!section.keys.is_empty() || path.contains("strategy"), "{path}: no keys");
                for key in &section.keys {
                    assert!(!key.doc.is_empty(), "{path}.{} has no documentation", key.name);
                    walk(&key.shape, &format!("{path}.{}", key.name));
                }
            }
            Shape::List { item, .. } => walk(item, &format!("{path}[]")),
            Shape::Named { value, .. } => walk(value, &format!("{path}.NAME")),
            Shape::Choice(branches) => {
                assert!(!branches.is_empty(), "{path}: nothing to choose");
                let options = branches.iter().filter_map(|branch| branch.options.as_ref());
                options.for_each(|shape| walk(shape, path));
            }
            Shape::Text(text) => assert!(text.form.is_some(), "{path}: text without a form"),
            _ => {}
        }
    }
    walk(&Shape::of(&schema::annotated(&base::registry())), "");
}
