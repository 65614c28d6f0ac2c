//! TLS for a catalog's database, as libpq's sslmodes mean it: `require` encrypts and looks at nothing unless CAs are given,
//! `verify-ca` wants a certificate of a CA that is trusted, `verify-full` one with the server's name too.
//!
//! A certificate that was itself given as the CA is trusted as well (self-signed servers). Channel binding is not offered.

use super::url::{Encryption, Server};
use crate::{Error, Kind, Result};
use futures::future::BoxFuture;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// Makes secure connections.
#[derive(Clone)]
pub(super) struct Connector(TlsConnector);

impl Connector {
    pub(super) fn new(server: &Server) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mode = server.encryption;
        let trust = match &server.roots {
            Some(file) if matches!(mode, Encryption::Require | Encryption::VerifyCa | Encryption::VerifyFull) => Some(given(file)?),
            None if matches!(mode, Encryption::VerifyCa | Encryption::VerifyFull) => Some(system()?),
            _ => None,
        };
        let verifier = Verifier { algorithms: provider.signature_verification_algorithms, trust, names: mode == Encryption::VerifyFull };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(Kind::Bug, "cannot set up TLS").because(e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

fn given(file: &Path) -> Result<Trust> {
    let bad = |why: String| {
        Error::new(Kind::Config, format!("the CA certificates in {} cannot be used: {why}", file.display()))
            .hint("let sslrootcert in `jdbc_url` name a readable PEM file")
    };
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let given: Vec<CertificateDer<'static>> = certificates.map_err(|e| bad(e.to_string()))?;
    if given.is_empty() {
        return Err(bad("there is none".into()));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(given.iter().cloned());
    Ok(Trust { roots, given })
}

fn system() -> Result<Trust> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::new(Kind::Config, "this machine has no CA certificates to verify the catalog's database with")
            .hint("install them (Debian: ca-certificates), or name the server's CA by sslrootcert in `jdbc_url`"));
    }
    Ok(Trust { roots, given: Vec::new() })
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// As given: one of them may be the server's own.
    given: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// `None`: nothing is verified.
    trust: Option<Trust>,
    /// Whether the certificate must be for the server's name.
    names: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            let certificate = ParsedCertificate::try_from(end)?;
            if !trust.given.contains(end) {
                verify_server_cert_signed_by_trust_anchor(&certificate, &trust.roots, more, now, self.algorithms.all)?;
            }
            if self.names {
                verify_server_name(&certificate, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| io::Error::other("the host's name cannot stand in a certificate"));
        Ok(Handshake { connector: self.0.clone(), name })
    }
}

/// A handshake to come.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: io::Result<ServerName<'static>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { Ok(Stream(self.connector.connect(self.name?, stream).await?)) })
    }
}

/// A secure connection.
pub(super) struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
