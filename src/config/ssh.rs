//! `ssh_config`: the SSH server through which the database is reached.
//!
//! Keys are OLake's, except those marked "Ours". Everything that can be wrong without a connection is found here: a key that
//! cannot be read, a passphrase that is missing, a known_hosts file that does not know the server. Reads files; does not connect.

use super::keywords::pem;
use crate::error::{Error, Result};
use crate::postgres::tunnel::{Bastion, HostKeys, PrivateKey, Tunnel, Unusable, read_private_key};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use writers::Secret;

/// SSH server through which the database is reached: every connection of a run, also those to `hosts` and `replica_hosts`, whose names are resolved there.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SshConfig {
    /// Host name or address of the SSH server; empty means no tunnel, whatever the other keys say.
    pub host: Option<String>,
    /// Its port, 1 to 65535. Default 22.
    pub port: Option<u16>,
    /// User on the SSH server.
    pub username: Option<String>,
    /// Password of that user. Beside `private_key` it is tried after it.
    pub password: Option<Secret>,
    /// Private key of that user, as PEM text or the path of a PEM file: ed25519, ECDSA or RSA, as OpenSSH or OpenSSL write them.
    pub private_key: Option<Secret>,
    /// Passphrase of the private key, if it is encrypted.
    pub passphrase: Option<Secret>,
    /// Ours: the only host key that the SSH server may have, as a public key (`ssh-ed25519 AAAA…`) or its fingerprint (`SHA256:…`); several on a line each. Absent, and without `known_hosts`: any key is accepted, with a warning that shows it.
    pub host_key: Option<String>,
    /// Ours: the host keys that the SSH server may have, as the path of a known_hosts file, or its text. Beside `host_key`: keys of either.
    pub known_hosts: Option<String>,
    /// OLake's, dead.
    #[serde(rename = "type")]
    #[schemars(extend("x-no-effect" = "the presence of `host` decides"))]
    kind: Option<Value>,
}

impl SshConfig {
    /// The tunnel, if there is to be one. Reads files; does not connect.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config), naming the key, for what cannot be used to log in.
    pub fn resolve(&self) -> Result<Option<Tunnel>> {
        let host = self.host.as_deref().unwrap_or("").trim();
        if host.is_empty() {
            return Ok(None);
        }
        refuse_no_host(host)?;
        let port = self.port.unwrap_or(22);
        if port == 0 {
            return Err(Error::config("`ssh_config.port`: found 0, accepted: a whole number from 1 to 65535"));
        }
        let user = self.username.as_deref().unwrap_or("").trim();
        if user.is_empty() {
            return Err(Error::config("`ssh_config.username`: found nothing, accepted: the name of a user on the SSH server"));
        }
        let key = self.key()?;
        let password = filled(self.password.as_ref()).cloned();
        if key.is_none() && password.is_none() {
            return Err(Error::config("`ssh_config`: found neither `private_key` nor `password`, accepted: one of them, or both")
                .hint("give the private key as PEM text or as the path of its file, or the password of the user"));
        }
        let host_keys = self.host_keys(host, port)?;
        Ok(Some(Tunnel::new(Bastion { host: host.to_owned(), port, user: user.to_owned(), password, key: key.map(Arc::new), host_keys })))
    }

    fn key(&self) -> Result<Option<PrivateKey>> {
        const AT: &str = "ssh_config.private_key";
        let Some(text) = self.private_key.as_ref().map_or(Ok(None), |key| pem(AT, key.expose()))? else { return Ok(None) };
        read_private_key(&text, filled(self.passphrase.as_ref())).map(Some).map_err(|problem| match problem {
            Unusable::NoPassphrase => Error::config("`ssh_config.passphrase`: found nothing, and the private key is encrypted")
                .hint("give the passphrase that the key was encrypted with"),
            Unusable::Locked => Error::config("`ssh_config.passphrase`: it does not open the private key")
                .hint("check the passphrase; `ssh-keygen -p -f KEY` asks for it, and rewrites the key in a form that is known here"),
            Unusable::Unreadable => Error::config(format!("`{AT}`: found PEM text that is no private key, or is damaged"))
                .hint("give the whole file, with its line ends; `ssh-keygen -p -f KEY` rewrites a key in a form that is known here"),
            Unusable::Type(name) => Error::config(format!("`{AT}`: found a key of the type {name}, accepted: ed25519, ECDSA and RSA"))
                .hint("make a key with `ssh-keygen -t ed25519`, and add its public half to the user's authorized_keys"),
        })
    }

    fn host_keys(&self, host: &str, port: u16) -> Result<HostKeys> {
        let keys = HostKeys::default().pin(self.host_key.as_deref().unwrap_or("")).ok_or_else(|| {
            Error::config("`ssh_config.host_key`: found text that is neither a public key (ssh-ed25519 AAAA…) nor a fingerprint (SHA256:…)")
                .hint("on the SSH server, /etc/ssh/ssh_host_ed25519_key.pub holds the public key, and `ssh-keygen -lf` of it shows the fingerprint")
        })?;
        let Some(known) = self.known_hosts.as_deref().map(str::trim).filter(|known| !known.is_empty()) else { return Ok(keys) };
        let file;
        let text = if is_known_hosts(known) {
            known
        } else {
            file = std::fs::read_to_string(known).map_err(|error| {
                Error::config(format!(
                    "`ssh_config.known_hosts`: found neither lines of known_hosts nor a file that can be read ({})",
                    error.kind()
                ))
                .hint("give the path of a known_hosts file, or its text; `${HOME}` stands for the home directory")
            })?;
            &file
        };
        keys.known(text, host, port).ok_or_else(|| {
            let host = if port == 22 { host.to_owned() } else { format!("-p {port} {host}") };
            Error::config("`ssh_config.known_hosts`: it holds no key of the SSH server in `ssh_config.host` and `ssh_config.port`")
                .hint(format!("`ssh-keyscan {host}` prints its lines; compare them with the server's own keys before you trust them"))
        })
    }
}

/// A secret that is not blank.
fn filled(secret: Option<&Secret>) -> Option<&Secret> {
    secret.filter(|secret| !secret.expose().is_empty())
}

/// Lines of known_hosts have a key behind a space; a path has not.
fn is_known_hosts(text: &str) -> bool {
    text.contains('\n') || text.split_ascii_whitespace().any(|word| word.starts_with("AAAA"))
}

fn refuse_no_host(host: &str) -> Result<()> {
    let (wrong, hint) = if host.contains("://") {
        ("a URL", "write the bare host name")
    } else if host.contains('@') {
        ("a user before the name", "the user belongs in `ssh_config.username`")
    } else if host.matches(':').count() == 1 {
        ("a name with a port", "the port belongs in `ssh_config.port`")
    } else if host.contains(['/', ' ', '\t', '\n', ',']) {
        ("characters that no host name has", "write the name or address of one host")
    } else {
        return Ok(());
    };
    Err(Error::config(format!("`ssh_config.host`: found {wrong}, accepted: a host name or an address")).hint(hint))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn resolve(changes: Value) -> Result<Option<Tunnel>> {
        let mut value = json!({"host": "bastion", "username": "ann", "password": "hunter2"});
        value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value::<SshConfig>(value).unwrap().resolve()
    }

    fn refused(changes: Value, expected: &str) {
        let error = resolve(changes).map(drop).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_host_decides() {
        assert_eq!(format!("{:?}", resolve(json!({})).unwrap().unwrap()), "Tunnel(ann@bastion:22)");
        assert_eq!(format!("{:?}", resolve(json!({"host": " ::1 ", "port": 2222})).unwrap().unwrap()), "Tunnel(ann@[::1]:2222)");
        assert!(resolve(json!({"host": " "})).unwrap().is_none());
        assert!(resolve(json!({"host": null, "port": 0, "username": "", "private_key": "no key"})).unwrap().is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        refused(json!({"username": " "}), "`ssh_config.username`: found nothing");
        refused(json!({"password": ""}), "neither `private_key` nor `password`");
        refused(json!({"password": null, "private_key": ""}), "neither `private_key` nor `password`");
        refused(json!({"port": 0}), "`ssh_config.port`: found 0");
        refused(json!({"host": "ann@bastion"}), "a user before the name");
        refused(json!({"host": "bastion:22"}), "a name with a port");
        refused(json!({"host": "ssh://bastion"}), "a URL");
        refused(json!({"host": "a,b"}), "characters");
        refused(json!({"private_key": "/nowhere/id"}), "`ssh_config.private_key`: found neither PEM text nor a file");
        refused(
            json!({"private_key": "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----"}),
            "no private key, or is damaged",
        );
    }

    #[test]
    fn host_keys_are_read_before_anything_connects() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known hosts");
        std::fs::write(&path, format!("bastion {KEY}\n")).unwrap();
        for known in [path.to_str().unwrap(), &format!("bastion {KEY}"), &format!("other {KEY}\nbastion {KEY}\n")] {
            assert!(resolve(json!({"known_hosts": known})).unwrap().is_some(), "{known}");
            refused(json!({"known_hosts": known, "port": 2222}), "holds no key of the SSH server");
        }
        assert!(resolve(json!({"host_key": KEY})).unwrap().is_some());
        assert!(resolve(json!({"host_key": "", "known_hosts": ""})).unwrap().is_some());
        refused(json!({"host_key": "hunter2"}), "`ssh_config.host_key`: found text that is neither");
        refused(json!({"known_hosts": "/nowhere/known_hosts"}), "nor a file that can be read");
    }
}
