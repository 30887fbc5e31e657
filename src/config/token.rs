//! The token of the admin endpoint, as its file holds it.

/// The token in the content of its file: white space around it is not part of it.
///
/// # Errors
///
/// What is wrong with it: empty, or characters that no header can carry.
pub fn token_in(content: &str) -> Result<&str, String> {
    let token = content.trim();
    if token.is_empty() {
        return Err("the token is empty; write a long random one, for example the output of \
                    `openssl rand -hex 32`"
            .to_owned());
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token may hold printable ASCII characters alone, without spaces; for \
                    example the output of `openssl rand -hex 32`"
            .to_owned());
    }
    Ok(token)
}
