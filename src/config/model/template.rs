//! Placeholders in the commands of probes and actions: `{backend}` is put in, `{{` is a brace.

use std::fmt::Write as _;

use super::super::nearest::nearest;
use super::super::problem::show;

/// What the command of a probe may hold.
pub const PROBE_PLACEHOLDERS: &[&str] = &["pool", "backend", "host", "port"];
/// What the command of an action may hold.
pub const ACTION_PLACEHOLDERS: &[&str] = &["pool", "backend", "host", "port", "event", "cause"];

/// The values of placeholders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values<'v> {
    /// The name of the pool.
    pub pool: &'v str,
    /// The name of the backend.
    pub backend: &'v str,
    /// The IP address of the backend, without brackets, or the path of its socket.
    pub host: &'v str,
    /// The port of the backend; empty for a unix socket.
    pub port: &'v str,
    /// What has happened; empty for a probe.
    pub event: &'v str,
    /// Why; empty for a probe.
    pub cause: &'v str,
}

impl<'v> Values<'v> {
    fn of(&self, name: &str) -> Option<&'v str> {
        Some(match name {
            "pool" => self.pool,
            "backend" => self.backend,
            "host" => self.host,
            "port" => self.port,
            "event" => self.event,
            "cause" => self.cause,
            _ => return None,
        })
    }
}

/// Puts values in the place of placeholders, and braces in the place of doubled ones.
///
/// What is no placeholder stays as it is; a configuration has none such.
#[must_use]
pub fn expand(text: &str, values: &Values<'_>) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Name(name) => match values.of(name) {
                Some(value) => out.push_str(value),
                None => _ = write!(out, "{{{name}}}"),
            },
            Piece::Stray(brace) => out.push(brace),
        }
    }
    out
}

/// Whether a text holds none but these placeholders. The error is a hint.
///
/// # Errors
///
/// When it holds another, or a brace on its own.
pub(in super::super) fn check(text: &str, known: &[&str]) -> Result<(), String> {
    for piece in pieces(text) {
        match piece {
            Piece::Name(name) if !known.contains(&name) => {
                let wrong = show(&format!("{{{name}}}"));
                return Err(match nearest(name, known.iter().copied()) {
                    Some(meant) => format!("for {wrong}, did you mean {{{meant}}}?"),
                    None if ACTION_PLACEHOLDERS.contains(&name) => {
                        format!("{wrong} is known to recovery actions only")
                    }
                    None => {
                        format!(
                            "{wrong} is none of them; for braces as they are, write {{{{ and }}}}"
                        )
                    }
                });
            }
            Piece::Stray(brace) => {
                return Err(format!("for a brace as it is, write {brace}{brace}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'t> {
    /// As it is.
    Text(&'t str),
    /// What stands between braces.
    Name(&'t str),
    /// A brace without its other.
    Stray(char),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let at = rest.find(['{', '}']);
        let (piece, after) = match (at, rest.as_bytes()) {
            (_, []) => return None,
            (Some(0), [b'{', b'{', ..] | [b'}', b'}', ..]) => (Piece::Text(&rest[..1]), &rest[2..]),
            (Some(0), [b'{', ..]) => match rest[1..].find(['{', '}']) {
                Some(end) if rest.as_bytes()[1 + end] == b'}' => {
                    (Piece::Name(&rest[1..=end]), &rest[end + 2..])
                }
                _ => (Piece::Stray('{'), &rest[1..]),
            },
            (Some(0), _) => (Piece::Stray('}'), &rest[1..]),
            (Some(at), _) => (Piece::Text(&rest[..at]), &rest[at..]),
            (None, _) => (Piece::Text(rest), ""),
        };
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: Values<'_> = Values {
        pool: "app",
        backend: "app-2",
        host: "10.0.0.2",
        port: "9501",
        event: "evict",
        cause: "probe",
    };

    #[test]
    fn placeholders_are_replaced_and_doubled_braces_are_braces() {
        for (text, expanded) in [
            ("swoole@{backend}", "swoole@app-2"),
            ("{host}:{port}", "10.0.0.2:9501"),
            ("{pool}{event}{cause}", "appevictprobe"),
            ("{{\"pool\": \"{pool}\"}}", "{\"pool\": \"app\"}"),
            ("{{{pool}}}", "{app}"),
            ("{{pool}}", "{pool}"),
            ("", ""),
            ("é{pool}é", "éappé"),
        ] {
            assert_eq!(check(text, ACTION_PLACEHOLDERS), Ok(()), "{text}");
            assert_eq!(expand(text, &VALUES), expanded, "{text}");
        }
    }

    #[test]
    fn a_value_is_not_looked_at_again() {
        let values = Values { pool: "{backend}", ..VALUES };
        assert_eq!(expand("{pool}", &values), "{backend}");
    }

    #[test]
    fn what_is_no_placeholder_gets_a_hint() {
        for (text, hint) in [
            ("{bakend}", "for \"{bakend}\", did you mean {backend}?"),
            ("{event}", "\"{event}\" is known to recovery actions only"),
            ("{", "for a brace as it is, write {{"),
            ("a}b", "for a brace as it is, write }}"),
            ("{a{pool}", "for a brace as it is, write {{"),
        ] {
            assert_eq!(check(text, PROBE_PLACEHOLDERS), Err(hint.to_owned()), "{text}");
        }
        let hint = check("{\"a\": 1}", PROBE_PLACEHOLDERS).unwrap_err();
        assert!(hint.ends_with("for braces as they are, write {{ and }}"), "{hint}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[{}a-z]{0,12}|\\PC{0,12}") {
            let _ = expand(&text, &VALUES);
            let _ = check(&text, PROBE_PLACEHOLDERS);
        }

        #[test]
        fn doubled_braces_give_any_text(text in "\\PC{0,20}|[{}]{0,9}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(check(&doubled, &[]), Ok(()));
            prop_assert_eq!(expand(&doubled, &VALUES), text);
        }
    }
}
