//! What is given to Prometheus and Grafana, tried with Prometheus's own tools.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::server::{program, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_scrape_configuration_is_valid() {
    let Some(promtool) = program("promtool", "prometheus") else { return };
    let config = root().join("conf/prometheus/prometheus.yml");
    run(Command::new(promtool).args(["check", "config"]).arg(config));
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let Some(promtool) = program("promtool", "prometheus") else { return };
    let tests = root().join("tests/real/alerts_test.yml");
    run(Command::new(promtool).args(["test", "rules"]).arg(tests));
}

/// The names of our own metrics in a text.
fn names(text: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("tidegate_") || word.starts_with("process_")).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let known = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        tidegate::metrics::CATALOG.iter().any(|m| m.name == name || Some(m.name) == stem)
    };
    for file in ["conf/prometheus/alerts.yml", "conf/grafana/tidegate.json"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let asked = names(&text);
        assert!(asked.len() > 10, "{file} asks for {asked:?}");
        for name in asked {
            assert!(known(name), "{file} asks for {name}");
        }
    }
}

#[test]
fn every_alert_has_its_place_in_the_runbook() {
    let alerts = std::fs::read_to_string(root().join("conf/prometheus/alerts.yml")).unwrap();
    let runbook = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let names = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(runbook.contains(&format!("### {name}\n")), "docs/operations.md has no {name}");
    }
}

#[test]
fn every_question_of_the_dashboard_is_one_that_prometheus_understands() {
    let Some(promtool) = program("promtool", "prometheus") else { return };
    let text = std::fs::read_to_string(root().join("conf/grafana/tidegate.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let mut rules = String::from("groups:\n  - name: board\n    rules:\n");
    let mut count = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let question = target["expr"].as_str().unwrap();
            let question = question.replace("$__rate_interval", "1m").replace("$__range", "1h");
            rules += &format!("      - record: q{count}\n        expr: {question:?}\n");
            count += 1;
        }
    }
    assert!(count > 15);
    let file = std::env::temp_dir().join(format!("tidegate-board-{}.yml", std::process::id()));
    std::fs::write(&file, rules).unwrap();
    run(Command::new(promtool).args(["check", "rules"]).arg(&file));
    std::fs::remove_file(&file).unwrap();
}
