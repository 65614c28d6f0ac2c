//! The user's private key, out of any form that OpenSSH and OpenSSL write. Errors hold nothing of it.

use russh::keys::{Algorithm, Error as KeyError, decode_secret_key};
use writers::Secret;

pub use russh::keys::PrivateKey;

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is encrypted, and there is no passphrase.
    NoPassphrase,
    /// The passphrase does not open it.
    Locked,
    /// Its form is not known, or it is damaged.
    Unreadable,
    /// Keys of this type cannot sign here: DSA, or the key is in a hardware token.
    Type(String),
}

/// Reads a key in PEM form.
pub fn read(pem: &str, passphrase: Option<&Secret>) -> Result<PrivateKey, Unusable> {
    // Out of a YAML block or a here-document the lines may be indented.
    let pem: String = pem.lines().map(|line| line.trim().to_owned() + "\n").collect();
    let key = match (decode_secret_key(&pem, None), passphrase) {
        (Ok(key), _) => key,
        (Err(error), passphrase) if matches!(error, KeyError::KeyIsEncrypted) || pem.contains("ENCRYPTED") => {
            let passphrase = passphrase.ok_or(Unusable::NoPassphrase)?;
            decode_secret_key(&pem, Some(passphrase.expose())).map_err(|_| Unusable::Locked)?
        }
        (Err(_), _) => return Err(Unusable::Unreadable),
    };
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. } => Ok(key),
        other => Err(Unusable::Type(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;
    use std::process::Command;

    fn run(program: &str, arguments: &str, folder: &std::path::Path) {
        let output =
            Command::new(program).args(arguments.split(' ').map(|word| word.replace('~', " "))).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn every_form_that_the_tools_write() {
        if !crate::postgres::testing::has_ssh_keygen() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, pass: Option<&str>, expected: Result<&str, Unusable>| {
            let pem = fs::read_to_string(folder.path().join(name)).unwrap();
            for pem in [pem.replace('\n', "\n   "), pem] {
                let found = read(&pem, pass.map(Secret::new).as_ref()).map(|key| key.algorithm().to_string());
                assert_eq!(found.as_deref(), expected.as_ref().map(|name| *name), "{name}");
            }
        };
        let types = [("ed25519", "ssh-ed25519"), ("rsa", "ssh-rsa"), ("ecdsa", "ecdsa-sha2-nistp256")];
        for (kind, name) in types {
            let key = folder.path().join(kind);
            // One P-256 key in 256 is shorter than the others, and the `ssh-key` crate (0.7) refuses it: `ssh-keygen -p -m PKCS8` helps its owner.
            for _ in 0..5 {
                let _ = fs::remove_file(&key);
                run("ssh-keygen", &format!("-q -t {kind} -N  -f {kind}"), folder.path());
                if kind != "ecdsa" || read(&fs::read_to_string(&key).unwrap(), None).is_ok() {
                    break;
                }
            }
            check(kind, None, Ok(name));
            check(kind, Some("not needed"), Ok(name));
            let locked = format!("{kind}.locked");
            fs::copy(&key, folder.path().join(&locked)).unwrap();
            run("ssh-keygen", &format!("-q -p -P  -N open~sesame -f {locked}"), folder.path());
            check(&locked, Some("open sesame"), Ok(name));
            check(&locked, Some("wrong"), Err(Unusable::Locked));
            check(&locked, None, Err(Unusable::NoPassphrase));
        }
        for (size, name) in [("384", "ecdsa-sha2-nistp384"), ("521", "ecdsa-sha2-nistp521")] {
            run("ssh-keygen", &format!("-q -t ecdsa -b {size} -N  -f ecdsa{size}"), folder.path());
            check(&format!("ecdsa{size}"), None, Ok(name));
        }
        for (kind, name) in [("rsa", "ssh-rsa"), ("ecdsa", "ecdsa-sha2-nistp256")] {
            // PKCS#1 and SEC1, as `-m PEM` and older versions write them.
            run("ssh-keygen", &format!("-q -t {kind} -m PEM -N  -f {kind}.pem"), folder.path());
            check(&format!("{kind}.pem"), None, Ok(name));
        }
        run("ssh-keygen", "-q -t rsa -m PEM -N open~sesame -f rsa.pem.locked", folder.path());
        check("rsa.pem.locked", Some("open sesame"), Ok("ssh-rsa"));
        check("rsa.pem.locked", None, Err(Unusable::NoPassphrase));
        for (options, name) in [
            ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "ssh-rsa"),
            ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "ecdsa-sha2-nistp256"),
            ("-algorithm ED25519", "ssh-ed25519"),
        ] {
            run("openssl", &format!("genpkey {options} -out pkcs8"), folder.path());
            check("pkcs8", None, Ok(name));
            run("openssl", "pkcs8 -topk8 -in pkcs8 -out pkcs8.locked -passout pass:open~sesame", folder.path());
            check("pkcs8.locked", Some("open sesame"), Ok(name));
            check("pkcs8.locked", Some("wrong"), Err(Unusable::Locked));
            check("pkcs8.locked", None, Err(Unusable::NoPassphrase));
        }
    }

    #[test]
    fn damaged_keys_are_refused_and_never_panic() {
        const PEM: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n";
        for end in 0..PEM.len() {
            assert_eq!(read(&PEM[..end], None).unwrap_err(), Unusable::Unreadable);
        }
        assert_eq!(read("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", None).unwrap_err(), Unusable::Unreadable);
    }
}
