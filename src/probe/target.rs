//! What is checked, and from where.

use std::net::IpAddr;
use std::sync::Arc;

use crate::net::addr::Address;
use crate::net::dial::EphemeralPorts;

/// What is checked, and from where: the way that traffic takes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// What is connected to: the backend's address, with another port if checks have their own.
    pub address: Address,
    /// The local address to connect from.
    pub source: Option<IpAddr>,
    /// Ports on which a socket could meet itself.
    pub ports: EphemeralPorts,
    /// Sent before anything else, as traffic has it: a PROXY header. Empty for none.
    pub preface: Arc<[u8]>,
}

impl Target {
    /// The host and the port as a program is told them: an IP address without brackets and a
    /// number, or the path of a unix socket and nothing.
    #[must_use]
    pub fn host_and_port(&self) -> (String, String) {
        host_and_port(&self.address)
    }
}

/// See [`Target::host_and_port`].
#[must_use]
pub fn host_and_port(address: &Address) -> (String, String) {
    match address {
        // With the scope of a link-local address, without which it leads nowhere.
        Address::Tcp(std::net::SocketAddr::V6(v6)) if v6.scope_id() != 0 => {
            (format!("{}%{}", v6.ip(), v6.scope_id()), v6.port().to_string())
        }
        Address::Tcp(to) => (to.ip().to_string(), to.port().to_string()),
        Address::Unix(path) => (path.display().to_string(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_no_brackets_and_a_unix_socket_no_port() {
        let cases = [
            ("10.0.0.1:80", "10.0.0.1", "80"),
            ("[2001:db8::1]:80", "2001:db8::1", "80"),
            ("[fe80::1%3]:80", "fe80::1%3", "80"),
            ("unix:/run/a b.sock", "/run/a b.sock", ""),
        ];
        for (address, host, port) in cases {
            let found = host_and_port(&Address::parse(address).unwrap());
            assert_eq!(found, (host.to_owned(), port.to_owned()));
        }
    }
}
