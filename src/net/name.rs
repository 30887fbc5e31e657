//! Host names as values: one as it is compared, and a pattern that stands for many. No I/O.

use std::fmt;

/// The longest name: RFC 1035, section 2.3.4, as text without the final dot.
pub const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A host name as it is compared: in lower case, without a final dot. `None` for what is none.
///
/// Letters, digits, hyphens, and underscores, which names in use have although host names may not.
/// A name whose last label is a number is an IPv4 address, which is no name.
#[must_use]
pub fn host_name(bytes: &[u8]) -> Option<Box<str>> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    if bytes.len() > LONGEST {
        return None;
    }
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &[u8]| {
        (1..=LONGEST_LABEL).contains(&label.len()) && label.iter().all(|byte| is_inner(*byte))
    };
    let last = bytes.rsplit(|byte| *byte == b'.').next()?;
    if !bytes.split(|byte| *byte == b'.').all(is_label) || last.iter().all(u8::is_ascii_digit) {
        return None;
    }
    String::from_utf8(bytes.to_ascii_lowercase()).ok().map(Into::into)
}

/// Checks a name as a person writes it: what [`host_name`] takes, without hyphens at the ends of its
/// labels (RFC 952), which clients may ask for all the same.
///
/// # Errors
///
/// A hint, when the text is none.
pub fn parse_host_name(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let has_hyphen = |label: &str| label.starts_with('-') || label.ends_with('-');
    let is_hyphened = name.split('.').any(has_hyphen);
    if host_name(text.as_bytes()).is_some() && !is_hyphened {
        return Ok(());
    }
    let is_inner = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_label = |label: &str| (1..=LONGEST_LABEL).contains(&label.len());
    Err(match name.chars().find(|c| !is_inner(c)) {
        _ if name.is_empty() => "the name is missing".to_owned(),
        Some(wrong) if wrong.is_alphabetic() => {
            "write an international name in its ASCII form (xn--…)".to_owned()
        }
        Some(wrong) => format!("without {wrong:?}"),
        None if name.len() > LONGEST => format!("a name has at most {LONGEST} characters"),
        None if is_hyphened || !name.split('.').all(is_label) => {
            format!("each part has 1 to {LONGEST_LABEL} characters and no - at its ends")
        }
        None => "the last part of a name is no number".to_owned(),
    })
}

/// Which names a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamePattern {
    /// Any name, but not none.
    Any,
    /// This name.
    Exact(Box<str>),
    /// Every name below this one, however far, and not this one itself.
    Below(Box<str>),
}

impl NamePattern {
    /// Reads `api.example.com`, `*.example.com` or `*`, in any case, with or without a final dot.
    ///
    /// # Errors
    ///
    /// A hint, when the text is no such pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (is_below, name) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        match host_name(name.as_bytes()) {
            Some(name) if is_below => Ok(Self::Below(name)),
            Some(name) => Ok(Self::Exact(name)),
            None => Err(hint(text, name)),
        }
    }

    /// Whether it stands for `name`, which is as [`host_name`] gives it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(own) => **own == *name,
            Self::Below(suffix) => is_below(name, suffix),
        }
    }

    /// Whether it stands for every name that `other` stands for.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Below(wide), Self::Below(narrow)) => wide == narrow || is_below(narrow, wide),
            _ => false,
        }
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn hint(text: &str, name: &str) -> String {
    if let Some(rest) = text.strip_prefix('.') {
        return format!("did you mean \"*.{rest}\"?");
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return "clients do not ask for an IP address by name; match `source` or `port`".to_owned();
    }
    if name.contains('*') {
        return "a `*` stands for whole labels at the front, as in *.example.com".to_owned();
    }
    if !name.is_ascii() {
        return "write it as it is on the wire, as in xn--bcher-kva.example".to_owned();
    }
    if name.contains(':') || name.contains('/') {
        return "a name alone, without scheme, port or path".to_owned();
    }
    String::new()
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> NamePattern {
        NamePattern::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_is_a_name_everything_below_one_or_any() {
        let written = [
            ("Example.COM.", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("*", "*"),
            ("*.com", "*.com"),
            ("localhost", "localhost"),
        ];
        for (text, printed) in written {
            assert_eq!(pattern(text).to_string(), printed);
            assert_eq!(pattern(printed), pattern(text));
        }
    }

    #[test]
    fn what_is_no_name_gets_a_hint() {
        for text in ["app", "App.Internal.", "_web._tcp.test", "10a", "1.2.a"] {
            assert_eq!(parse_host_name(text), Ok(()), "{text}");
        }
        let long = ["a".repeat(63).as_str(); 4].join(".");
        let label = "each part has 1 to 63 characters and no - at its ends";
        for (text, hint) in [
            ("", "the name is missing"),
            (".", "the name is missing"),
            ("bücher", "write an international name in its ASCII form (xn--…)"),
            ("a b", "without ' '"),
            (&long, "a name has at most 253 characters"),
            ("a..b", label),
            ("-a", label),
            ("a-.b", label),
            (&"a".repeat(64), label),
            ("app.10", "the last part of a name is no number"),
        ] {
            assert_eq!(parse_host_name(text), Err(hint.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_gets_a_hint() {
        let hints = [
            (".example.com", "did you mean \"*.example.com\"?"),
            ("www.*.com", "a `*` stands for whole labels at the front, as in *.example.com"),
            ("*a.com", "a `*` stands for whole labels at the front, as in *.example.com"),
            ("**", "a `*` stands for whole labels at the front, as in *.example.com"),
            ("192.0.2.1", "clients do not ask for an IP address by name; match `source` or `port`"),
            ("bücher.example", "write it as it is on the wire, as in xn--bcher-kva.example"),
            ("https://example.com", "a name alone, without scheme, port or path"),
            ("example.com:443", "a name alone, without scheme, port or path"),
            ("", ""),
            ("*.", ""),
            ("a..b", ""),
        ];
        for (text, hint) in hints {
            assert_eq!(NamePattern::parse(text), Err(hint.to_owned()), "{text}");
        }
    }

    #[test]
    fn below_means_any_depth_and_not_the_name_itself() {
        let below = pattern("*.example.com");
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches("anexample.com"));
        assert!(!below.matches(".example.com"));
        assert!(pattern("*").matches("a") && pattern("a.b").matches("a.b"));
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        for (wide, narrow) in [
            ("*", "*"),
            ("*", "*.com"),
            ("*", "a.b"),
            ("*.com", "*.com"),
            ("*.com", "*.b.com"),
            ("*.com", "b.com"),
            ("a.b", "a.b"),
        ] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
            let is_same = wide == narrow;
            assert_eq!(pattern(narrow).covers(&pattern(wide)), is_same, "{narrow} {wide}");
        }
        assert!(!pattern("*.com").covers(&pattern("*.acom")));
        assert!(!pattern("*.b.com").covers(&pattern("b.com")));
    }
}
