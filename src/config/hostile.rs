//! Tests only: whatever the input, loading ends with values or problems, and says it well.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Strategy;

use super::tests::{FULL, GOOD, env, registry};
use super::*;

/// Loads, and checks what is promised of every outcome.
fn loads(bytes: &[u8]) -> bool {
    match load_bytes(bytes, &env, &registry()) {
        Ok(_) => true,
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.len() <= problem::MAX_PROBLEMS + 1);
            let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count();
            for problem in &problems {
                let shown = problem.to_string();
                assert!(!shown.contains(char::is_control), "{shown:?}");
                assert!(!problem.message.is_empty());
                assert!(!problem.message.contains("bug of tidegate"), "{shown}");
                assert!(problem.line <= lines + 1, "{shown}");
                assert_eq!(problem.line == 0, problem.column == 0, "{shown}");
            }
            assert!(problems.windows(2).all(|pair| pair[1].line == 0 || pair[0] < pair[1]));
            false
        }
    }
}

/// Text made of what configurations are made of.
fn tokens() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "listeners:",
        "pools:",
        "defaults:",
        "runtime:",
        "log:",
        "listener:",
        "pool:",
        "bind:",
        "backends:",
        "strategy:",
        "connect:",
        "timeouts:",
        "tcp:",
        "address:",
        "name:",
        "weight:",
        "idle:",
        "source:",
        "health_check:",
        "probe:",
        "http:",
        "exec:",
        "command:",
        "interval:",
        "fast_interval:",
        "expect_status:",
        "recovery:",
        "on_evict:",
        "on_takeover:",
        "webhook:",
        "url:",
        "before_traffic:",
        "failover:",
        "backup:",
        "priority:",
        "{backend}",
        "{{",
        "http://x/",
        "200-299",
        "hot_standby",
        "web:",
        "app:",
        " ",
        "  ",
        "    ",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        ", ",
        ": ",
        "\"",
        "'",
        "#",
        "&a ",
        "*a",
        "!t ",
        "<<: ",
        "? ",
        "|\n",
        ">\n",
        "---\n",
        "off",
        "auto",
        "true",
        "~",
        "0",
        "017",
        "-1",
        "99999999999",
        "5s",
        "1h",
        "round_robin",
        "source_hash",
        "127.0.0.1:9501",
        "0.0.0.0:1-65535",
        "[::]:443",
        "unix:/a",
        "${HOST}",
        "${X}",
        "${X:-y}",
        "$${",
        "app",
        "web",
        "\t",
        "\r\n",
        "\u{feff}",
        "é",
        "\u{85}",
        "\\n",
    ]);
    vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

/// A value as JSON, which is YAML; names and values as a configuration may have them.
fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        prop::sample::select(vec![
            "off",
            "5s",
            "app",
            "127.0.0.1:0",
            "unix:/a",
            "random",
            "",
            "1",
            "{",
            "{pool}",
            "http://a",
            "2xx",
            "tls",
            "/"
        ])
        .prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];
    let key = prop::sample::select(vec![
        "listeners",
        "pools",
        "defaults",
        "listener",
        "pool",
        "bind",
        "backends",
        "strategy",
        "connect",
        "timeouts",
        "tcp",
        "address",
        "name",
        "weight",
        "idle",
        "source",
        "app",
        "hedge",
        "runtime",
        "source_hash",
        "prefix_v4",
        "max_connections",
        "state_file",
        "health_check",
        "outlier_detection",
        "probe",
        "http",
        "exec",
        "send_expect",
        "command",
        "fast_interval",
        "base_ejection",
        "recovery",
        "on_takeover",
        "before_traffic",
        "webhook",
        "url",
        "failover",
        "demotion",
        "backup",
        "priority",
        "health_port",
    ]);
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Into::into),
            vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
                serde_json::Value::Object(pairs.collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_answered(bytes in vec(any::<u8>(), 0..400)) {
        loads(&bytes);
    }

    #[test]
    fn random_text_is_answered(text in "\\PC{0,200}") {
        loads(text.as_bytes());
    }

    #[test]
    fn random_configuration_is_answered(text in tokens()) {
        loads(text.as_bytes());
    }

    #[test]
    fn random_trees_are_answered(value in value()) {
        loads(value.to_string().as_bytes());
        loads(format!("listeners: {{ web: {value} }}\npools: {{ app: {value} }}").as_bytes());
        loads(format!("defaults: {value}\n{GOOD}").as_bytes());
    }

    #[test]
    fn a_valid_file_with_a_piece_replaced_is_answered(
        from in 0..GOOD.len(),
        length in 0..40_usize,
        piece in tokens(),
    ) {
        let to = (from + length).min(GOOD.len());
        loads(format!("{}{piece}{}", &GOOD[..from], &GOOD[to..]).as_bytes());
    }

    #[test]
    fn a_valid_file_with_a_byte_changed_is_answered(at in 0..GOOD.len(), byte: u8) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        loads(&bytes);
    }

    #[test]
    fn a_valid_file_of_every_key_with_a_piece_replaced_is_answered(
        from in 0..FULL.len(),
        length in 0..40_usize,
        piece in tokens(),
    ) {
        let to = (from + length).min(FULL.len());
        loads(format!("{}{piece}{}", &FULL[..from], &FULL[to..]).as_bytes());
    }

    #[test]
    fn every_prefix_of_a_valid_file_is_answered(end in 0..=GOOD.len()) {
        loads(&GOOD.as_bytes()[..end]);
    }
}
