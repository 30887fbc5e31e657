//! `${VAR}` and `${VAR:-default}` in a scalar.

use std::borrow::Cow;

use super::problem::show;

/// Bytes that all variables of a file together may add.
pub(super) const MAX_EXPANDED: usize = 16 << 20;

/// Things that are said about one scalar.
const MAX_WRONG: usize = 16;

/// Puts the values of variables in the place of their names.
///
/// `:-default` is taken when the variable is unset or empty. `$${` stands for `${`; any other `$` is
/// left alone. `budget` is the number of bytes that may still be added. Borrows what has no variable.
///
/// # Errors
///
/// One message for each thing that is wrong.
pub(super) fn expand<'a>(
    text: Cow<'a, str>,
    env: &dyn Fn(&str) -> Option<String>,
    budget: &mut usize,
) -> Result<Cow<'a, str>, Vec<String>> {
    if !text.contains("${") {
        return Ok(text);
    }
    let mut out = String::new();
    let mut wrong = Vec::new();
    let mut rest = text.as_ref();
    while let Some(at) = rest.find("${") {
        if *budget == 0 || wrong.len() >= MAX_WRONG {
            break;
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 2..];
        if out.ends_with('$') {
            out.push('{');
            continue;
        }
        let Some(end) = rest.find('}') else {
            wrong.push(format!("{} is not closed; to write it as it is, $${{", show("${")));
            break;
        };
        match value(&rest[..end], env) {
            Ok(value) if value.len() <= *budget => {
                *budget -= value.len();
                out.push_str(&value);
            }
            Ok(_) => {
                *budget = 0;
                wrong.push(format!("variables add more than {} MiB", MAX_EXPANDED >> 20));
            }
            Err(message) => wrong.push(message),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    if *budget == 0 && wrong.is_empty() {
        wrong.push(format!("variables add more than {} MiB", MAX_EXPANDED >> 20));
    }
    if wrong.is_empty() { Ok(Cow::Owned(out)) } else { Err(wrong) }
}

/// The value of what stands between `${` and `}`.
fn value(inner: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let shown = show(&format!("${{{inner}}}"));
        return Err(format!("expected ${{NAME}} or ${{NAME:-default}}, found {shown}"));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("the default of ${{{name}}} holds a variable; that is not supported"));
    }
    let found = env(name);
    match default {
        Some(default) => {
            Ok(found.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned()))
        }
        None => found.ok_or_else(|| {
            format!(
                "the environment variable {} is not set; set it, or write ${{{name}:-default}}",
                show(name).trim_matches('"')
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("10.0.0.1".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    fn expanded(text: &str) -> Result<String, Vec<String>> {
        expand(Cow::Borrowed(text), &env, &mut MAX_EXPANDED.clone()).map(Cow::into_owned)
    }

    #[test]
    fn variables_are_replaced() {
        for (text, value) in [
            ("plain $HOST $ {HOST}", "plain $HOST $ {HOST}"),
            ("${HOST}:9501", "10.0.0.1:9501"),
            ("${HOST}${HOST}", "10.0.0.110.0.0.1"),
            ("${UNSET:-x}", "x"),
            ("${UNSET:-}", ""),
            ("${EMPTY:-x}", "x"),
            ("[${EMPTY}]", "[]"),
            ("$${HOST}", "${HOST}"),
            ("a$${b${HOST}", "a${b10.0.0.1"),
            ("${NESTED}", "${HOST}"),
            ("${UNSET:-a:-b}", "a:-b"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn every_unset_variable_is_named() {
        let wrong = expanded("${A} ${HOST} ${B}").unwrap_err();
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].contains("variable A is not set"), "{wrong:?}");
        assert!(wrong[1].contains("variable B is not set"), "{wrong:?}");
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in ["${", "${HOST", "${}", "${1A}", "${A B}", "${A-b}", "${A:-${HOST}}"] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_add_no_more_than_the_budget() {
        let mut budget = 12;
        assert!(expand(Cow::Borrowed("${HOST}"), &env, &mut budget).is_ok());
        assert_eq!(budget, 4);
        assert!(expand(Cow::Borrowed("${HOST}"), &env, &mut budget).is_err());
    }
}
