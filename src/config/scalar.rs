//! One piece of text as a value: what `off`, `017` or `1_000` means where a number is expected.

use serde_yaml::Value;

use super::shape::{Bound, Shape, Text};

/// The words that YAML 1.1 reads as false; all of them mean `off`.
const FALSE: &[&str] = &["false", "off", "no"];
const TRUE: &[&str] = &["true", "on", "yes"];

/// The value of a text, a whole number or a boolean. The error is a hint.
pub(super) fn leaf(value: &str, shape: &Shape) -> Result<Value, String> {
    match shape {
        Shape::Integer { min, max } => integer(value, *min, *max).map(Value::from),
        Shape::Boolean => boolean(value).map(Value::from).ok_or_else(String::new),
        Shape::Text(Text { form: Some(form), min, max }) => {
            let is_positive = min.as_ref().is_some_and(|min| min.measure > 0);
            let measure = match (form.check)(value) {
                // The form would say what zero looks like.
                Err(_) if value == "0" && is_positive => return Err(String::new()),
                checked => checked?,
            };
            let under = |min: &Bound| measure.is_some_and(|measure| measure < min.measure);
            let over = |max: &Bound| measure.is_some_and(|measure| measure > max.measure);
            match min.as_ref().is_some_and(under) || max.as_ref().is_some_and(over) {
                true => Err(String::new()),
                false => Ok(value.into()),
            }
        }
        _ => Ok(value.into()),
    }
}

/// Reads true or false, in every spelling of YAML 1.1 and 1.2 but the single letters.
pub(super) fn boolean(text: &str) -> Option<bool> {
    let is_it =
        |word: &&str| word.eq_ignore_ascii_case(text) && cases(word).iter().any(|c| c == text);
    let is_one = |words: &[&str]| words.iter().any(is_it);
    if is_one(TRUE) {
        return Some(true);
    }
    is_one(FALSE).then_some(false)
}

/// Every text that [`boolean`] reads as `value`.
pub(super) fn spellings(value: bool) -> Vec<String> {
    let words = if value { TRUE } else { FALSE };
    words.iter().flat_map(|word| cases(word)).collect()
}

/// A word in small letters, with a capital, in capitals.
fn cases(word: &str) -> [String; 3] {
    let mut title = word[..1].to_ascii_uppercase();
    title.push_str(&word[1..]);
    [word.to_owned(), title, word.to_ascii_uppercase()]
}

/// Reads a whole number in decimal. The error is a hint.
pub(super) fn integer(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let is_decimal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_decimal {
        let significant = text.trim_start_matches('0');
        if significant.len() < text.len() && text.len() > 1 {
            let shown = if significant.is_empty() { "0" } else { significant };
            return Err(format!("leading zeros may mean octal; write {shown}"));
        }
        return match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            Ok(number) if number < min => Err(String::new()),
            _ => Err(format!("the largest is {max}")),
        };
    }
    let digits: String = text.chars().filter(|c| !matches!(c, '_' | ',' | ' ')).collect();
    let is_grouped = digits.len() < text.len() && digits.bytes().all(|b| b.is_ascii_digit());
    Err(match text {
        _ if is_grouped && !digits.is_empty() => format!("write {digits}"),
        _ if text.ends_with('%') => "write the number without %".to_owned(),
        _ if text.starts_with("0x") || text.starts_with("0o") || text.starts_with("0b") => {
            "write it in decimal".to_owned()
        }
        _ => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_decimal() {
        assert_eq!(integer("0", 0, 9), Ok(0));
        assert_eq!(integer("18446744073709551615", 0, u64::MAX), Ok(u64::MAX));
        for (text, hint) in [
            ("", ""),
            ("-1", ""),
            ("+1", ""),
            ("1.0", ""),
            ("1e3", ""),
            ("١", ""),
            ("0", ""),
            ("101", "the largest is 100"),
            ("18446744073709551616", "the largest is 100"),
            ("017", "leading zeros may mean octal; write 17"),
            ("00", "leading zeros may mean octal; write 0"),
            ("0x11", "write it in decimal"),
            ("0o17", "write it in decimal"),
            ("1_0", "write 10"),
            ("20%", "write the number without %"),
            ("_", ""),
        ] {
            assert_eq!(integer(text, 1, 100), Err(hint.to_owned()), "{text}");
        }
    }

    #[test]
    fn booleans_are_those_of_either_yaml() {
        for text in ["true", "True", "TRUE", "yes", "On"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["false", "off", "Off", "OFF", "no"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["", "y", "n", "0", "1", "oFF", "offf"] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }
}
