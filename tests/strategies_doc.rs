//! `docs/strategies.md` and the table of strategies say the same.

use tidegate::balance::STRATEGIES;

const PAGE: &str = include_str!("../docs/strategies.md");

/// The cells of the row of a table that begins with this word.
fn row<'a>(text: &'a str, word: &str) -> Option<Vec<&'a str>> {
    let begin = format!("| `{word}` |");
    let line = text.lines().find(|line| line.starts_with(&begin))?;
    Some(line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The section under the heading of a strategy.
fn section<'a>(name: &str) -> Option<&'a str> {
    let (_, rest) = PAGE.split_once(&format!("\n## `{name}`\n"))?;
    Some(rest.split_once("\n## ").map_or(rest, |(section, _)| section))
}

#[test]
fn every_strategy_has_a_full_row_and_a_section_with_its_options() {
    assert!(!STRATEGIES.is_empty());
    for entry in STRATEGIES {
        let name = entry.name;
        let row = row(PAGE, name).unwrap_or_else(|| panic!("{name} has no row"));
        assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()), "{name}: {row:?}");
        assert_eq!(row[1], entry.summary, "the row of {name} says what the table says");
        let section = section(name).unwrap_or_else(|| panic!("{name} has no section"));
        for option in entry.options {
            let (key, min, max) = (option.name, option.min, option.max);
            let row = self::row(section, key).unwrap_or_else(|| panic!("{name}: no row for {key}"));
            let expected = [format!("`{key}`"), option.summary.into()];
            assert_eq!(row[..2], expected, "{name}");
            assert_eq!(row[2..], [format!("{min} to {max}"), option.default.to_string()], "{name}");
        }
    }
}

#[test]
fn the_page_describes_no_strategy_that_does_not_exist() {
    let headings = PAGE.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
    let described: Vec<&str> = headings.collect();
    let known: Vec<&str> = STRATEGIES.iter().map(|entry| entry.name).collect();
    assert_eq!(described, known, "in the order of the table");
}
