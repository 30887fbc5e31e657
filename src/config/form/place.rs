//! Forms of what says where: addresses, networks, names, ports, files.

use std::net::{IpAddr, SocketAddr};

use super::super::model::AccessLog;
use super::{FilePath, Text};
use crate::net::addr::{self, Address, Bind, Target};
use crate::net::cidr::Origin;
use crate::net::name::{NamePattern, parse_host_name};

/// The pattern of a port from 1.
macro_rules! port {
    () => {
        "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}

/// Where a backend is.
pub struct BackendTarget;

impl Text for BackendTarget {
    type Value = Target;
    const NAME: &'static str = "address";
    const EXPECTED: &'static str =
        "an address such as 10.0.0.11:9501, app.internal:9501 or unix:/run/app.sock";
    const PATTERN: &'static str =
        concat!(r"^(unix:/.*[^/]|srv\+[A-Za-z0-9_.-]+|[^/]+:", port!(), ")$");

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text)
    }

    fn print(value: &Target) -> String {
        value.to_string()
    }
}

/// An address to listen on, or a range of them.
pub struct BindAddress;

impl Text for BindAddress {
    type Value = Bind;
    const NAME: &'static str = "bind";
    const EXPECTED: &'static str =
        "an address such as 0.0.0.0:9501, \"[::]:443\", 0.0.0.0:9501-9504 or unix:/run/lb.sock";
    const PATTERN: &'static str =
        concat!("^(unix:/.*[^/]|[^/]+:(0+|", port!(), "(-", port!(), ")?))$");

    fn parse(text: &str) -> Result<Bind, String> {
        Bind::parse(text)
    }

    fn print(value: &Bind) -> String {
        match value {
            Bind::Tcp(host, ports) if ports.len() == 1 => host.at(*ports.start()).to_string(),
            Bind::Tcp(host, ports) => format!("{}-{}", host.at(*ports.start()), ports.end()),
            Bind::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// An IP address.
pub struct Ip;

impl Text for Ip {
    type Value = IpAddr;
    const NAME: &'static str = "ip";
    const EXPECTED: &'static str = "an IP address";
    const PATTERN: &'static str = "^[0-9A-Fa-f:.]+$";

    fn parse(text: &str) -> Result<IpAddr, String> {
        addr::parse_ip(text)
    }

    fn print(value: &IpAddr) -> String {
        value.to_string()
    }
}

/// One address to listen on, where ranges are written out.
pub struct ListenAddress;

impl Text for ListenAddress {
    type Value = Address;
    const NAME: &'static str = "listen address";
    const EXPECTED: &'static str = "an address such as 127.0.0.1:9900 or unix:/run/lb.sock";
    const PATTERN: &'static str = concat!("^(unix:/.*[^/]|[^/]+:(0+|", port!(), "))$");

    fn parse(text: &str) -> Result<Address, String> {
        let mut addresses = Bind::parse(text)?.addresses().into_iter();
        match (addresses.next(), addresses.next()) {
            (Some(address), None) => Ok(address),
            _ => Err("one port, not a range".to_owned()),
        }
    }

    fn print(value: &Address) -> String {
        value.to_string()
    }
}

/// The address of the admin endpoint.
pub type OneBind = ListenAddress;

/// A network that clients come from.
pub struct SourceOrigin;

impl Text for SourceOrigin {
    type Value = Origin;
    const NAME: &'static str = "network";
    const EXPECTED: &'static str = "a network such as 10.0.0.0/8, an IP address, or unix";
    const PATTERN: &'static str = "^(unix|[0-9A-Fa-f:.]+(/[0-9]{1,3})?)$";

    fn parse(text: &str) -> Result<Origin, String> {
        Origin::parse(text)
    }

    fn print(value: &Origin) -> String {
        match value {
            Origin::Net(cidr) => cidr.to_string(),
            Origin::Unix => "unix".to_owned(),
        }
    }
}

/// A port.
pub struct PortNumber;

impl Text for PortNumber {
    type Value = u16;
    const NAME: &'static str = "port";
    const EXPECTED: &'static str = "a port from 1 to 65535";
    const PATTERN: &'static str = concat!("^", port!(), "$");
    const NUMBERS: Option<(u64, u64)> = Some((1, 65_535));

    fn parse(text: &str) -> Result<u16, String> {
        super::super::scalar::integer(text, 1, u16::MAX.into())
            .map(|port| u16::try_from(port).unwrap_or(u16::MAX))
            .map_err(|hint| match text.split_once('-') {
                Some((first, last))
                    if first.parse::<u16>().is_ok() && last.parse::<u16>().is_ok() =>
                {
                    "no ranges; write each port".to_owned()
                }
                _ => hint,
            })
    }

    fn print(value: &u16) -> String {
        value.to_string()
    }

    fn measure(value: &u16) -> Option<u64> {
        Some((*value).into())
    }
}

/// A server name that a route is for.
pub struct Sni;

impl Text for Sni {
    type Value = NamePattern;
    const NAME: &'static str = "name pattern";
    const EXPECTED: &'static str = "a name such as api.example.com, *.example.com, or * for any";
    const PATTERN: &'static str = r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?)$";

    fn parse(text: &str) -> Result<NamePattern, String> {
        NamePattern::parse(text)
    }

    fn print(value: &NamePattern) -> String {
        value.to_string()
    }
}

/// The name of a protocol (RFC 7301, section 3.1).
pub struct AlpnToken;

impl Text for AlpnToken {
    type Value = String;
    const NAME: &'static str = "protocol";
    const EXPECTED: &'static str = "the name of a protocol such as h2 or http/1.1";
    const PATTERN: &'static str = r"^[\x21-\x7e]{1,255}$";

    fn parse(text: &str) -> Result<String, String> {
        match text.to_ascii_lowercase().as_str() {
            "" => return Err(String::new()),
            "http2" | "http/2" | "http/2.0" => return Err("did you mean \"h2\"?".to_owned()),
            "http3" | "http/3" => return Err("did you mean \"h3\"?".to_owned()),
            "http" | "http1" | "http1.1" | "http/1" => {
                return Err("did you mean \"http/1.1\"?".to_owned());
            }
            lower @ ("h2" | "http/1.0" | "http/1.1") if lower != text => {
                return Err(format!("did you mean \"{lower}\"? Case matters"));
            }
            _ => {}
        }
        match text.chars().find(|c| !c.is_ascii_graphic()) {
            Some(' ' | '\t') => Err("for several write a list: [h2, http/1.1]".to_owned()),
            Some(wrong) => Err(format!("without {wrong:?}")),
            None if text.contains(',') => {
                Err("for several write a list: [h2, http/1.1]".to_owned())
            }
            None if text.len() > 255 => Err("it has at most 255 characters".to_owned()),
            None => Ok(text.to_owned()),
        }
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// Where a name server is.
pub struct NameServer;

impl Text for NameServer {
    type Value = SocketAddr;
    const NAME: &'static str = "name server";
    const EXPECTED: &'static str =
        "an IP address such as 10.0.0.53, 10.0.0.53:5353 or \"[fd00::53]:53\"";
    const PATTERN: &'static str = r"^[0-9A-Fa-f:.\[\]]+$";

    fn parse(text: &str) -> Result<SocketAddr, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, 53));
        }
        match text.parse::<SocketAddr>() {
            Ok(server) if server.port() == 0 => Err("nothing can be reached at port 0".to_owned()),
            Ok(server) => Ok(server),
            Err(_) if parse_host_name(text).is_ok() => {
                Err("its address, not its name: names are what it is asked for".to_owned())
            }
            Err(_) => Err(String::new()),
        }
    }

    fn print(value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// Where the access log goes.
pub struct AccessTarget;

impl Text for AccessTarget {
    type Value = AccessLog;
    const NAME: &'static str = "log target";
    const EXPECTED: &'static str = "stdout, or the absolute path of a file";
    const PATTERN: &'static str = "^(stdout|/.*[^/])$";

    fn parse(text: &str) -> Result<AccessLog, String> {
        match text {
            "stdout" => Ok(AccessLog::Stdout),
            "-" | "on" | "true" | "yes" | "/dev/stdout" => {
                Err("did you mean \"stdout\"?".to_owned())
            }
            "stderr" | "/dev/stderr" => Err("standard error is for the log itself".to_owned()),
            _ => FilePath::parse(text).map(AccessLog::File),
        }
    }

    fn print(value: &AccessLog) -> String {
        match value {
            AccessLog::Stdout => "stdout".to_owned(),
            AccessLog::File(path) => path.display().to_string(),
        }
    }
}

/// A name that the admin endpoint may be called by.
pub struct AdminHost;

impl Text for AdminHost {
    type Value = String;
    const NAME: &'static str = "host name";
    const EXPECTED: &'static str = "a host name such as lb.internal";
    const PATTERN: &'static str = super::HostName::PATTERN;

    fn parse(text: &str) -> Result<String, String> {
        if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err("IP addresses are always allowed; leave it out".to_owned());
        }
        if text.eq_ignore_ascii_case("localhost") {
            return Err("localhost is always allowed; leave it out".to_owned());
        }
        if text.contains('*') {
            return Err("no wildcards; write each name".to_owned());
        }
        super::HostName::parse(text)
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}
