//! Forms of what HTTP and TLS know: methods, paths, hosts, status codes, URLs.

use hyper::Uri;

use super::super::model::StatusRange;
use super::Text;
use crate::net::name::parse_host_name;

/// The method of a request.
pub struct Method;

impl Text for Method {
    type Value = String;
    const NAME: &'static str = "method";
    const EXPECTED: &'static str = "a method such as GET or HEAD";
    const PATTERN: &'static str = "^[A-Z]{1,16}$";

    fn parse(text: &str) -> Result<String, String> {
        let is_word = |text: &str| {
            (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase())
        };
        let upper = text.to_ascii_uppercase();
        match text {
            "CONNECT" => Err("that asks for a tunnel, not for an answer".to_owned()),
            text if is_word(text) => Ok(text.to_owned()),
            _ if is_word(&upper) => Err(format!("did you mean \"{upper}\"?")),
            _ => Err(String::new()),
        }
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// The target of a request: path and query.
pub struct RequestPath;

impl Text for RequestPath {
    type Value = String;
    const NAME: &'static str = "path";
    const EXPECTED: &'static str = "a path such as /healthz";
    const PATTERN: &'static str = r"^/[\x21-\x22\x24-\x7e]*$";

    fn parse(text: &str) -> Result<String, String> {
        if text.contains("://") && !text.starts_with('/') {
            return Err("without scheme and host; the latter is the key \"host\"".to_owned());
        }
        if !text.starts_with('/') {
            return Err("it begins with /".to_owned());
        }
        match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            Some('#') => Err("what follows # is never sent; leave it out".to_owned()),
            Some(wrong) if wrong.is_ascii() => {
                Err(format!("write {wrong:?} as %{:02X}", u32::from(wrong)))
            }
            Some(wrong) => Err(format!("percent-encode {wrong:?}")),
            None => Ok(text.to_owned()),
        }
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// A name of the DNS, as a client asks for it.
pub struct HostName;

impl Text for HostName {
    type Value = String;
    const NAME: &'static str = "host";
    const EXPECTED: &'static str = "a host name such as app.internal";
    const PATTERN: &'static str = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$";

    fn parse(text: &str) -> Result<String, String> {
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Err("that is an address, not a name".to_owned());
        }
        parse_name(text)?;
        Ok(text.to_owned())
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// A name without scheme, port and final dot. The error is a hint.
fn parse_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(String::new());
    }
    if text.contains('/') {
        return Err("the name alone, without scheme and path".to_owned());
    }
    if text.contains(':') {
        return Err("the name alone, without a port".to_owned());
    }
    if let Some(bare) = text.strip_suffix('.').filter(|bare| !bare.is_empty()) {
        return Err(format!("without the dot at the end: {bare}"));
    }
    parse_host_name(text)
}

/// The `Host` of a request: a name or an address, and a port where it is not the usual one.
pub struct HostHeader;

impl Text for HostHeader {
    type Value = String;
    const NAME: &'static str = "authority";
    const EXPECTED: &'static str = "a host such as app.internal, app.internal:8080 or 10.0.0.11";
    const PATTERN: &'static str = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?$";

    fn parse(text: &str) -> Result<String, String> {
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address stands in brackets: \"[{text}]\""));
        }
        if text.contains('/') {
            return Err("without scheme and path".to_owned());
        }
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match inner {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => {}
            Some(_) => return Err("what stands in brackets is no IPv6 address".to_owned()),
            None if host.parse::<std::net::Ipv4Addr>().is_ok() => {}
            None => parse_name(host)?,
        }
        match port {
            Some(port) if !is_port(port) || port.parse::<u16>().unwrap_or(0) == 0 => {
                Err("a port is a whole number from 1 to 65535".to_owned())
            }
            _ => Ok(text.to_owned()),
        }
    }

    fn print(value: &String) -> String {
        value.clone()
    }
}

/// A status code of HTTP, or a range of them.
pub struct Status;

impl Text for Status {
    type Value = StatusRange;
    const NAME: &'static str = "status";
    const EXPECTED: &'static str = "a status code such as 204, or a range such as 200-299";
    const PATTERN: &'static str = "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$";
    const NUMBERS: Option<(u64, u64)> = Some((100, 599));

    fn parse(text: &str) -> Result<StatusRange, String> {
        let code = |text: &str| -> Result<u16, String> {
            let is_number = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
            match text.parse() {
                Ok(code @ 100..=599) if is_number => Ok(code),
                Ok(_) => Err("status codes go from 100 to 599".to_owned()),
                Err(_) => Err(class_hint(text)),
            }
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (code(first)?, code(last)?),
            None => {
                let code = code(text)?;
                (code, code)
            }
        };
        if first > last {
            return Err(format!("the range goes down; did you mean \"{last}-{first}\"?"));
        }
        Ok(StatusRange { first, last })
    }

    fn print(value: &StatusRange) -> String {
        match value {
            StatusRange { first, last } if first == last => first.to_string(),
            StatusRange { first, last } => format!("{first}-{last}"),
        }
    }
}

/// What `2xx` and the like mean.
fn class_hint(text: &str) -> String {
    match text.to_ascii_lowercase().as_bytes() {
        [class @ b'1'..=b'5', b'x', b'x'] => {
            let class = char::from(*class);
            format!("did you mean \"{class}00-{class}99\"?")
        }
        _ if text.contains(',') => "for several write a list: [200, 204]".to_owned(),
        _ => String::new(),
    }
}

/// Where a webhook is sent.
pub struct Url;

impl Text for Url {
    type Value = Uri;
    const NAME: &'static str = "url";
    const EXPECTED: &'static str = "a URL such as http://ops.internal/hook";
    const PATTERN: &'static str = "^https?://[^/?#@]+([/?][^#]*)?$";

    fn parse(text: &str) -> Result<Uri, String> {
        if text.contains(['{', '}']) {
            return Err("a URL has no placeholders; pool, backend and cause are in the body".into());
        }
        if text.contains('#') {
            return Err("what follows # is never sent; leave it out".to_owned());
        }
        let Ok(uri) = text.parse::<Uri>() else { return Err(String::new()) };
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(other) => return Err(format!("{other} is not spoken; http and https are")),
            None => return Err("it begins with http:// or https://".to_owned()),
        }
        let Some(authority) = uri.authority() else { return Err("the host is missing".to_owned()) };
        if authority.as_str().contains('@') {
            return Err("without a user and a password".to_owned());
        }
        HostHeader::parse(authority.as_str()).map_err(|hint| match hint.is_empty() {
            true => "the host is missing".to_owned(),
            false => hint,
        })?;
        Ok(uri)
    }

    fn print(value: &Uri) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints<T: Text>(table: &[(&str, &str)])
    where
        T::Value: std::fmt::Debug + PartialEq,
    {
        for (text, hint) in table {
            assert_eq!(T::parse(text), Err((*hint).to_owned()), "{text}");
        }
    }

    fn same<T: Text>(texts: &[&str]) {
        for text in texts {
            match T::parse(text) {
                Ok(value) => assert_eq!(T::print(&value), *text),
                Err(hint) => panic!("{text}: {hint}"),
            }
        }
    }

    #[test]
    fn methods() {
        same::<Method>(&["GET", "HEAD", "PURGE"]);
        hints::<Method>(&[
            ("get", "did you mean \"GET\"?"),
            ("CONNECT", "that asks for a tunnel, not for an answer"),
            ("G ET", ""),
            ("", ""),
        ]);
    }

    #[test]
    fn paths() {
        same::<RequestPath>(&["/", "/healthz?deep=1&x=%20", "/{a}"]);
        hints::<RequestPath>(&[
            ("healthz", "it begins with /"),
            ("", "it begins with /"),
            ("/a b", "write ' ' as %20"),
            ("/a\r\nHost: x", "write '\\r' as %0D"),
            ("/é", "percent-encode 'é'"),
            ("/#top", "what follows # is never sent; leave it out"),
            ("http://x/", "without scheme and host; the latter is the key \"host\""),
        ]);
    }

    #[test]
    fn hosts() {
        same::<HostName>(&["app", "app.internal", "_sip.example.com", "xn--bcher-kva.example"]);
        hints::<HostName>(&[
            ("", ""),
            ("10.0.0.1", "that is an address, not a name"),
            ("app:80", "the name alone, without a port"),
            ("https://app", "the name alone, without scheme and path"),
            ("app.", "without the dot at the end: app"),
            ("a..b", "each part has 1 to 63 characters and no - at its ends"),
            ("-a", "each part has 1 to 63 characters and no - at its ends"),
            ("bücher.example", "write an international name in its ASCII form (xn--…)"),
            ("a b", "without ' '"),
        ]);
        same::<HostHeader>(&["app", "app:8080", "10.0.0.1", "10.0.0.1:80", "[::1]", "[::1]:80"]);
        hints::<HostHeader>(&[
            ("", ""),
            ("::1", "an IPv6 address stands in brackets: \"[::1]\""),
            ("[x]:1", "what stands in brackets is no IPv6 address"),
            ("http://app", "without scheme and path"),
            ("app:", "a port is a whole number from 1 to 65535"),
            ("app:65536", "a port is a whole number from 1 to 65535"),
            ("app\r\nx: y", "without '\\r'"),
            ("a\nb", "without '\\n'"),
        ]);
    }

    #[test]
    fn status_codes() {
        same::<Status>(&["204", "200-299", "100-599"]);
        hints::<Status>(&[
            ("2xx", "did you mean \"200-299\"?"),
            ("200,204", "for several write a list: [200, 204]"),
            ("299-200", "the range goes down; did you mean \"200-299\"?"),
            ("99", "status codes go from 100 to 599"),
            ("0200", "status codes go from 100 to 599"),
            ("600", "status codes go from 100 to 599"),
            ("ok", ""),
            ("", ""),
            ("200-", ""),
        ]);
        assert!(StatusRange { first: 200, last: 299 }.holds(299));
        assert!(!StatusRange { first: 200, last: 299 }.holds(300));
    }

    #[test]
    fn urls() {
        same::<Url>(&[
            "http://ops.internal/hook",
            "https://ops.internal:8443/hook?x=1",
            "http://[::1]:80/",
            "http://10.0.0.1/",
        ]);
        assert_eq!(Url::parse("http://ops.internal").unwrap(), "http://ops.internal/");
        hints::<Url>(&[
            ("ftp://x/", "ftp is not spoken; http and https are"),
            ("ops.internal", "it begins with http:// or https://"),
            ("/hook", "it begins with http:// or https://"),
            ("http://u:p@x/", "without a user and a password"),
            ("http://x:99999/", "a port is a whole number from 1 to 65535"),
            ("http://x/#a", "what follows # is never sent; leave it out"),
            ("http://", ""),
            ("", ""),
            (
                "http://x/{pool}",
                "a URL has no placeholders; pool, backend and cause are in the body",
            ),
        ]);
    }
}
