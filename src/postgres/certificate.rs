//! The few facts of an X.509 certificate (RFC 5280) that rustls does not hand out: version, dates, the
//! subject's common name, the key, and which hash the issuer used.
//!
//! Only a reader: signatures and chains are verified by rustls. Malformed bytes give `None`, never a panic.

use chrono::NaiveDateTime;

/// Tags of DER (X.690).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// 2.5.4.3 and 2.5.29.17.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// GeneralName: dNSName and iPAddress.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// What we read from a certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// 1, 2 or 3.
    pub version: u8,
    /// Validity in seconds since 1970, both ends included.
    pub valid: (i64, i64),
    /// SubjectPublicKeyInfo, as DER.
    pub public_key: &'a [u8],
    /// OID of the algorithm that signed the certificate, without tag and length.
    pub signature: &'a [u8],
    /// The subject's first common name, if it is UTF-8.
    pub common_name: Option<&'a str>,
    /// Whether the certificate names hosts or addresses as RFC 6125 wants; then the common name does not count.
    pub names_hosts: bool,
}

/// The hash of a signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Also for MD5 and SHA-1 (RFC 5929, 4.1).
    Sha256,
    /// SHA-384.
    Sha384,
}

impl<'a> Certificate<'a> {
    /// Reads a DER certificate.
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut tbs = Der(certificate.expect(SEQUENCE)?);
        let signature = Der(certificate.expect(SEQUENCE)?).expect(OID)?;
        certificate.expect(BIT_STRING)?;

        let version = match tbs.optional(VERSION) {
            Some(explicit) => Der(explicit).expect(INTEGER)?.last()?.checked_add(1)?,
            None => 1,
        };
        tbs.expect(INTEGER)?; // serial number
        tbs.expect(SEQUENCE)?; // signature algorithm, again
        tbs.expect(SEQUENCE)?; // issuer
        let mut validity = Der(tbs.expect(SEQUENCE)?);
        let valid = (validity.time()?, validity.time()?);
        let common_name = common_name(tbs.expect(SEQUENCE)?);
        let rest = tbs.0;
        tbs.expect(SEQUENCE)?;
        let public_key = rest.get(..rest.len() - tbs.0.len())?;
        let mut names_hosts = false;
        while let Some((tag, value)) = tbs.next() {
            if tag == EXTENSIONS {
                names_hosts = has_alternative_names(value)?;
            }
        }
        Some(Self { version, valid, public_key, signature, common_name, names_hosts })
    }

    /// The hash that `tls-server-end-point` channel binding uses (RFC 5929, 4.1); `None` where it is
    /// undefined (Ed25519) or not among ours (RSA-PSS, SHA-512).
    pub fn signature_hash(&self) -> Option<Hash> {
        const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01]; // 1.2.840.113549.1.1
        const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04]; // 1.2.840.10045.4
        if let Some(rsa) = self.signature.strip_prefix(RSA) {
            return match rsa {
                [4 | 5 | 11] => Some(Hash::Sha256),
                [12] => Some(Hash::Sha384),
                _ => None,
            };
        }
        match self.signature.strip_prefix(ECDSA)? {
            [1] | [3, 2] => Some(Hash::Sha256),
            [3, 3] => Some(Hash::Sha384),
            _ => None,
        }
    }
}

/// Whether `host` matches a certificate's name as libpq compares them: no case, and a `*` that stands
/// for exactly one whole left-most label.
pub fn name_matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

fn common_name(subject: &[u8]) -> Option<&str> {
    let mut names = Der(subject);
    while let Some(set) = names.optional(SET) {
        let mut attributes = Der(set);
        while let Some(attribute) = attributes.optional(SEQUENCE) {
            let mut attribute = Der(attribute);
            if attribute.expect(OID)? == COMMON_NAME {
                return std::str::from_utf8(attribute.next()?.1).ok();
            }
        }
    }
    None
}

fn has_alternative_names(extensions: &[u8]) -> Option<bool> {
    let mut extensions = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some(extension) = extensions.optional(SEQUENCE) {
        let mut extension = Der(extension);
        if extension.expect(OID)? == SUBJECT_ALT_NAME {
            while let Some((tag, value)) = extension.next() {
                if tag == OCTET_STRING {
                    let mut names = Der(Der(value).expect(SEQUENCE)?);
                    while let Some((kind, _)) = names.next() {
                        if kind == DNS_NAME || kind == IP_ADDRESS {
                            return Some(true);
                        }
                    }
                }
            }
        }
    }
    Some(false)
}

/// The rest of a series of tag-length-value elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, short], mut rest) = self.0.split_first_chunk::<2>()?;
        let mut length = usize::from(short);
        if short >= 0x80 {
            let digits = usize::from(short & 0x7f);
            if digits == 0 || digits > 4 {
                return None;
            }
            let (bytes, tail) = rest.split_at_checked(digits)?;
            length = bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b));
            rest = tail;
        }
        let (value, tail) = rest.split_at_checked(length)?;
        self.0 = tail;
        Some((tag, value))
    }

    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        match self.next() {
            Some((found, value)) if found == tag => Some(value),
            _ => {
                self.0 = before;
                None
            }
        }
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.optional(tag)
    }

    /// UTCTime or GeneralizedTime, always in UTC (RFC 5280, 4.1.2.5).
    fn time(&mut self) -> Option<i64> {
        let (tag, value) = self.next()?;
        let text = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
        let full = match tag {
            GENERALIZED_TIME => text.to_owned(),
            UTC_TIME => format!("{}{text}", if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" }),
            _ => return None,
        };
        Some(NaiveDateTime::parse_from_str(&full, "%Y%m%d%H%M%S").ok()?.and_utc().timestamp())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::postgres::testing::Authority;

    #[test]
    fn the_facts_of_certificates_made_by_openssl() {
        let authority = Authority::new();
        let named = authority.issue("db", Some("subjectAltName=DNS:db.example,IP:127.0.0.1"));
        let found = Certificate::parse(&named.der).unwrap();
        assert_eq!((found.version, found.common_name, found.names_hosts), (3, Some("db"), true));
        assert_eq!(found.signature_hash(), Some(Hash::Sha256));
        assert_eq!((found.valid.1 - found.valid.0) / 86_400, 30);
        assert!(found.public_key.starts_with(&[SEQUENCE]));

        let old = authority.issue("db.old", None);
        let found = Certificate::parse(&old.der).unwrap();
        assert_eq!((found.version, found.common_name, found.names_hosts), (1, Some("db.old"), false));
    }

    #[test]
    fn broken_certificates_never_panic() {
        let der = Authority::new().issue("db", Some("subjectAltName=DNS:db")).der;
        for end in 0..der.len() {
            assert_eq!(Certificate::parse(&der[..end]), None);
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut broken = der.clone();
                broken[end] = value;
                if let Some(certificate) = Certificate::parse(&broken) {
                    let _ = certificate.signature_hash();
                }
            }
        }
    }

    #[test]
    fn a_star_stands_for_one_label() {
        let check = |pattern, host, expected| assert_eq!(name_matches(pattern, host), expected, "{pattern} {host}");
        check("db.example", "DB.example", true);
        check("db.example", "db.example.", true);
        check("*.example", "db.example", true);
        check("*.example", "a.db.example", false);
        check("*.example", ".example", false);
        check("*.example", "example", false);
        check("d*.example", "db.example", false);
        check("", "db", false);
    }
}
