use super::super::{Checking, Event, Judged, Outlier, Policy, Trouble};
use super::*;

const POLICY: Policy = Policy {
    checks: Some(Checking {
        rise: 2,
        fall: 3,
        interval: 2000,
        fast_interval: 500,
        timeout: 1000,
        jitter: 20,
    }),
    outlier: Some(Outlier {
        consecutive_failures: 3,
        base_ejection: 10_000,
        max_ejection: 300_000,
        max_ejected_percent: 50,
    }),
};
const NOW: u64 = 1_800_000_000_000;

fn fed(mut health: Health, events: &[Event], at: Tick) -> Health {
    for event in events {
        health = health.step(event.clone(), at, &POLICY).next;
    }
    health
}

fn checked(epoch: u64, result: Judged) -> Event {
    Event::Checked { epoch, result }
}

fn fail() -> Judged {
    Judged::Fail("refused".into())
}

fn tripped() -> Event {
    Event::Tripped { count: 3, last: Trouble::Refused, first: 1, began: 1, draw: 1 << 63 }
}

fn saved(health: &Health, at: Tick) -> SavedBackend {
    let held = (Held::new(health.operator()), Held::new(1));
    SavedBackend::new("127.0.0.1:1".into(), health, held, (at, NOW))
}

/// Saved at tick 5000, restored so many milliseconds later by a process at its tick 7.
fn again(health: &Health, later: u64) -> Health {
    let restored = saved(health, 5000).restored(NOW, (7, NOW + later));
    Health::restored(&restored, health.operator(), 7, &POLICY)
}

#[test]
fn who_was_unhealthy_stays_so_until_rise_checks_pass() {
    let new = Health::new(Operator::Enabled, 0, &POLICY);
    let down = fed(new, &[checked(0, fail()), checked(0, fail()), checked(0, fail())], 1000);
    let back = again(&down, 60_000);
    assert_eq!(back.state(), State::Unhealthy);
    assert_eq!(back.age(7), 4000, "for as long as it was so when it was saved");
    let once = fed(back, &[checked(0, Judged::Pass)], 10);
    assert_eq!(once.state(), State::Unhealthy);
    let step = once.step(checked(0, Judged::Pass), 11, &POLICY);
    assert_eq!(step.next.state(), State::Healthy);
    assert!(step.change.unwrap().action().is_some(), "it came back after the start");
}

#[test]
fn who_was_ejected_stays_so_for_what_is_left_and_is_then_tried() {
    let new = Health::new(Operator::Enabled, 0, &POLICY);
    let out = fed(new, &[checked(0, Judged::Pass), tripped()], 1000);
    let back = again(&out, 2000);
    assert_eq!((back.state(), back.wake()), (State::Ejected, Some(7 + 4000)));
    assert_eq!(back.ejections(7), 1);
    let late = again(&out, 3_600_000);
    assert_eq!((late.state(), late.trial()), (State::Ejected, Some(1)));
    let tried = fed(late, &[Event::TrialPassed(1)], 8);
    assert_eq!(tried.state(), State::Healthy);
}

#[test]
fn a_policy_without_checks_or_detection_forgets_what_they_said() {
    let new = Health::new(Operator::Enabled, 0, &POLICY);
    let out = fed(new, &[checked(0, Judged::Pass), tripped()], 1000);
    let restored = saved(&out, 5000).restored(NOW, (0, NOW));
    let health = Health::restored(&restored, Operator::Enabled, 0, &Policy::default());
    assert_eq!(health.state(), State::Healthy);
}

#[test]
fn who_was_disabled_starts_afresh_when_enabled() {
    let health = Health::new(Operator::Disabled, 0, &POLICY);
    let back = again(&health, 0);
    assert_eq!(back.state(), State::Disabled);
    assert_eq!(fed(back, &[Event::Operator(Operator::Enabled)], 8).state(), State::Unknown);
}

#[test]
fn slow_start_goes_on_where_it_was() {
    let new = Health::new(Operator::Enabled, 0, &POLICY);
    let word = |operator| Event::Operator(operator);
    let back = fed(new, &[word(Operator::Draining), word(Operator::Enabled)], 4000);
    assert_eq!(again(&back, 500).back_for(7), Some(1000));
}

fn file() -> Saved {
    let mut saved_state = Saved::new(NOW);
    let backend = saved(&Health::new(Operator::Draining, 0, &POLICY), 5000);
    let service = Some(SavedService { priority: 1, weight: 10 });
    let found = |address: &str, service| SavedFound { address: address.parse().unwrap(), service };
    let found = vec![found("127.0.0.1:1", None), found("[::1]:1", service)];
    let name = SavedName { target: "b.test:1".into(), found };
    let pool = SavedPool {
        active: None,
        preparing: Some(SavedMove {
            backend: "b".into(),
            cause: "probe".into(),
            evidence: "3 checks failed in a row".into(),
        }),
        last: Some("a".into()),
        was_held: true,
        is_pinned: true,
        barred: vec!["c".into()],
        level: None,
        actions: vec![SavedRun {
            event: "evict".into(),
            backend: "b".into(),
            cause: "probe".into(),
            evidence: "3 checks failed in a row".into(),
            time: "2026-11-22T10:00:00.000Z".into(),
            through: 1,
        }],
        unverified: [("b".to_owned(), NOW)].into(),
        limits: vec![SavedLimit { event: "evict".into(), action: "0f".into(), runs: vec![NOW] }],
        backends: [("b".to_owned(), backend)].into(),
        names: [("b".to_owned(), name)].into(),
    };
    saved_state.pools.insert("app".into(), pool);
    saved_state
}

#[test]
fn what_is_written_is_read_again() {
    let file = file();
    assert_eq!(Saved::read(&file.to_text().unwrap(), NOW + 1).unwrap(), file);
    assert_eq!(
        Saved::read(&file.to_text().unwrap(), NOW - 60_000).unwrap(),
        file,
        "a clock that was set back a little"
    );
}

#[test]
fn what_was_written_before_names_were_saved_is_read_as_well() {
    let mut without = file();
    without.pools.values_mut().for_each(|pool| pool.names.clear());
    let text = without.to_text().unwrap();
    assert!(!text.contains("names"), "{text}");
    assert_eq!(Saved::read(&text, NOW).unwrap(), without);
}

#[test]
fn the_text_names_states_as_people_do() {
    let text = file().to_text().unwrap();
    assert!(text.contains(r#""state": "draining""#), "{text}");
    assert!(text.contains(r#""file": "draining""#), "{text}");
}

#[test]
fn what_is_not_to_be_believed_says_why() {
    let text = file().to_text().unwrap();
    let other_version = text.replace("\"version\": 1", "\"version\": 2");
    let cases = [
        ("", NOW, "not readable: "),
        ("{", NOW, "not readable: "),
        (&text[..text.len() / 2], NOW, "not readable: "),
        ("[]", NOW, "not a state file of tidegate"),
        (r#"{"version": 1}"#, NOW, "not a state file of tidegate"),
        (r#"{"format": "tidegate-state"}"#, NOW, "version 0 of the format, expected 1"),
        (other_version.as_str(), NOW, "version 2 of the format, expected 1"),
        (r#"{"format": "tidegate-state", "version": 1}"#, NOW, "not readable: missing field"),
        (text.as_str(), NOW + 25 * 3_600_000, "saved 25 hours ago, believed for 24 at most"),
        (
            text.as_str(),
            NOW - 61_000,
            "saved 61 s from now by this host's clock, believed up to 60 s",
        ),
    ];
    for (text, now, expected) in cases {
        let message = Saved::read(text, now).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_backend_is_known_by_pool_name_and_address() {
    let file = file();
    assert!(file.backend("app", "b", "127.0.0.1:1").is_some());
    assert!(file.backend("app", "b", "127.0.0.1:2").is_none());
    assert!(file.backend("app", "c", "127.0.0.1:1").is_none());
    assert!(file.backend("other", "b", "127.0.0.1:1").is_none());
}

/// One written before there were such fields.
#[test]
fn what_a_file_does_not_say_of_a_pool_is_nothing() {
    let pool: SavedPool = serde_json::from_str(r#"{"active": "b", "backends": {}}"#).unwrap();
    assert_eq!(pool, SavedPool { active: Some("b".into()), ..SavedPool::default() });
}
