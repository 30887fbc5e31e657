//! Makes a TLS handshake, then closes.
//!
//! Passes when the handshake is complete and, with `verify`, the certificate is valid: of an
//! authority this host knows, in time, for the name. No session is resumed: each check looks at the
//! certificate. In TLS 1.3 a server may refuse a client without a certificate only after that; it
//! passes.

use std::cell::OnceCell;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use tokio::io::AsyncWrite;
use tokio_rustls::TlsConnector;

use super::socket::{Socket, ended};
use super::{Built, Entry, Outcome, Probe, Progress, Running, Target};
use crate::config::model;
use crate::net::addr::Address;

pub(super) const ENTRY: Entry = Entry { name: "tls", summary: "a TLS handshake succeeds", build };

/// The authorities that this host trusts, read when first needed.
///
/// From where the system keeps them, or `SSL_CERT_FILE` and `SSL_CERT_DIR`.
#[derive(Debug, Default)]
pub struct Roots(OnceCell<Result<Arc<RootCertStore>, String>>);

impl Roots {
    /// These and no others.
    #[must_use]
    pub fn only(store: RootCertStore) -> Self {
        Self(OnceCell::from(Ok(Arc::new(store))))
    }

    /// Reads them if that was not done yet.
    fn get(&self) -> Result<Arc<RootCertStore>, String> {
        self.0.get_or_init(load).clone()
    }
}

fn load() -> Result<Arc<RootCertStore>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // One of a hundred that cannot be read is of no use to anybody and does no harm.
    store.add_parsable_certificates(found.certs);
    if !store.is_empty() {
        return Ok(Arc::new(store));
    }
    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    Err(format!(
        "this host knows no certificate authorities{why}: install its `ca-certificates`, or name a \
         file of them in SSL_CERT_FILE"
    ))
}

/// A client's side of TLS 1.2 and 1.3.
///
/// # Errors
///
/// In words: certificates are to be verified, and this host knows no authorities.
pub fn client_config(verify: bool, roots: &Roots) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = if verify {
        builder.with_root_certificates(roots.get()?).with_no_client_auth()
    } else {
        let any = Arc::new(AnyCertificate(ring::default_provider()));
        builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    /// Without one the certificate must have the address.
    name: Option<ServerName<'static>>,
}

fn build(options: &model::Probe, roots: &Roots) -> Option<Built> {
    let model::Probe::Tls(options) = options else { return None };
    Some(Tls::new(options, roots).map(|probe| Box::new(probe) as Box<dyn Probe>))
}

impl Probe for Tls {
    fn run<'a>(&'a self, target: &'a Target, progress: &'a Progress) -> Running<'a> {
        Box::pin(async move {
            self.shake_hands(target, progress)
                .await
                .map_or_else(|outcome| outcome, |()| Outcome::Pass)
        })
    }
}

impl Tls {
    fn new(options: &model::TlsProbe, roots: &Roots) -> Result<Self, String> {
        let name = match &options.server_name {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| {
                format!("server_name: expected a host name such as app.internal, read {name:?}")
            })?),
            None => None,
        };
        Ok(Self { config: client_config(options.verify, roots)?, name })
    }

    async fn shake_hands(&self, target: &Target, progress: &Progress) -> Result<(), Outcome> {
        let name = match (&self.name, &target.address) {
            (Some(name), _) => name.clone(),
            (None, Address::Tcp(to)) => ServerName::IpAddress(to.ip().into()),
            (None, Address::Unix(_)) => ServerName::try_from("localhost")
                .map_err(|error| Outcome::Fail(error.to_string()))?,
        };
        let socket = Socket::connect(target, true).await?;
        progress.set("making the TLS handshake");
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connected = connector.connect(name.clone(), socket).await;
        let mut stream = connected.map_err(|error| Outcome::Fail(words(&error, &name)))?;
        // A word of farewell, if the kernel takes it: the reset that follows is then no surprise.
        poll_fn(|cx| {
            let _ = Pin::new(&mut stream).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
        Ok(())
    }
}

/// Why a handshake failed, in words.
#[must_use]
pub fn words(error: &io::Error, name: &ServerName<'_>) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => certificate(why, name),
        Some(Error::AlertReceived(alert)) => refused(*alert),
        Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => {
            "answered with something that is no TLS".to_owned()
        }
        Some(Error::PeerIncompatible(why)) => {
            format!("no TLS in common: {why:?}")
        }
        Some(other) => format!("TLS: {}", other.source().unwrap_or(other)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "closed by the peer in the TLS handshake".to_owned()
        }
        None => format!("{} in the TLS handshake", ended(error)),
    }
}

fn certificate(why: &CertificateError, name: &ServerName<'_>) -> String {
    use CertificateError as E;
    match why {
        E::Expired | E::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "its certificate is not valid yet".to_owned()
        }
        E::Revoked => "its certificate is revoked".to_owned(),
        E::UnknownIssuer => {
            "its certificate is of an authority that this host does not know".to_owned()
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("its certificate is not for {}", name.to_str())
        }
        other => format!("its certificate is not accepted: {other}"),
    }
}

fn refused(alert: AlertDescription) -> String {
    format!("refused the TLS handshake: alert {alert:?}")
}

/// Accepts any certificate: what is asked is whether there is TLS, and no secret is sent.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
