//! Who may ask: the token, the `Host`, the `Origin`.
//!
//! A page from elsewhere can make a browser on this host send requests here. So `Host` must be a
//! name this endpoint is known by, or a name of the attacker could be made to resolve to it (DNS
//! rebinding); a change must not come from a page of another origin; and what a form can send
//! without asking is no JSON.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use subtle::ConstantTimeEq;

use super::answer::{Refusal, refuse};
use crate::config::token_in;

/// The secret that whoever asks must know.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A token from the content of its file: white space around it is not part of it.
    ///
    /// # Errors
    ///
    /// See [`token_in`].
    pub fn new(content: &str) -> Result<Self, String> {
        let token = token_in(content)?;
        Ok(Self(token.as_bytes().into()))
    }

    /// Whether the request shows it. Takes equally long wherever a wrong one differs.
    fn is_shown(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.trim_ascii().ct_eq(&self.0))
    }
}

/// The names that the endpoint may be called by, and the token.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The token; `None`: everybody who can connect may do everything.
    pub token: Option<Token>,
    /// Names besides IP addresses and `localhost`.
    pub hosts: Vec<String>,
    /// `/metrics` needs no token.
    pub public_metrics: bool,
}

impl Options {
    /// Whether the request was sent to a name of this endpoint.
    ///
    /// # Errors
    ///
    /// 403.
    pub(super) fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(refuse(403, "the request must have one Host header".to_owned()));
        };
        let host = host.to_str().unwrap_or_default();
        if self.is_ours(host) {
            return Ok(());
        }
        Err(refuse(
            403,
            format!(
                "this endpoint is not called {host:?}: use an IP address or localhost, or add the \
                 name to admin.hosts"
            ),
        ))
    }

    fn is_ours(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        let is_ip = match host.strip_prefix('[') {
            Some(rest) => {
                rest.strip_suffix(']').is_some_and(|ip| matches!(ip.parse(), Ok(IpAddr::V6(_))))
            }
            None => matches!(host.parse(), Ok(IpAddr::V4(_))),
        };
        is_ip
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Whether the request shows the token, if one is needed.
    ///
    /// # Errors
    ///
    /// 401.
    pub(super) fn check_token(&self, headers: &HeaderMap, path: &str) -> Result<(), Refusal> {
        let is_public = match path {
            "/livez" | "/readyz" => true,
            "/metrics" => self.public_metrics,
            _ => false,
        };
        match &self.token {
            Some(token) if !is_public && !token.is_shown(headers) => Err(refuse(
                401,
                "this needs the token: send `Authorization: Bearer TOKEN` (tidegate: --token-file \
                 FILE or TIDEGATE_TOKEN)"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a change comes from a page of this endpoint itself, or from no page at all.
///
/// # Errors
///
/// 403.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let foreign = |from: &str| {
        let message = format!("a change may not come from a page of {from}");
        refuse(403, message)
    };
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return Err(foreign("another site"));
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_own = match origin.split_once("://") {
            Some((scheme @ ("http" | "https"), authority)) => {
                let default = if scheme == "http" { ":80" } else { ":443" };
                let bare = |authority: &str| {
                    let lower = authority.to_ascii_lowercase();
                    lower.strip_suffix(default).map_or(lower.clone(), str::to_owned)
                };
                bare(authority) == bare(host)
            }
            _ => false,
        };
        if !is_own {
            return Err(foreign(&format!("{origin:?}")));
        }
    }
    Ok(())
}

/// Whether the body is declared as JSON, which no form can do.
///
/// # Errors
///
/// 415.
pub(super) fn check_content(headers: &HeaderMap, is_empty: bool) -> Result<(), Refusal> {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return if is_empty { Ok(()) } else { Err(refuse(415, NO_JSON.to_owned())) };
    };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(refuse(415, NO_JSON.to_owned()))
    }
}

const NO_JSON: &str = "the body must be JSON: send `Content-Type: application/json`";

/// The host of an authority, its port taken away; `None` for what is no authority.
fn host_of(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(end)?;
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().is_ok() && !digits.starts_with('+'),
        None => port.is_empty(),
    };
    (is_port && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn options() -> Options {
        Options {
            token: Some(Token::new("  s3cret\n").unwrap()),
            hosts: vec!["lb.internal".to_owned()],
            public_metrics: false,
        }
    }

    #[test]
    fn it_may_be_called_by_an_address_localhost_or_a_configured_name() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9900",
            "10.1.2.3:1",
            "[::1]",
            "[2001:db8::1]:9900",
            "localhost",
            "LocalHost:9900",
            "lb.internal",
            "LB.internal:443",
        ] {
            assert!(options().check_host(&headers(&[("host", host)])).is_ok(), "{host}");
        }
    }

    #[test]
    fn it_is_called_by_no_other_name_however_alike() {
        for host in [
            "evil.com",
            "127.0.0.1.evil.com",
            "localhost.evil.com",
            "localhost.",
            "evil-localhost",
            "127.",
            "127.1",
            "0x7f.1",
            "lb.internal.evil.com",
            "xlb.internal",
            "localhost:",
            "localhost:99999",
            "localhost:80:80",
            "localhost@evil.com",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "::1",
            "",
            " localhost",
            "localhost/",
        ] {
            let checked = options().check_host(&headers(&[("host", host)]));
            assert_eq!(checked.unwrap_err().status, 403, "{host}");
        }
        assert!(options().check_host(&HeaderMap::new()).is_err());
        let mut two = headers(&[("host", "localhost")]);
        two.append(HOST, "evil.com".parse().unwrap());
        assert!(options().check_host(&two).is_err());
    }

    #[test]
    fn all_but_the_probes_need_the_token() {
        let right = headers(&[("authorization", "Bearer s3cret")]);
        let lower = headers(&[("authorization", "bearer s3cret")]);
        assert!(options().check_token(&right, "/api/v1/status").is_ok());
        assert!(options().check_token(&lower, "/").is_ok());
        for wrong in
            ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Bearer", "Basic s3cret", "s3cret"]
        {
            let wrong = headers(&[("authorization", wrong)]);
            let checked = options().check_token(&wrong, "/metrics");
            assert_eq!(checked.unwrap_err().status, 401);
        }
        for path in ["/livez", "/readyz"] {
            assert!(options().check_token(&HeaderMap::new(), path).is_ok());
        }
        let public = Options { public_metrics: true, ..options() };
        assert!(public.check_token(&HeaderMap::new(), "/metrics").is_ok());
        assert!(public.check_token(&HeaderMap::new(), "/metrics/").is_err());
        assert!(Options::default().check_token(&HeaderMap::new(), "/").is_ok());
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_refused() {
        for content in ["", " \n", "two words", "tränen"] {
            assert!(Token::new(content).is_err(), "{content}");
        }
        assert_eq!(format!("{:?}", Token::new("abc").unwrap()), "Token(…)");
    }

    #[test]
    fn a_change_comes_from_no_page_or_from_a_page_of_this_endpoint() {
        for (host, origin) in [
            ("127.0.0.1:9900", "http://127.0.0.1:9900"),
            ("lb.internal", "https://lb.internal"),
            ("lb.internal:443", "https://LB.internal"),
            ("localhost", "http://localhost:80"),
        ] {
            assert!(check_origin(&headers(&[("host", host), ("origin", origin)])).is_ok());
        }
        assert!(check_origin(&headers(&[("host", "localhost")])).is_ok(), "no page at all");
        for origin in
            ["null", "", "http://evil.com", "http://localhost:3000", "http://localhost.evil.com"]
        {
            let sent = headers(&[("host", "localhost:9900"), ("origin", origin)]);
            assert_eq!(check_origin(&sent).unwrap_err().status, 403, "{origin}");
        }
        let other = headers(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]);
        assert!(check_origin(&other).is_err());
    }

    #[test]
    fn a_body_is_json_or_absent() {
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
            assert!(check_content(&headers(&[("content-type", kind)]), false).is_ok(), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            let checked = check_content(&headers(&[("content-type", kind)]), true);
            assert_eq!(checked.unwrap_err().status, 415, "{kind}");
        }
        assert!(check_content(&HeaderMap::new(), true).is_ok());
        assert!(check_content(&HeaderMap::new(), false).is_err());
    }
}
