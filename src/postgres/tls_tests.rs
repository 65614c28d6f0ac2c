//! Tests of the verifier with certificates made by `openssl`; handshakes are tested in `connect`.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::postgres::testing::Authority;
use std::time::Duration;

/// Verifies `der` as if now were `days` from today; the verdict is the error's sentence.
fn verdict(mode: SslMode, ca: Option<&str>, host: &str, der: &[u8], days: i64) -> Result<(), String> {
    let options = TlsOptions { mode, server_ca: ca.map(str::to_owned), client_cert: None, client_key: None };
    let verifier = Verifier {
        algorithms: ring::default_provider().signature_verification_algorithms,
        trust: trust(&options).unwrap(),
        host: host_to_verify(&options, host),
    };
    let seconds = UnixTime::now().as_secs().checked_add_signed(days * 86_400).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let name = ServerName::try_from("ignored").unwrap();
    let result = verifier.verify_server_cert(&CertificateDer::from(der), &[], &name, &[], now);
    result.map(drop).map_err(|e| handshake_error(&e).to_string())
}

#[test]
fn each_mode_verifies_what_libpq_does() {
    use SslMode::{Prefer, Require, VerifyCa, VerifyFull};
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = Some(ours.pem.as_str());
    let named = ours.issue("cn.example", Some("subjectAltName=DNS:*.db.example,DNS:localhost,IP:10.0.0.7,IP:fd00::7")).der;
    let unnamed = ours.issue("cn.example", Some("basicConstraints=CA:FALSE")).der;
    let old = ours.issue("cn.example", None).der;
    let foreign = theirs.issue("localhost", Some("subjectAltName=DNS:localhost")).der;

    let check = |mode, ca, host: &str, der: &[u8], days, expected: &str| {
        let found = verdict(mode, ca, host, der, days).err().unwrap_or_default();
        assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{mode:?} {host}: {found}");
    };
    check(VerifyFull, ca, "localhost", &named, 0, "");
    check(VerifyFull, ca, "a.db.example", &named, 0, "");
    check(VerifyFull, ca, "10.0.0.7", &named, 0, "");
    check(VerifyFull, ca, "fd00::7", &named, 0, "");
    check(VerifyFull, ca, "10.0.0.8", &named, 0, "another name");
    check(VerifyFull, ca, "b.a.db.example", &named, 0, "another name");
    check(VerifyFull, ca, "cn.example", &named, 0, "another name");
    check(VerifyFull, ca, "not a name", &named, 0, "another name");
    check(VerifyFull, ca, "CN.example", &unnamed, 0, "");
    check(VerifyFull, ca, "localhost", &unnamed, 0, "another name");
    check(VerifyFull, ca, "localhost", &named, 31, "expired");
    check(VerifyFull, ca, "localhost", &named, -1, "not valid yet");
    check(VerifyFull, ca, "localhost", &foreign, 0, "trusted authority");
    check(VerifyCa, ca, "elsewhere", &named, 0, "");
    check(VerifyCa, ca, "localhost", &foreign, 0, "trusted authority");
    check(VerifyCa, ca, "localhost", &named, 31, "expired");
    check(VerifyCa, ca, "cn.example", &old, 0, "version 1");
    check(Require, ca, "elsewhere", &named, 0, "");
    check(Require, ca, "localhost", &foreign, 0, "trusted authority");
    check(Require, None, "localhost", &foreign, 0, "");
    check(Require, None, "localhost", &old, 0, "");
    check(Prefer, ca, "localhost", &foreign, 0, "");
    check(VerifyCa, None, "localhost", &named, 0, "trusted authority");
    check(VerifyCa, ca, "localhost", b"garbage", 0, "not acceptable");
    // The CA's own certificate, and one of the old version given as such: self-signed servers.
    check(VerifyFull, ca, "Test CA", &ours.itself.der, 0, "");
    check(VerifyFull, ca, "localhost", &ours.itself.der, 0, "another name");
    check(VerifyCa, ca, "localhost", &ours.itself.der, 31, "expired");
    check(VerifyCa, ca, "localhost", &ours.itself.der, -1, "not valid yet");
    check(VerifyCa, ca, "localhost", &theirs.itself.der, 0, "trusted authority");
    let old_pem = ours.issue("cn.example", None);
    check(VerifyFull, Some(&old_pem.pem), "cn.example", &old_pem.der, 0, "");
}

#[test]
fn unusable_pem_is_reported_by_name_and_never_shown() {
    use writers::Secret;
    let authority = Authority::new();
    let issued = authority.issue("me", Some("basicConstraints=CA:FALSE"));
    let options = |ca: Option<&str>, cert: Option<&str>, key: Option<&str>| TlsOptions {
        mode: SslMode::VerifyCa,
        server_ca: ca.map(str::to_owned),
        client_cert: cert.map(str::to_owned),
        client_key: key.map(Secret::new),
    };
    let check = |options: TlsOptions, expected: &str| {
        let error = connector(&options, "localhost").map(drop).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error} {error:?} {options:?}").contains("PRIVATE"));
    };
    let ca = Some(authority.pem.as_str());
    check(options(Some("not pem"), None, None), "CA certificate");
    check(options(ca, Some(&issued.pem), None), "together");
    check(options(ca, Some(&issued.pem), Some("PRIVATE")), "client key");
    check(options(ca, Some("no pem"), Some(&issued.key)), "client certificate");
    check(options(ca, Some(&issued.pem), Some(&authority.itself.key)), "cannot be used");
    assert!(connector(&options(ca, Some(&issued.pem), Some(&issued.key)), "localhost").is_ok());
}

#[test]
fn channel_binding_is_the_certificates_own_hash() {
    let der = Authority::new().issue("me", Some("basicConstraints=CA:FALSE")).der;
    assert_eq!(channel_binding(&CertificateDer::from(&der[..])).map(|hash| hash.len()), Some(32));
    assert_eq!(channel_binding(&CertificateDer::from(&der[..40])), None);
}
