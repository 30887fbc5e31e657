//! The dashboard: one page with everything in it.

use hyper::Response;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};

use super::answer::{Content, text};

const PAGE: &str = include_str!("dashboard.html");
const STYLE: &str = include_str!("dashboard.css");
const SCRIPT: &str = include_str!("dashboard.js");

/// The page. What may run and be shown in it is marked with a number that nobody can guess; nothing
/// may come from, or go, elsewhere.
pub(super) fn page() -> Response<Content> {
    let nonce = nonce();
    let page =
        PAGE.replace("{{nonce}}", &nonce).replace("{{style}}", STYLE).replace("{{script}}", SCRIPT);
    let mut response = text("text/html; charset=utf-8", page);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; form-action 'none'; frame-ancestors 'none'; \
         base-uri 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// 128 bits from the kernel, in hexadecimal.
fn nonce() -> String {
    let mut bytes = [0; 16];
    // So few bytes cannot fail once there is entropy, which the kernel waits for (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
