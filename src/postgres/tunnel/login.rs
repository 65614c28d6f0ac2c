//! Logging in at the bastion: the key first, then the password. Errors say what was tried, never with what secret.

use super::{Bastion, Observer, Seen, host_key};
use crate::error::{Error, Result, Retry};
use crate::postgres::sqlstate::lost;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Interactive};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};
use std::sync::Arc;

/// Questions that a server may ask one after the other; an honest one asks once.
const ROUNDS: usize = 4;

/// Logs in. All methods that the user has given something for are used, as servers may ask for two of them.
pub async fn login(handle: &mut Handle<Observer>, bastion: &Bastion, seen: &Seen) -> Result<()> {
    let mut login = Login { handle, bastion, seen, tried: Vec::new(), takes: None };
    if let Some(key) = &bastion.key
        && login.with_key(key).await?
    {
        return Ok(());
    }
    if let Some(password) = &bastion.password {
        let secret = password.expose();
        if login.may(MethodKind::Password) && login.with_password(secret).await? {
            return Ok(());
        }
        if login.may(MethodKind::KeyboardInteractive) && login.with_answers(secret).await? {
            return Ok(());
        }
    }
    Err(login.refused())
}

struct Login<'a> {
    handle: &'a mut Handle<Observer>,
    bastion: &'a Bastion,
    seen: &'a Seen,
    tried: Vec<String>,
    /// The methods that the server would go on with, once it has told.
    takes: Option<MethodSet>,
}

impl Login<'_> {
    /// Whether the server has not ruled a method out.
    fn may(&self, method: MethodKind) -> bool {
        self.takes.as_ref().is_none_or(|takes| takes.contains(&method))
    }

    async fn with_key(&mut self, key: &Arc<PrivateKey>) -> Result<bool> {
        let hashes = match self.handle.best_supported_rsa_hash().await {
            _ if !key.algorithm().is_rsa() => vec![None],
            Ok(Some(best)) => vec![best],
            // A server that does not tell may be a modern one all the same.
            Ok(None) => vec![Some(HashAlg::Sha256), None],
            Err(error) => return Err(error.into()),
        };
        let shown = format!("publickey with {} {}", key.algorithm(), host_key::fingerprint(key.public_key()));
        self.tried.push(shown);
        for hash in hashes {
            let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
            let answer = self.handle.authenticate_publickey(self.bastion.user.as_str(), key).await?;
            if self.over(answer).await? {
                return Ok(true);
            }
            if !self.may(MethodKind::PublicKey) {
                break;
            }
        }
        Ok(false)
    }

    async fn with_password(&mut self, password: &str) -> Result<bool> {
        self.tried.push("password".to_owned());
        let answer = self.handle.authenticate_password(self.bastion.user.as_str(), password).await?;
        self.over(answer).await
    }

    /// What many servers ask for instead of a password: answers, of which the password is the only one we have.
    async fn with_answers(&mut self, password: &str) -> Result<bool> {
        self.tried.push("keyboard-interactive".to_owned());
        let mut answer = self.handle.authenticate_keyboard_interactive_start(self.bastion.user.as_str(), None::<String>).await?;
        for _ in 0..ROUNDS {
            answer = match answer {
                Interactive::Success => return Ok(true),
                Interactive::Failure { remaining_methods, partial_success } => {
                    return self.over(AuthResult::Failure { remaining_methods, partial_success }).await;
                }
                Interactive::InfoRequest { prompts, .. } => {
                    // What is shown while it is typed is no password.
                    let answers = prompts.iter().map(|prompt| if prompt.echo { String::new() } else { password.to_owned() }).collect();
                    self.handle.authenticate_keyboard_interactive_respond(answers).await?
                }
            };
        }
        Ok(matches!(answer, Interactive::Success))
    }

    /// Whether we are in; what the server takes is kept.
    async fn over(&mut self, answer: AuthResult) -> Result<bool> {
        match answer {
            AuthResult::Success => Ok(true),
            // russh ends a connection whose server takes nothing more; all other ends are the network's or the server's.
            AuthResult::Failure { .. } if self.handle.is_closed() => Err(match self.seen.end().await {
                Some(end) if end.retry() == Retry::Never => self.refused(),
                _ => lost(&self.seen.why_ended()).hint("the SSH server's log tells more"),
            }),
            AuthResult::Failure { remaining_methods, .. } => {
                self.takes = Some(remaining_methods);
                Ok(false)
            }
        }
    }

    fn refused(&self) -> Error {
        let bastion = self.bastion;
        let takes: Vec<String> = self.takes.iter().flat_map(|takes| takes.iter()).map(String::from).collect();
        let takes = if takes.is_empty() { String::new() } else { format!("; it takes {}", takes.join(", ")) };
        let hint = match (&bastion.key, &bastion.password) {
            (Some(_), _) => {
                "check `ssh_config.username`, and that the public half of `private_key` stands in that user's ~/.ssh/authorized_keys"
            }
            // A server that has refused the last thing it takes names nothing.
            (None, _) if self.takes.as_ref().is_some_and(|takes| !takes.is_empty() && !takes.iter().any(is_password)) => {
                "give `ssh_config.private_key`: this server takes no password"
            }
            _ => "check `ssh_config.username` and `ssh_config.password`",
        };
        let tried = self.tried.join(", then ");
        Error::source_db(format!("the SSH server does not let the user {} in (tried {tried}{takes})", bastion.user)).hint(hint)
    }
}

/// Whether a password can answer.
fn is_password(method: &MethodKind) -> bool {
    matches!(method, MethodKind::Password | MethodKind::KeyboardInteractive)
}
