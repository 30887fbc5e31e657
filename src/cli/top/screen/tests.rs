use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::*;

fn whole(total: u64) -> Whole {
    let node = |name: &str, state: &str| Node {
        name: name.to_owned(),
        state: state.to_owned(),
        in_rotation: state == "healthy",
        reason: "because\u{1b}[2J".to_owned(),
        connections_total: total,
        bytes_in: total * 1024,
        ..Node::default()
    };
    let pool = |name: &str, active: Option<&str>| Pool {
        name: name.to_owned(),
        strategy: "round_robin".to_owned(),
        active: active.map(str::to_owned),
        backends: vec![node("one", "healthy"), node("two", "unhealthy")],
    };
    Whole { pools: vec![pool("app", None), pool("db", Some("one"))], ..Whole::default() }
}

fn screen() -> Screen {
    Screen::new("http://127.0.0.1:9900".to_owned(), whole(0), true)
}

fn drawn_in(screen: &Screen, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

fn drawn(screen: &Screen) -> String {
    drawn_in(screen, (120, 24))
}

impl Screen {
    fn key(&mut self, letter: char) -> Step {
        self.press(KeyCode::Char(letter), Instant::now())
    }
}

#[test]
fn pools_backends_rates_and_events_are_shown() {
    let mut screen = screen();
    let start = Instant::now();
    screen.hear(News::Whole(Ok(whole(0))), start);
    screen.hear(News::Whole(Ok(whole(30))), start + Duration::from_secs(2));
    let event = json!({ "id": 1, "time": "2026-11-26T07:49:35.123Z", "kind": "evicted",
        "pool": "app", "backend": "two", "cause": "probe", "evidence": "3 checks failed" });
    screen.hear(News::Event(event), start);
    let shown = drawn(&screen);
    for text in [
        "2 of 4 backends evicted   0 open, 60.0 new/s, in 60.0 KiB/s",
        "app  1 of 2 in rotation, 1 evicted  round_robin",
        "+ one",
        "* one",
        "unhealthy",
        "15.0",
        "15.0 KiB",
        "evicted",
        "probe: 3 checks failed",
        "q quit",
    ] {
        assert!(shown.contains(text), "{text}\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn no_screen_is_too_small_and_a_small_one_has_the_reason() {
    let screen = screen();
    for size in [(1, 1), (20, 5), (40, 12), (80, 24), (200, 50)] {
        drawn_in(&screen, size);
    }
    let shown = drawn_in(&screen, (80, 24));
    assert!(shown.contains("because") && shown.contains("q quit"), "{shown}");
    assert!(!shown.contains("OUT/S"), "{shown}");
}

#[test]
fn a_change_is_asked_for_only_after_a_yes() {
    let mut screen = screen();
    assert_eq!(screen.press(KeyCode::Down, Instant::now()), Step::Stay);
    assert_eq!(screen.key('d'), Step::Stay);
    assert!(drawn(&screen).contains("drain app/two?"));
    assert_eq!(screen.key('n'), Step::Stay);
    assert_eq!(screen.key('y'), Step::Stay, "the question is gone");
    screen.key('e');
    let enable = Ask::Enable("app".to_owned(), "two".to_owned());
    assert_eq!(screen.key('y'), Step::Do(enable));
}

#[test]
fn only_a_hot_standby_can_fail_over() {
    let mut screen = screen();
    screen.key('f');
    assert!(drawn(&screen).contains("no hot standby"));
    screen.press(KeyCode::End, Instant::now());
    screen.key('f');
    let failover = Ask::Failover("db".to_owned(), "two".to_owned());
    assert_eq!(screen.key('y'), Step::Do(failover));
}

#[test]
fn what_is_typed_after_a_slash_filters_and_escape_ends_it() {
    let mut screen = screen();
    "/db two".chars().for_each(|letter| drop(screen.key(letter)));
    let shown = drawn(&screen);
    assert!(shown.contains("/db two") && !shown.contains("+ one"), "{shown}");
    screen.press(KeyCode::Enter, Instant::now());
    assert!(drawn(&screen).contains("1 shown: db two"));
    screen.key('d');
    assert!(drawn(&screen).contains("drain db/two?"));
    screen.key('n');
    screen.press(KeyCode::Esc, Instant::now());
    assert!(drawn(&screen).contains("+ one"));
    assert_eq!(screen.press(KeyCode::Esc, Instant::now()), Step::Quit);
}

#[test]
fn the_chosen_backend_stays_chosen_while_the_list_changes() {
    let mut screen = screen();
    screen.press(KeyCode::Down, Instant::now());
    screen.key('n');
    assert_eq!(screen.listed().len(), 2, "only what is not healthy");
    let mut fewer = whole(0);
    fewer.pools.remove(0);
    screen.press(KeyCode::Down, Instant::now());
    screen.hear(News::Whole(Ok(fewer)), Instant::now());
    screen.key('d');
    assert_eq!(screen.question, Some(Ask::Drain("db".to_owned(), "two".to_owned())));
}

#[test]
fn what_was_said_makes_room_for_the_keys_again() {
    let mut screen = screen();
    let start = Instant::now();
    screen.hear(News::Done(Ok("drain app/one".to_owned())), start);
    assert!(drawn(&screen).contains("done: drain app/one"));
    screen.tick(start + NOTICE);
    assert!(drawn(&screen).contains("? help"));
    screen.key('?');
    assert!(drawn(&screen).contains("Any key closes this"));
    screen.key('q');
    assert!(!drawn(&screen).contains("Any key closes this"));
}

#[test]
fn an_instance_that_cannot_be_seen_is_told() {
    let mut screen = screen();
    screen.hear(News::Whole(Err("cannot reach it".to_owned())), Instant::now());
    assert!(drawn(&screen).contains("NO ANSWER, what follows is old: cannot reach it"));
    screen.hear(News::Done(Err("pool db: not now".to_owned())), Instant::now());
    assert!(drawn(&screen).contains("not now"));
    assert_eq!(screen.key('q'), Step::Quit);
}

#[test]
fn a_counter_that_began_anew_has_no_negative_rate() {
    let made = rates(&whole(30), &whole(0), 1.0);
    assert!(made.values().all(|rate| *rate == Rate::default()));
}
