//! Numbers with units as text: durations, sizes, rates.
//!
//! Every value that parses prints as text that parses to the same value. The error of a parser is a
//! hint: what to do about it, to be put behind "expected …, found …"; empty when there is none.

use std::time::Duration;

/// The longest duration that can be written: ten years of 365 days. Beyond that say `off`.
pub const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Units of a duration with their milliseconds, largest first.
const DURATION_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Other spellings of units, and what is meant.
const DURATION_ALIASES: &[(&str, &str)] = &[
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("S", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("M", "m"),
    ("hour", "h"),
    ("hours", "h"),
    ("H", "h"),
    ("hr", "h"),
    ("day", "d"),
    ("days", "d"),
    ("D", "d"),
    ("msec", "ms"),
    ("millis", "ms"),
    ("MS", "ms"),
];

const SIZE_UNITS: &[(&str, u64)] =
    &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes, written `64KiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(
    /// Bytes.
    pub u64,
);

/// A number of events a second, written `100/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(
    /// Events a second.
    pub u32,
);

/// A number of bytes a second, written `10MiB/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Throughput(
    /// Bytes a second.
    pub u64,
);

/// Reads `250ms`, `2s`, `1m30s`: whole numbers with the units d, h, m, s, ms, the larger ones
/// first, each at most once; at most [`LONGEST`].
///
/// # Errors
///
/// A hint, when the text is no such duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smallest = usize::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let Some(place) = DURATION_UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(duration_hint(text, number, unit));
        };
        let Ok(count) = number.parse::<u64>() else {
            return Err(too_long_or_no_number(number));
        };
        if smallest != usize::MAX && place <= smallest {
            return Err("larger units come first, each once, as in 1h30m".to_owned());
        }
        smallest = place;
        total = total.saturating_add(count.saturating_mul(DURATION_UNITS[place].1));
        rest = after;
    }
    let value = Duration::from_millis(total);
    if smallest == usize::MAX {
        return Err(String::new());
    }
    if value > LONGEST {
        return Err("the longest is 3650d".to_owned());
    }
    Ok(value)
}

/// Writes a duration so that [`parse_duration`] reads the same value. Less than a millisecond is
/// lost.
#[must_use]
pub fn print_duration(value: Duration) -> String {
    let mut left = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, length) in DURATION_UNITS.iter().filter(|(unit, _)| *unit != "d") {
        let count = left / length;
        left %= length;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    out
}

/// Reads `64KiB`: a whole number with one of B, KiB, MiB, GiB.
///
/// # Errors
///
/// A hint, when the text is no such size.
pub fn parse_size(text: &str) -> Result<Size, String> {
    let (number, unit) = split_number(text);
    let Some((_, length)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(size_hint(number, unit));
    };
    let Ok(count) = number.parse::<u64>() else {
        return Err(too_long_or_no_number(number));
    };
    count.checked_mul(*length).map(Size).ok_or_else(|| "that is too large".to_owned())
}

/// Writes a size so that [`parse_size`] reads the same value.
#[must_use]
pub fn print_size(value: Size) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, length)| value.0 != 0 && value.0.is_multiple_of(*length))
        .map_or_else(
            || format!("{}B", value.0),
            |(unit, length)| format!("{}{unit}", value.0 / length),
        )
}

/// Reads `100/s`.
///
/// # Errors
///
/// A hint, when the text is no such rate.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let (number, unit) = split_number(text);
    if unit == "/s" {
        return number.parse().map(Rate).map_err(|_| too_long_or_no_number(number));
    }
    Err(match (number, unit) {
        ("", _) => String::new(),
        (_, unit) if unit.starts_with('.') && unit.ends_with("/s") => {
            "a whole number of them; the lowest rate is 1/s".to_owned()
        }
        (_, "" | "/sec" | "/second" | "ps") => format!("did you mean \"{number}/s\"?"),
        _ => "a rate ends in /s".to_owned(),
    })
}

/// Writes a rate so that [`parse_rate`] reads the same value.
#[must_use]
pub fn print_rate(value: Rate) -> String {
    format!("{}/s", value.0)
}

/// Reads `10MiB/s`: a size, and `/s`.
///
/// # Errors
///
/// A hint, when the text is no such rate.
pub fn parse_throughput(text: &str) -> Result<Throughput, String> {
    if let Some(size) = text.strip_suffix("/s") {
        return parse_size(size).map(|Size(bytes)| Throughput(bytes)).map_err(|hint| {
            // A hint that shows what to write shows it whole.
            hint.strip_suffix("\"?").map_or(hint.clone(), |start| format!("{start}/s\"?"))
        });
    }
    let lower = text.to_ascii_lowercase();
    let (number, unit) = split_number(&lower);
    Err(match unit {
        _ if number.is_empty() => String::new(),
        "bit" | "kbit" | "mbit" | "gbit" | "bps" | "kbps" | "mbps" | "gbps" => {
            "bytes, not bits: 8 Mbit/s are 1MB/s, written 1000000B/s".to_owned()
        }
        _ if parse_size(text).is_ok() => format!("did you mean \"{text}/s\"?"),
        _ => "it ends in /s".to_owned(),
    })
}

/// Writes bytes a second so that [`parse_throughput`] reads the same value.
#[must_use]
pub fn print_throughput(value: Throughput) -> String {
    format!("{}/s", print_size(Size(value.0)))
}

/// Splits leading ASCII digits off.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn too_long_or_no_number(number: &str) -> String {
    if number.is_empty() {
        "a whole number comes first".to_owned()
    } else {
        "that is too large".to_owned()
    }
}

fn duration_hint(text: &str, number: &str, unit: &str) -> String {
    let bare: String = text.split_whitespace().collect();
    // Else it would be read again and again.
    if bare.len() < text.len() && parse_duration(&bare).is_ok() {
        return format!("did you mean \"{bare}\"?");
    }
    unit_hint(text, number, unit)
}

fn unit_hint(text: &str, number: &str, unit: &str) -> String {
    let trimmed = unit.trim();
    let meant =
        DURATION_UNITS.iter().map(|(name, _)| *name).find(|name| *name == trimmed).or_else(|| {
            DURATION_ALIASES.iter().find(|(alias, _)| *alias == trimmed).map(|(_, name)| *name)
        });
    match (number, unit, meant) {
        ("", ..) => String::new(),
        (_, "", _) if text == "0" => "did you mean \"0s\"?".to_owned(),
        (_, "", _) => format!("the unit is missing; did you mean \"{text}s\"?"),
        (_, "us" | "µs" | "μs" | "ns", _) => "the smallest unit is ms".to_owned(),
        (_, _, Some(meant)) if text.len() == number.len() + unit.len() => {
            format!("did you mean \"{number}{meant}\"?")
        }
        (_, _, Some(meant)) if meant == trimmed => "without spaces, as in 1m30s".to_owned(),
        (_, _, Some(meant)) => format!("for {trimmed} write {meant}"),
        _ if trimmed.starts_with('.') => "only whole numbers, as in 1s500ms".to_owned(),
        _ => "the units are d, h, m, s, ms".to_owned(),
    }
}

fn size_hint(number: &str, unit: &str) -> String {
    let meant = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        "" | "b" | "byte" | "bytes" => "B",
        _ if number.is_empty() => return String::new(),
        _ => return "the units are B, KiB, MiB, GiB".to_owned(),
    };
    if number.is_empty() { String::new() } else { format!("did you mean \"{number}{meant}\"?") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn durations_are_read() {
        for (text, value) in [
            ("250ms", 250),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1d12h", 129_600_000),
            ("0s", 0),
            ("1s500ms", 1_500),
            ("007s", 7_000),
        ] {
            assert_eq!(parse_duration(text), Ok(ms(value)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_gets_a_hint() {
        for (text, hint) in [
            ("5", "the unit is missing; did you mean \"5s\"?"),
            ("0", "did you mean \"0s\"?"),
            ("5sec", "did you mean \"5s\"?"),
            ("5 s", "did you mean \"5s\"?"),
            ("1m30", "the unit is missing; did you mean \"1m30s\"?"),
            ("500us", "the smallest unit is ms"),
            ("1.5s", "only whole numbers, as in 1s500ms"),
            ("30s1m", "larger units come first, each once, as in 1h30m"),
            ("1s1s", "larger units come first, each once, as in 1h30m"),
            ("", ""),
            ("soon", ""),
            ("-1s", ""),
            ("4000d", "the longest is 3650d"),
            ("99999999999999999999s", "that is too large"),
            ("18446744073709551615d18446744073709551615h", "the longest is 3650d"),
        ] {
            assert_eq!(parse_duration(text), Err(hint.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_and_rates_are_read() {
        assert_eq!(parse_size("64KiB"), Ok(Size(65_536)));
        assert_eq!(parse_size("10MB"), Err("did you mean \"10MiB\"?".to_owned()));
        assert_eq!(
            parse_size("99999999999999999999"),
            Err("did you mean \"99999999999999999999B\"?".to_owned())
        );
        assert_eq!(parse_size("17179869184GiB"), Err("that is too large".to_owned()));
        assert_eq!(parse_rate("100/s"), Ok(Rate(100)));
        assert_eq!(parse_rate("100"), Err("did you mean \"100/s\"?".to_owned()));
        assert_eq!(parse_throughput("10MiB/s"), Ok(Throughput(10 << 20)));
        for (text, hint) in [
            ("10MiB", "did you mean \"10MiB/s\"?"),
            ("10MB/s", "did you mean \"10MiB/s\"?"),
            ("10/s", "did you mean \"10B/s\"?"),
            ("10mbit", "bytes, not bits: 8 Mbit/s are 1MB/s, written 1000000B/s"),
            ("10MiB/m", "it ends in /s"),
            ("fast", ""),
        ] {
            assert_eq!(parse_throughput(text), Err(hint.to_owned()), "{text}");
        }
        assert_eq!(parse_rate("6/m"), Err("a rate ends in /s".to_owned()));
        let whole = "a whole number of them; the lowest rate is 1/s";
        assert_eq!(parse_rate("0.5/s"), Err(whole.to_owned()));
        assert_eq!(parse_duration("1m 30s"), Err("did you mean \"1m30s\"?".to_owned()));
        assert_eq!(parse_duration("1m 30x"), Err("without spaces, as in 1m30s".to_owned()));
    }

    proptest! {
        #[test]
        fn every_duration_survives_the_round_trip(value in 0..=LONGEST.as_secs() * 1_000) {
            prop_assert_eq!(parse_duration(&print_duration(ms(value))), Ok(ms(value)));
        }

        #[test]
        fn every_size_and_rate_survives_the_round_trip(bytes: u64, shift in 0..64_u32, rate: u32) {
            let size = Size(bytes >> shift << shift.min(40));
            prop_assert_eq!(parse_size(&print_size(size)), Ok(size));
            prop_assert_eq!(parse_rate(&print_rate(Rate(rate))), Ok(Rate(rate)));
            let through = Throughput(size.0);
            prop_assert_eq!(parse_throughput(&print_throughput(through)), Ok(through));
        }

        #[test]
        fn no_text_panics(text in "\\PC*", numbers in "[0-9]{0,30}[a-zµ./ ]{0,4}[0-9]{0,3}[a-z]{0,2}") {
            for text in [text, numbers] {
                let _ = parse_duration(&text);
                let _ = parse_size(&text);
                let _ = parse_rate(&text);
                let _ = parse_throughput(&text);
            }
        }
    }
}
