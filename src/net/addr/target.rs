//! Where a backend is, as written: an address, or a name to be looked up.

use std::fmt;

use super::super::name::parse_host_name;
use super::{Address, MAX_UNIX_PATH, Use, is_name, parse_ports, split_port};

/// An address, or a name that stands for some.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// An address.
    Address(Address),
    /// Every address of a host, at one port.
    Host {
        /// Its name, in lower case; a dot at its end is kept and means that it is complete.
        name: Box<str>,
        /// The port.
        port: u16,
    },
    /// Every host and port of a service (RFC 2782), in lower case.
    Service(Box<str>),
}

impl Target {
    /// Reads what [`Address::parse`] reads, `app.internal:9501`, or `srv+_app._tcp.internal`.
    ///
    /// # Errors
    ///
    /// A hint, when the text is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("unix:") {
            return Address::parse(text).map(Self::Address);
        }
        if let Some(name) = text.strip_prefix("srv+") {
            return match split_port(name) {
                Some((name, _)) => Err(format!("a service has its ports itself: srv+{name}")),
                None => parse_host_name(name).map(|()| Self::Service(lower(name))),
            };
        }
        if let Some((host, port)) = split_port(text).filter(|(host, _)| is_host_name(host)) {
            parse_host_name(host)?;
            let ports = parse_ports(port, Use::Connect)?;
            return match *ports.start() {
                0 => Err("nothing can be reached at port 0".to_owned()),
                port => Ok(Self::Host { name: lower(host), port }),
            };
        }
        if is_host_name(text) && text.len() <= MAX_UNIX_PATH {
            return Err(match text.starts_with('_') {
                true => format!("did you mean \"srv+{text}\"?"),
                false => format!("the port is missing; write {text}:9501 for port 9501"),
            });
        }
        Address::parse(text).map(Self::Address)
    }

    /// The address, where it is one.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Address(address) => Some(address),
            Self::Host { .. } | Self::Service(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Service(name) => write!(f, "srv+{name}"),
        }
    }
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

/// Whether a text can only be meant as a name.
fn is_host_name(text: &str) -> bool {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    is_name(text) && !text.chars().all(is_number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_name() {
        for text in ["10.0.0.1:80", "[::1]:80", "unix:/run/a"] {
            let address = Address::parse(text).unwrap();
            assert_eq!(Target::parse(text), Ok(Target::Address(address)), "{text}");
        }
        let host = |name: &str, port| Target::Host { name: name.into(), port };
        assert_eq!(Target::parse("App.internal:9501"), Ok(host("app.internal", 9501)));
        assert_eq!(Target::parse("localhost:80"), Ok(host("localhost", 80)));
        assert_eq!(Target::parse("app.internal.:80"), Ok(host("app.internal.", 80)));
        assert_eq!(Target::parse("10a:80"), Ok(host("10a", 80)));
        let service = Target::Service("_app._tcp.internal".into());
        assert_eq!(Target::parse("srv+_App._tcp.internal"), Ok(service));
    }

    #[test]
    fn what_is_no_target_gets_a_hint() {
        for (text, hint) in [
            ("app.internal", "the port is missing; write app.internal:9501 for port 9501"),
            ("_app._tcp.internal", "did you mean \"srv+_app._tcp.internal\"?"),
            ("srv+app:80", "a service has its ports itself: srv+app"),
            ("srv+", "the name is missing"),
            ("srv+bücher", "write an international name in its ASCII form (xn--…)"),
            ("app:0", "nothing can be reached at port 0"),
            ("app:http", "a port is a whole number from 1 to 65535"),
            ("app:80-90", "a backend has one port; write one backend for each port"),
            ("a..b:80", "each part has 1 to 63 characters and no - at its ends"),
            ("app.10:80", "the last part of a name is no number"),
            (
                "10.0.0.256:80",
                "an IPv4 address is four numbers from 0 to 255 without leading zeros",
            ),
            ("", ""),
        ] {
            assert_eq!(Target::parse(text), Err(hint.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_target_survives_the_round_trip(
            text in "(srv\\+)?[a-zA-Z]([a-z0-9_]{0,8}\\.){0,3}[a-z0-9]{1,8}(:[1-9][0-9]{0,3})?",
        ) {
            if let Ok(target) = Target::parse(&text) {
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*", near in "(srv\\+|unix:)?[a-z_.0-9:\\[\\]-]{0,24}") {
            for text in [text, near] {
                let _ = Target::parse(&text);
            }
        }
    }
}
