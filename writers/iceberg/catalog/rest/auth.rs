//! Who asks a REST catalog: nobody in particular, a bearer of a token, a client that is given tokens (OAuth2, Google), a holder of AWS keys.
//!
//! Promises: a token is renewed before it ends, and when the catalog refuses it; one request at a time asks for one, the others wait.

use crate::iceberg::catalog::google::ServiceAccount;
use crate::iceberg::catalog::http::{Call, Http};
use crate::iceberg::catalog::sigv4::Signer;
use crate::{Error, Kind, Result, Secret};
use reqwest::{Method, Url};
use serde::Deserialize;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How requests are made acceptable.
#[derive(Debug)]
pub(crate) enum Auth {
    /// Not at all.
    None,
    /// By a token that was given once.
    Token(Secret),
    /// By tokens that somebody gives.
    Issued(Issuer),
    /// By signatures.
    Signed(Signer),
}

impl Auth {
    /// The request with what makes it acceptable; a signer signs it when it is sent.
    pub(super) async fn admit(&self, http: &Http, call: Call) -> Result<(Call, Option<&Signer>)> {
        let bearer = |call: Call, token: &Secret| call.header("authorization", format!("Bearer {}", token.expose()));
        Ok(match self {
            Self::None => (call, None),
            Self::Token(token) => (bearer(call, token), None),
            Self::Issued(issuer) => (bearer(call, &issuer.token(http).await?), None),
            Self::Signed(signer) => (call, Some(signer)),
        })
    }

    /// After a refusal of `call`: forgets its token. Says whether another one can be had.
    pub(super) async fn refused(&self, call: &Call) -> bool {
        let Self::Issued(issuer) = self else { return false };
        let used = call.headers.iter().rev().find(|(name, _)| name == "authorization").and_then(|(_, value)| value.strip_prefix("Bearer "));
        let mut current = issuer.current.lock().await;
        // Another request may have renewed it meanwhile.
        if current.as_ref().is_some_and(|current| Some(current.token.expose()) == used) {
            *current = None;
        }
        true
    }
}

/// Gives tokens.
pub(crate) struct Issuer {
    /// Where they are given.
    uri: Url,
    grant: Grant,
    current: Mutex<Option<Current>>,
}

/// What a token is given for.
pub(crate) enum Grant {
    /// OAuth2's client credentials.
    Client {
        /// Client id, where the credential has one.
        id: Option<String>,
        /// Client secret.
        secret: Secret,
        /// Scope.
        scope: String,
    },
    /// A Google service account.
    Google(Box<ServiceAccount>),
}

struct Current {
    token: Secret,
    /// When another one should be had, and when this one ends.
    times: Option<(Instant, Instant)>,
}

#[derive(Deserialize)]
struct Given {
    access_token: Secret,
    expires_in: Option<f64>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.uri)
    }
}

impl Issuer {
    /// Asks nobody yet.
    pub(crate) fn new(uri: Url, grant: Grant) -> Self {
        Self { uri, grant, current: Mutex::default() }
    }

    /// A token that holds.
    async fn token(&self, http: &Http) -> Result<Secret> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        if let Some(current) = &*current
            && current.times.is_none_or(|(renew, _)| now < renew)
        {
            return Ok(current.token.clone());
        }
        match self.issue(http).await {
            Ok(given) => {
                let lifetime = given.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                // A tenth of its life is kept for a request that is under way, and for a server that is slow to give another.
                let times = lifetime.and_then(|life| Some((now.checked_add(life.mul_f64(0.9))?, now.checked_add(life)?)));
                *current = Some(Current { token: given.access_token.clone(), times });
                Ok(given.access_token)
            }
            Err(error) => match &*current {
                Some(current) if current.times.is_none_or(|(_, end)| now < end) => {
                    tracing::warn!("{error}; using the token that still holds");
                    Ok(current.token.clone())
                }
                _ => Err(error),
            },
        }
    }

    async fn issue(&self, http: &Http) -> Result<Given> {
        let (fields, hint) = match &self.grant {
            Grant::Client { id, secret, scope } => {
                let mut fields = vec![("grant_type", "client_credentials".to_owned()), ("client_secret", secret.expose().to_owned())];
                fields.extend(id.as_ref().map(|id| ("client_id", id.clone())));
                if !scope.is_empty() {
                    fields.push(("scope", scope.clone()));
                }
                (fields, "look at `credential`, `scope` and `oauth2_uri`")
            }
            Grant::Google(account) => (
                vec![
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned()),
                    ("assertion", account.assertion(&self.uri)?),
                ],
                "look at `gcp_service_account_json` and `gcp_auth_scopes`",
            ),
        };
        let doing = |e: Error| e.doing(format!("get a token from {}", self.uri));
        let call = Call::new(Method::POST, self.uri.clone())
            .header("accept", "application/json")
            .body("application/x-www-form-urlencoded", form(&fields)?);
        let answer = http.patient(&call, None).await.map_err(doing)?;
        if !answer.is_ok() {
            return Err(doing(answer.error()).hint(hint));
        }
        answer.json().map_err(|e| doing(e).hint("look at `oauth2_uri`: what answers there gives no tokens"))
    }
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, String)]) -> Result<String> {
    let mut url = Url::parse("form:").map_err(|e| Error::new(Kind::Bug, "no form").because(e))?;
    url.query_pairs_mut().extend_pairs(fields);
    Ok(url.query().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_keeps_every_character() {
        let fields = [("client_secret", "a&b=c d+%é".to_owned()), ("scope", "PRINCIPAL_ROLE:ALL".to_owned())];
        assert_eq!(form(&fields).expect("form"), "client_secret=a%26b%3Dc+d%2B%25%C3%A9&scope=PRINCIPAL_ROLE%3AALL");
    }
}
