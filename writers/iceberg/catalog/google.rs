//! A Google service account: signs for itself that it is who it says (RFC 7523), which Google exchanges for a token.

use crate::{Error, Kind, Result, Secret};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::Url;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest life of an assertion, in seconds.
const LIFE: u64 = 3600;

/// A key file of a service account, and what it asks for.
pub(crate) struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    key: RsaKeyPair,
    scopes: String,
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: Secret,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

impl ServiceAccount {
    /// From the text of the key file; gives the place that exchanges assertions as well.
    pub(crate) fn new(json: &Secret, scopes: &str) -> Result<(Self, String)> {
        let wrong = |why: &str| {
            Error::new(Kind::Config, format!("`gcp_service_account_json` is no key file of a Google service account: {why}"))
                .hint("paste the whole JSON file that Google gave for a key of the account")
        };
        // The text around a mistake in it could be the key.
        let file: KeyFile = serde_json::from_str(json.expose())
            .map_err(|e| wrong(&format!("it is not read beyond line {}, column {}", e.line(), e.column())))?;
        let text = file.private_key.expose().replace("\\n", "\n");
        let base64: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(base64).map_err(|_| wrong("`private_key` is not in PEM form"))?;
        let key = RsaKeyPair::from_pkcs8(&der).map_err(|_| wrong("`private_key` is not an RSA key in PKCS #8 form"))?;
        let account = Self { email: file.client_email, key_id: file.private_key_id, key, scopes: scopes.to_owned() };
        Ok((account, file.token_uri.unwrap_or_else(|| "https://oauth2.googleapis.com/token".to_owned())))
    }

    /// A signed statement for `audience`, good for an hour.
    pub(crate) fn assertion(&self, audience: &Url) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({"iss": self.email, "scope": self.scopes, "aud": audience.as_str(), "iat": now, "exp": now + LIFE});
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| Error::new(Kind::Config, "the key of the Google service account cannot sign"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
