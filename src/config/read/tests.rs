use super::super::problem::Problem;
use super::*;

fn tree(text: &str) -> (Option<Node<'_>>, Vec<Problem>) {
    let mut problems = Problems::default();
    let env = |name: &str| (name == "HOST").then(|| "10.0.0.1".to_owned());
    let read = read(text, &env, &mut problems);
    (read.map(|read| read.root), problems.into_list())
}

fn good(text: &str) -> Node<'_> {
    let (root, problems) = tree(text);
    assert_eq!(problems, [], "{text}");
    root.expect("a tree")
}

/// The only problem of a text.
fn wrong(text: &str) -> String {
    let (_, problems) = tree(text);
    assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
    problems[0].to_string()
}

fn at(node: &Node<'_>) -> (u32, u32) {
    (node.pos.line, node.pos.column)
}

#[test]
fn every_node_knows_its_place() {
    let root = good("# comment\nä: {b: [1, \"é\", x]}\nc:\n  d: |\n    text\n  e:\n  - f\n");
    assert_eq!(at(&root), (2, 1));
    let list = root.get("ä").and_then(|node| node.get("b")).unwrap();
    assert_eq!(at(list), (2, 8));
    let places: Vec<_> = list.items().iter().map(at).collect();
    assert_eq!(places, [(2, 9), (2, 12), (2, 17)], "columns are characters");
    let map = root.get("c").unwrap();
    assert_eq!(at(map), (4, 3));
    assert_eq!(map.entries()[1].key_pos, Pos { line: 6, column: 3 });
    assert_eq!(at(map.get("e").unwrap()), (7, 3));
    assert_eq!(map.get("d").and_then(Node::text), Some("text\n"));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_move_nothing() {
    let root = good("\u{feff}a: b\r\nc:\r\n  d: e\r\n");
    assert_eq!(at(root.get("a").unwrap()), (1, 4));
    assert_eq!(at(root.get("c").and_then(|node| node.get("d")).unwrap()), (3, 6));
}

#[test]
fn scalars_stay_text_and_nothing_is_at_its_key() {
    let root = good("a: off\nb: 017\nc: 0x1F\nd: 1e3\ne: ~\nf:\ng: \"\"\nh: 'null'\ni: no\n");
    for (key, text) in [("a", "off"), ("b", "017"), ("c", "0x1F"), ("d", "1e3"), ("i", "no")] {
        assert_eq!(root.get(key).and_then(Node::text), Some(text));
    }
    for (key, line) in [("e", 5), ("f", 6)] {
        let node = root.get(key).unwrap();
        assert_eq!((&node.kind, at(node)), (&Kind::Nothing, (line, 1)));
    }
    assert_eq!(root.get("g").and_then(Node::text), Some(""));
    assert_eq!(root.get("h").and_then(Node::text), Some("null"));
}

#[test]
fn variables_are_expanded_in_keys_and_values() {
    let root = good("${HOST}: \"${HOST}:80\"\n");
    assert_eq!(root.get("10.0.0.1").and_then(Node::text), Some("10.0.0.1:80"));
    assert!(
        wrong("a:\n  b: [x, \"${NO}\"]\n").starts_with("2:10: a.b[1]: the environment variable NO")
    );
}

#[test]
fn aliases_are_copies() {
    let root = good("a: &x {b: [c]}\nd: *x\ne: [*x, *x]\n");
    let kind = |key| root.get(key).map(|node| &node.kind);
    assert_eq!(kind("a"), kind("d"));
    assert_eq!(root.get("e").map(|node| node.items().len()), Some(2));
    assert!(wrong("a: *x\n").contains("not valid YAML"));
    assert!(wrong("a: &x [*x]\n").contains("stands within what it stands for"));
}

#[test]
fn double_keys_are_told_and_their_values_kept_for_checking() {
    assert_eq!(wrong("a:\n  b: 1\n  b: 2\n"), "3:3: a.b: duplicate key \"b\"; line 2 has it too");
    assert_eq!(wrong("[{\"b\": 1, b: 2}]"), "1:11: [0].b: duplicate key \"b\"; line 1 has it too");
    let (root, _) = tree("a: 1\na: 2\n");
    let root = root.unwrap();
    assert_eq!(root.get("a").and_then(Node::text), Some("1"));
    assert!(root.entries()[1].is_double);
}

#[test]
fn keys_are_plain_text() {
    for text in ["? [a]\n: b\n", "{[a]: b}", "? {a: b}\n: c\n", "{a: b}: c\n"] {
        let problem = wrong(text);
        assert!(problem.contains("expected plain text as a key"), "{text} {problem}");
    }
    assert!(wrong(": a\n").contains("expected a key, found nothing"));
    assert!(wrong("~: a\n").contains("expected a key, found nothing"));
}

#[test]
fn what_yaml_can_do_beyond_a_configuration_is_refused() {
    assert!(wrong("a: {<<: b}\n").contains("merge keys are not supported"));
    assert!(wrong("a: !!int 3\n").contains("tags are not supported; remove \"!!int\""));
    assert!(wrong("a: !x 3\n").contains("tags are not supported; remove \"!x\""));
    assert!(wrong("a: b\n---\nc: d\n").starts_with("2:1: a second document begins here"));
    assert!(wrong("%YAML 1.2\n---\na: b\n").contains("not valid YAML"));
    for text in ["", "\n", "# a\n", "\u{feff}"] {
        assert_eq!(wrong(text), "1:1: the file is empty; expected listeners and pools");
    }
    good("---\na: b\n...\n");
}

#[test]
fn the_usual_mistakes_have_a_hint() {
    for (text, hint) in [
        ("a:\n\tb: c\n", "indent with spaces, not with tabs"),
        ("bind: [::]:443\n", "put IPv6 addresses in quotes"),
        ("a: { b: ${HOST} }\n", "put ${…} in quotes"),
    ] {
        let problem = wrong(text);
        assert!(problem.contains(hint), "{problem}");
    }
}

#[test]
fn nesting_is_bounded_however_it_is_made() {
    let deep = |unit: &str, count: usize| unit.repeat(count);
    let mut blocks = String::new();
    for depth in 0..10_000 {
        blocks += &format!("{}a:\n", " ".repeat(depth.min(2_000)));
    }
    let mut aliases = "a0: &a0 [x]\n".to_owned();
    for index in 1..200 {
        aliases += &format!("a{index}: &a{index} [*a{}]\n", index - 1);
    }
    for text in [
        deep("[", 10_000),
        deep("{a: ", 10_000),
        deep("- ", 10_000),
        deep("? ", 10_000),
        format!("{}{}", deep("[", MAX_DEPTH + 1), deep("]", MAX_DEPTH + 1)),
        blocks,
        aliases,
    ] {
        assert!(wrong(&text).contains("may be nested 32 deep"), "{}", &text[..40]);
    }
    good(&format!("{}{}", deep("[", MAX_DEPTH), deep("]", MAX_DEPTH)));
}

#[test]
fn aliases_are_charged_with_what_they_stand_for() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for index in 1..30 {
        let ten = vec![format!("*a{}", index - 1); 10].join(", ");
        laughs += &format!("a{index}: &a{index} [{ten}]\n");
    }
    assert!(wrong(&laughs).contains("more than 500000 keys and values"));
    let text = format!("a: &a \"{}\\n\"\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(1 << 16));
    assert!(wrong(&text).contains("more than 500000 keys and values"), "text counts too");
}

#[test]
fn variables_are_charged_with_what_they_add() {
    let mut problems = Problems::default();
    let env = |_: &str| Some("x".repeat(1 << 16));
    let text = format!("a: [{}]\n", "\"${X}\",".repeat(100_000));
    assert!(read(&text, &env, &mut problems).is_none());
    let problems = problems.into_list();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("variables add more than 16 MiB"));
}

#[test]
fn ten_mebibytes_of_one_thing_are_refused_or_read() {
    const SIZE: usize = 10 << 20;
    for unit in ["[", "a: ", "{a: ", "&a ", "- ", "-\n", "? ", "---\n", "%TAG !a! b\n", "!a "] {
        let text = unit.repeat(SIZE / unit.len());
        let (_, problems) = tree(&text);
        assert!(!problems.is_empty(), "{unit:?}");
        assert!(problems.len() <= 1_001, "{unit:?}");
    }
    assert!(wrong(&format!("[{}]", "a,".repeat(SIZE / 2))).contains("more than 500000"));
    assert!(good(&format!("a: {}", "x".repeat(SIZE))).get("a").is_some());
}
