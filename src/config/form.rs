//! The forms of text that values are written in.
//!
//! A new form is one type that implements [`Text`] and one line in [`FORMS`].

mod http;
mod place;

use std::path::PathBuf;
use std::time::Duration;

pub use http::{HostHeader, HostName, Method, RequestPath, Status, Url};
pub use place::{
    AccessTarget, AdminHost, AlpnToken, BackendTarget, BindAddress, Ip, ListenAddress,
};
pub use place::{NameServer, OneBind, PortNumber, Sni, SourceOrigin};

use super::model::{ACTION_PLACEHOLDERS, PROBE_PLACEHOLDERS, check_template};
use super::unit::{self, Rate, Size, Throughput};

/// A value that is written as text.
pub trait Text {
    /// The value.
    type Value;
    /// Its name in the schema (`x-form`).
    const NAME: &'static str;
    /// What is expected, for problems and the reference page: "a duration such as 2s".
    const EXPECTED: &'static str;
    /// A regular expression (ECMA 262) that every valid text matches; for editors.
    const PATTERN: &'static str;
    /// The whole numbers that are of this form, where not all are or none is. YAML readers take bare
    /// digits for a number; for editors.
    const NUMBERS: Option<(u64, u64)> = None;

    /// Reads the value. The error is a hint: what to do about it, or empty.
    ///
    /// # Errors
    ///
    /// When the text is not of this form.
    fn parse(text: &str) -> Result<Self::Value, String>;

    /// Writes the value so that [`Text::parse`] reads it again.
    fn print(value: &Self::Value) -> String;

    /// A number to compare values by, where the form has an order.
    fn measure(_value: &Self::Value) -> Option<u64> {
        None
    }
}

/// One row of [`FORMS`]: a [`Text`] without its type.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// [`Text::NAME`].
    pub name: &'static str,
    /// [`Text::EXPECTED`].
    pub expected: &'static str,
    /// [`Text::PATTERN`].
    pub pattern: &'static str,
    /// [`Text::NUMBERS`].
    pub numbers: Option<(u64, u64)>,
    /// Checks a text; gives its measure, or a hint.
    pub check: fn(&str) -> Result<Option<u64>, String>,
}

impl Form {
    const fn of<T: Text>() -> Self {
        Self {
            name: T::NAME,
            expected: T::EXPECTED,
            pattern: T::PATTERN,
            numbers: T::NUMBERS,
            check: |text| T::parse(text).map(|value| T::measure(&value)),
        }
    }
}

/// Every form of text. The only such list.
pub const FORMS: &[Form] = &[
    Form::of::<Name>(),
    Form::of::<Period>(),
    Form::of::<Bytes>(),
    Form::of::<PerSecond>(),
    Form::of::<PerByteSecond>(),
    Form::of::<BackendTarget>(),
    Form::of::<BindAddress>(),
    Form::of::<OneBind>(),
    Form::of::<Ip>(),
    Form::of::<SourceOrigin>(),
    Form::of::<PortNumber>(),
    Form::of::<Sni>(),
    Form::of::<AlpnToken>(),
    Form::of::<NameServer>(),
    Form::of::<AccessTarget>(),
    Form::of::<AdminHost>(),
    Form::of::<FilePath>(),
    Form::of::<Plain>(),
    Form::of::<Filled>(),
    Form::of::<ProbeArgument>(),
    Form::of::<ActionArgument>(),
    Form::of::<Method>(),
    Form::of::<RequestPath>(),
    Form::of::<HostName>(),
    Form::of::<HostHeader>(),
    Form::of::<Status>(),
    Form::of::<Url>(),
];

/// The name of a listener, a pool or a backend.
pub struct Name;

impl Text for Name {
    type Value = String;
    const NAME: &'static str = "name";
    const EXPECTED: &'static str = "a name of 1 to 128 letters, digits, _ . or -";
    const PATTERN: &'static str = "^[A-Za-z0-9_.-]{1,128}$";

    fn parse(text: &str) -> Result<String, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if let Some(wrong) = text.chars().find(|c| !allowed(*c)) {
            return Err(format!("without {wrong:?}"));
        }
        match text.len() {
            0 => Err(String::new()),
            1..=128 => Ok(text.to_owned()),
            length => Err(format!("it has {length}")),
        }
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// A duration.
pub struct Period;

impl Text for Period {
    type Value = Duration;
    const NAME: &'static str = "duration";
    const EXPECTED: &'static str = "a duration such as 250ms, 2s or 1m30s";
    const PATTERN: &'static str = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

    fn parse(text: &str) -> Result<Duration, String> {
        unit::parse_duration(text)
    }

    fn print(value: &Duration) -> String {
        unit::print_duration(*value)
    }

    fn measure(value: &Duration) -> Option<u64> {
        u64::try_from(value.as_millis()).ok()
    }
}

/// A number of bytes.
pub struct Bytes;

impl Text for Bytes {
    type Value = Size;
    const NAME: &'static str = "size";
    const EXPECTED: &'static str = "a size such as 64KiB or 10MiB";
    const PATTERN: &'static str = "^[0-9]+(B|KiB|MiB|GiB)$";

    fn parse(text: &str) -> Result<Size, String> {
        unit::parse_size(text)
    }

    fn print(value: &Size) -> String {
        unit::print_size(*value)
    }

    fn measure(value: &Size) -> Option<u64> {
        Some(value.0)
    }
}

/// A number of events a second.
pub struct PerSecond;

impl Text for PerSecond {
    type Value = Rate;
    const NAME: &'static str = "rate";
    const EXPECTED: &'static str = "a rate such as 100/s";
    const PATTERN: &'static str = "^[0-9]+/s$";

    fn parse(text: &str) -> Result<Rate, String> {
        unit::parse_rate(text)
    }

    fn print(value: &Rate) -> String {
        unit::print_rate(*value)
    }

    fn measure(value: &Rate) -> Option<u64> {
        Some(u64::from(value.0))
    }
}

/// A number of bytes a second.
pub struct PerByteSecond;

impl Text for PerByteSecond {
    type Value = Throughput;
    const NAME: &'static str = "throughput";
    const EXPECTED: &'static str = "bytes a second such as 10MiB/s";
    const PATTERN: &'static str = "^[0-9]+(B|KiB|MiB|GiB)/s$";

    fn parse(text: &str) -> Result<Throughput, String> {
        unit::parse_throughput(text)
    }

    fn print(value: &Throughput) -> String {
        unit::print_throughput(*value)
    }

    fn measure(value: &Throughput) -> Option<u64> {
        Some(value.0)
    }
}

/// The path of a file.
pub struct FilePath;

impl Text for FilePath {
    type Value = PathBuf;
    const NAME: &'static str = "file";
    const EXPECTED: &'static str =
        "the absolute path of a file, such as /var/lib/tidegate/state.json";
    const PATTERN: &'static str = "^/.*[^/]$";

    fn parse(text: &str) -> Result<PathBuf, String> {
        match text {
            "" => Err(String::new()),
            _ if text.contains('\0') => Err("a path has no NUL".to_owned()),
            _ if !text.starts_with('/') => Err("it begins with /".to_owned()),
            _ if text.ends_with('/') => Err("that is a directory".to_owned()),
            _ => Ok(PathBuf::from(text)),
        }
    }

    fn print(value: &PathBuf) -> String {
        value.display().to_string()
    }
}

/// Any text.
pub struct Plain;

impl Text for Plain {
    type Value = String;
    const NAME: &'static str = "text";
    const EXPECTED: &'static str = "text";
    const PATTERN: &'static str = "";

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// Text of at least one character.
pub struct Filled;

impl Text for Filled {
    type Value = String;
    const NAME: &'static str = "non-empty text";
    const EXPECTED: &'static str = "text that is not empty";
    const PATTERN: &'static str = r"[\s\S]";

    fn parse(text: &str) -> Result<String, String> {
        if text.is_empty() { Err(String::new()) } else { Ok(text.to_owned()) }
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// An argument of a probe's command.
pub struct ProbeArgument;

impl Text for ProbeArgument {
    type Value = String;
    const NAME: &'static str = "argument of a probe";
    const EXPECTED: &'static str =
        "an argument, in which {pool}, {backend}, {host}, {port} are known";
    const PATTERN: &'static str = ARGUMENT;

    fn parse(text: &str) -> Result<String, String> {
        parse_argument(text, PROBE_PLACEHOLDERS)
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// An argument of a recovery action's command.
pub struct ActionArgument;

impl Text for ActionArgument {
    type Value = String;
    const NAME: &'static str = "argument of an action";
    const EXPECTED: &'static str =
        "an argument, in which {pool}, {backend}, {host}, {port}, {event}, {cause} are known";
    const PATTERN: &'static str = ARGUMENT;

    fn parse(text: &str) -> Result<String, String> {
        parse_argument(text, ACTION_PLACEHOLDERS)
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// Braces in pairs or doubled.
const ARGUMENT: &str = r"^([^{}]|\{\{|\}\}|\{[a-z]+\})*$";

fn parse_argument(text: &str, known: &[&str]) -> Result<String, String> {
    if text.contains('\0') {
        return Err("an argument has no NUL".to_owned());
    }
    check_template(text, known).map(|()| text.to_owned())
}
