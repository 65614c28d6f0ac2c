//! TLS as libpq's sslmodes mean it (manual 34.19), on rustls with its `ring` provider named explicitly.
//!
//! Deliberate differences from rustls' own verifier, because that is what PostgreSQL users have: the server's
//! certificate may itself be the CA that was given (self-signed), and where a certificate names no host in
//! its alternative names, its common name counts.

use super::certificate::{Certificate, Hash, name_matches};
use super::connect::{SslMode, TlsOptions};
use crate::error::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use tokio_rustls::TlsConnector;

/// What verifying needs.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// `None`: nothing is verified.
    trust: Option<Trust>,
    /// The name to find in the certificate.
    host: Option<String>,
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// CA certificates as given: one of them may be the server's own.
    given: Vec<CertificateDer<'static>>,
}

/// A connector for `host` and the name it is called by.
pub fn connector(options: &TlsOptions, host: &str) -> Result<(TlsConnector, ServerName<'static>)> {
    let provider = Arc::new(ring::default_provider());
    let verifier =
        Verifier { algorithms: provider.signature_verification_algorithms, trust: trust(options)?, host: host_to_verify(options, host) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::bug(format!("set up TLS: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&options.client_cert, &options.client_key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "client certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| {
                Error::config("the client key holds no private key in PEM form")
                    .hint("give an unencrypted key: PKCS#8, PKCS#1 or SEC1 (`openssl pkey -in KEY` decrypts one)")
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                Error::config(format!("client certificate and key cannot be used: {e}"))
                    .hint("give the key that belongs to the certificate")
            })?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Error::config("client certificate and client key must be given together")),
    };
    // A name that cannot be sent as SNI is replaced by an address, for which rustls sends none, as libpq.
    let name = ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()));
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn host_to_verify(options: &TlsOptions, host: &str) -> Option<String> {
    (options.mode == SslMode::VerifyFull).then(|| host.to_owned())
}

fn trust(options: &TlsOptions) -> Result<Option<Trust>> {
    let verify = matches!(options.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match &options.server_ca {
        // libpq: `require` with a CA verifies the chain, weaker modes never do.
        Some(pem) if verify || options.mode == SslMode::Require => {
            let given = certificates(pem, "CA certificate")?;
            let mut roots = RootCertStore::empty();
            let (usable, _) = roots.add_parsable_certificates(given.iter().cloned());
            if usable == 0 && given.iter().all(|der| Certificate::parse(der).is_none()) {
                return Err(Error::config("the CA certificate cannot be read").hint("give the CA's certificate in PEM form"));
            }
            Ok(Some(Trust { roots, given }))
        }
        None if verify => {
            let roots = system_roots().clone();
            if roots.is_empty() {
                return Err(Error::config("this machine has no CA certificates to verify the server with")
                    .hint("install them (Debian: ca-certificates), or give the server's CA in `ssl.server_ca`"));
            }
            Ok(Some(Trust { roots, given: Vec::new() }))
        }
        _ => Ok(None),
    }
}

/// The operating system's CA certificates, read once: there are hundreds.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("some CA certificates of this machine cannot be read: {error}");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    match CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => {
            Err(Error::config(format!("the {what} holds no certificate in PEM form"))
                .hint("it must begin with -----BEGIN CERTIFICATE-----"))
        }
    }
}

/// The data of `tls-server-end-point` channel binding (RFC 5929): the server certificate's hash. `None`
/// where it is undefined, or the hash is not one that TLS 1.3 uses.
pub fn channel_binding(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let suite = match Certificate::parse(certificate)?.signature_hash()? {
        Hash::Sha256 => ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        Hash::Sha384 => ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    };
    Some(suite.tls13()?.common.hash_provider.hash(certificate).as_ref().to_vec())
}

impl Verifier {
    fn verify_chain(
        &self,
        trust: &Trust,
        end: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        facts: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if trust.given.contains(end) {
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            return match now {
                now if now < facts.valid.0 => Err(CertificateError::NotValidYet.into()),
                now if now > facts.valid.1 => Err(CertificateError::Expired.into()),
                _ => Ok(()),
            };
        }
        if facts.version < 3 {
            return Err(CertificateError::Other(OtherError(Arc::new(OldCertificate))).into());
        }
        verify_server_cert_signed_by_trust_anchor(&ParsedCertificate::try_from(end)?, &trust.roots, more, now, self.algorithms.all)
    }
}

fn verify_name(end: &CertificateDer<'_>, facts: &Certificate<'_>, host: &str) -> Result<(), rustls::Error> {
    if facts.names_hosts {
        let name = ServerName::try_from(host).map_err(|_| CertificateError::NotValidForName)?;
        return verify_server_name(&ParsedCertificate::try_from(end)?, &name);
    }
    match facts.common_name {
        Some(name) if name_matches(name, host) => Ok(()),
        _ => Err(CertificateError::NotValidForName.into()),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            let facts = Certificate::parse(end).ok_or(CertificateError::BadEncoding)?;
            self.verify_chain(trust, end, more, &facts, now)?;
            if let Some(host) = &self.host {
                verify_name(end, &facts, host)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match Certificate::parse(cert) {
            // rustls reads no certificate of version 1, which is what the recipe in PostgreSQL's manual makes.
            Some(old) if old.version < 3 => {
                let key = SubjectPublicKeyInfoDer::from(old.public_key);
                verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
            }
            _ => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A certificate of X.509 version 1, which can be used but not verified.
#[derive(Debug)]
struct OldCertificate;

impl std::fmt::Display for OldCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the certificate is X.509 version 1")
    }
}

impl std::error::Error for OldCertificate {}

/// One sentence for a failed handshake, with what to do.
pub fn handshake_error(error: &rustls::Error) -> Error {
    use rustls::CertificateError as C;
    let (message, hint) = match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            C::Expired | C::ExpiredContext { .. } => {
                ("the server's certificate has expired".to_owned(), "renew the certificate, and check this machine's clock")
            }
            C::NotValidYet | C::NotValidYetContext { .. } => {
                ("the server's certificate is not valid yet".to_owned(), "check the clocks of both machines")
            }
            C::NotValidForName | C::NotValidForNameContext { .. } => (
                "the server's certificate is for another name".to_owned(),
                "connect by a name that stands in the certificate, or use sslmode `verify-ca`, which does not compare names",
            ),
            C::Other(other) if other.0.is::<OldCertificate>() => (
                "the server's certificate is X.509 version 1, which cannot be verified".to_owned(),
                "issue it again with extensions (openssl x509 -req -extfile …), give the certificate itself as `ssl.server_ca`, or use sslmode `require`",
            ),
            C::UnknownIssuer | C::Other(_) | C::BadSignature | C::InvalidPurpose | C::InvalidPurposeContext { .. } => (
                "the server's certificate is not signed by a trusted authority".to_owned(),
                "give the CA that signed it in `ssl.server_ca`, or use sslmode `require`, which does not verify",
            ),
            other => (
                format!("the server's certificate is not acceptable ({other})"),
                "look at the certificate: openssl s_client -starttls postgres",
            ),
        },
        rustls::Error::AlertReceived(alert) => (
            format!("the server ended TLS with the alert {alert:?}"),
            "check the client certificate (`ssl.client_cert`, `ssl.client_key`) against what the server trusts; its log tells more",
        ),
        other => (format!("TLS failed: {other}"), "check that the server speaks TLS 1.2 or later"),
    };
    Error::source_db(message).hint(hint)
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
