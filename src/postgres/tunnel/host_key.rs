//! Which host keys a bastion may have: fingerprints, public keys, and what a known_hosts file says of it (manual page sshd(8),
//! "SSH_KNOWN_HOSTS FILE FORMAT"). Pure.

use crate::error::{Error, Result};
use ring::hmac;
use russh::Preferred;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use russh::keys::{Algorithm, PublicKey};

/// The keys that are accepted; none at all means any.
#[derive(Clone, Debug, Default)]
pub struct HostKeys {
    fingerprints: Vec<Fingerprint>,
    keys: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
    pinned: bool,
}

/// The fingerprint as `ssh-keygen -l` shows it.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

impl HostKeys {
    /// Adds the lines of `host_key`, each a public key or a fingerprint. `None` if one of them is neither.
    #[must_use]
    pub fn pin(mut self, text: &str) -> Option<Self> {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match (line.parse::<Fingerprint>(), PublicKey::from_openssh(line)) {
                (Ok(fingerprint), _) => self.fingerprints.push(fingerprint),
                (_, Ok(key)) => self.keys.push(key),
                _ => return None,
            }
            self.pinned = true;
        }
        Some(self)
    }

    /// Adds what a known_hosts file says of `host`; `None` if that is nothing. Lines that cannot be read are passed over, as
    /// OpenSSH does, and so are authorities of certificates.
    #[must_use]
    pub fn known(mut self, file: &str, host: &str, port: u16) -> Option<Self> {
        let before = self.keys.len();
        let name = if port == 22 { host.to_lowercase() } else { format!("[{}]:{port}", host.to_lowercase()) };
        for line in file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let line: Vec<&str> = line.split_ascii_whitespace().collect();
            let Ok(entry) = line.join(" ").parse::<Entry>() else { continue };
            if concerns(entry.host_patterns(), &name) {
                match entry.marker() {
                    None => self.keys.push(entry.public_key().clone()),
                    Some(Marker::Revoked) => self.revoked.push(entry.public_key().clone()),
                    Some(Marker::CertAuthority) => {}
                }
            }
        }
        self.pinned = true;
        (self.keys.len() > before).then_some(self)
    }

    /// Whether nothing was said about keys.
    pub fn accept_any(&self) -> bool {
        !self.pinned
    }

    /// Algorithms to ask the server for: first those of the keys we know, as it has a key of each and shows one.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all = Preferred::DEFAULT.key.to_vec();
        // ssh-rsa with SHA-1 stays last: a known RSA key is asked for with SHA-2 before.
        all.sort_by_key(|wanted| !self.keys.iter().any(|key| same_kind(wanted, &key.algorithm())));
        all
    }

    /// Accepts or refuses the key that the server at `address` has shown.
    pub fn judge(&self, key: &PublicKey, address: &str) -> Result<()> {
        let (shown, kind) = (fingerprint(key), key.algorithm());
        let is = |known: &PublicKey| known.key_data() == key.key_data();
        if self.revoked.iter().any(is) {
            return Err(Error::source_db(format!(
                "the host key of the SSH server {address}, {shown} ({kind}), is marked as revoked in `known_hosts`"
            ))
            .hint("somebody may stand between: do not go on before you know why the server still has this key"));
        }
        let pinned = self.fingerprints.iter().any(|wanted| key.fingerprint(wanted.algorithm()) == *wanted);
        if pinned || self.keys.iter().any(is) {
            return Ok(());
        }
        Err(Error::source_db(format!("the host key of the SSH server {address} is {shown} ({kind}), which `ssh_config` does not accept"))
            .hint(format!(
                "somebody may stand between. If `ssh-keygen -lf` of the key file in /etc/ssh on that server shows the same, set \"host_key\": \"{shown}\" in `ssh_config`"
            )))
    }
}

/// RSA is one kind of key with several algorithms.
fn same_kind(left: &Algorithm, right: &Algorithm) -> bool {
    left == right || matches!((left, right), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

fn concerns(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let hit = |pattern: &str| glob(pattern.to_lowercase().as_bytes(), name.as_bytes());
            let refused = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(hit);
            !refused && patterns.iter().filter(|pattern| !pattern.starts_with('!')).any(|pattern| hit(pattern))
        }
    }
}

/// `*` stands for any characters, `?` for one. Takes no longer than the product of both lengths.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut done, mut star) = (0, 0, None);
    while done < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, done));
                at += 1;
            }
            Some(&c) if c == b'?' || c == name[done] => {
                at += 1;
                done += 1;
            }
            _ => match star {
                Some((back, from)) => {
                    star = Some((back, from + 1));
                    (at, done) = (back + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::error::Retry;
    use std::process::Command;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G2sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMxBTpMIGvo7CnordO7wP0QQRqpBwUjOLl4eMhfucfE1sjTYyK5wmTl1UqoSDS1PtRVTBdl+0+9pquFb46U7fwg=";

    fn key(line: &str) -> PublicKey {
        PublicKey::from_openssh(line).unwrap()
    }

    #[test]
    fn a_key_or_its_fingerprint_can_be_pinned() {
        let print = fingerprint(&key(ONE));
        for text in [ONE, &format!("{ONE} ann@bastion"), &print, &format!(" {print}\n{ECDSA}\n")] {
            let pinned = HostKeys::default().pin(text).unwrap();
            assert!(!pinned.accept_any());
            pinned.judge(&key(ONE), "bastion:22").unwrap();
            let error = pinned.judge(&key(TWO), "bastion:22").unwrap_err();
            assert_eq!(error.retry(), Retry::Never);
            let found = fingerprint(&key(TWO));
            assert!(error.to_string().contains(&found) && error.to_string().contains("bastion:22"), "{error}");
            assert!(error.advice().unwrap().contains(&format!("\"host_key\": \"{found}\"")), "{error}");
        }
        for text in ["SHA256:abc", "MD5:00:11", "bastion", &ONE[..40], "16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48"] {
            assert!(HostKeys::default().pin(text).is_none(), "{text}");
        }
        assert!(HostKeys::default().pin(" \n").unwrap().accept_any());
    }

    #[test]
    fn lines_of_known_hosts() {
        let check = |file: &str, host: &str, port: u16, expected: bool| {
            let judged = HostKeys::default().known(file, host, port).is_some_and(|known| known.judge(&key(ONE), "b").is_ok());
            assert_eq!(judged, expected, "{file} {host} {port}");
        };
        check(&format!("bastion {ONE}"), "bastion", 22, true);
        check(&format!("# note\n\nother {TWO}\nBastion,10.0.0.1\t{ONE} comment\n"), "bastion", 22, true);
        check(&format!("bastion,10.0.0.1 {ONE}"), "10.0.0.1", 22, true);
        check(&format!("bastion {TWO}\nbastion {ONE}"), "bastion", 22, true);
        check(&format!("bastion {ONE}"), "bastion", 2222, false);
        check(&format!("[bastion]:2222 {ONE}"), "bastion", 2222, true);
        check(&format!("[bastion]:2222 {ONE}"), "bastion", 22, false);
        check(&format!("*.example,!db.example {ONE}"), "b.example", 22, true);
        check(&format!("*.example,!db.example {ONE}"), "db.example", 22, false);
        check(&format!("b?stion {ONE}"), "bastion", 22, true);
        check(&format!("bastion {TWO}"), "bastion", 22, false);
        check(&format!("# bastion {ONE}"), "bastion", 22, false);
        check(&format!("@cert-authority bastion {ONE}"), "bastion", 22, false);
        check(&format!("bastion {ONE}\n@revoked * {ONE}"), "bastion", 22, false);
        check("bastion\nbastion ssh-ed25519 AAAA\n@what is this", "bastion", 22, false);
    }

    #[test]
    fn names_that_ssh_keygen_has_hashed() {
        if !crate::postgres::testing::has_ssh_keygen() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_hosts");
        std::fs::write(&path, format!("bastion {ONE}\n[bastion]:2222 {TWO}\n")).unwrap();
        assert!(Command::new("ssh-keygen").arg("-q").arg("-H").arg("-f").arg(&path).output().unwrap().status.success());
        let file = std::fs::read_to_string(&path).unwrap();
        assert!(file.starts_with("|1|") && !file.contains("bastion"), "{file}");
        HostKeys::default().known(&file, "bastion", 22).unwrap().judge(&key(ONE), "b").unwrap();
        HostKeys::default().known(&file, "bastion", 2222).unwrap().judge(&key(TWO), "b").unwrap();
        assert!(HostKeys::default().known(&file, "other", 22).is_none());
    }

    #[test]
    fn a_server_is_asked_for_the_kind_of_key_that_we_know() {
        let first = |keys: HostKeys| keys.algorithms()[0].to_string();
        assert_eq!(first(HostKeys::default()), "ssh-ed25519");
        assert_eq!(first(HostKeys::default().pin(ECDSA).unwrap()), "ecdsa-sha2-nistp256");
        assert_eq!(HostKeys::default().algorithms().last().unwrap().to_string(), "ssh-rsa");
    }

    #[test]
    fn patterns() {
        let check =
            |pattern: &str, name: &str, expected: bool| assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        check("*", "", true);
        check("a*c*", "abcd", true);
        check("*bc", "abcbc", true);
        check("*b?d", "abcbd", false);
        check("", "a", false);
        check(&"a*".repeat(50), &"a".repeat(5000), true);
        check(&(("a*".repeat(50)) + "b"), &"a".repeat(5000), false);
    }
}
