//! AWS KMS: one question for each encrypted file.
//!
//! Region and key come from the key's name, everything else from where AWS tools look for it: credentials from environment,
//! profile, web identity or role, the endpoint from AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL. Promises: a failure says who must do what,
//! and holds neither credentials nor content. Does not know what is encrypted.

use crate::config::encryption::KmsKey;
use crate::error::{Error, Result};
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::Builder;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::time::Duration;

/// Longest time for one attempt, and for all of them together.
const ATTEMPT_SECONDS: u64 = 10;
const TOTAL_SECONDS: u64 = 30;

/// What KMS encrypts in one piece.
const ENCRYPT_BYTES_MAX: usize = 4096;

/// Decrypts `bytes` with `key`, and with no other: KMS would find the key by itself, and take any that the caller may use.
pub async fn decrypt(key: &KmsKey, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let answer = client(key).await?.decrypt().key_id(&key.arn).ciphertext_blob(Blob::new(bytes)).send().await;
    let plain = answer.map_err(|error| trouble(key, "kms:Decrypt", error))?.plaintext;
    plain.map(Blob::into_inner).ok_or_else(|| Error::config("AWS KMS answered without a text"))
}

/// Encrypts `bytes` with `key`.
pub async fn encrypt(key: &KmsKey, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if bytes.len() > ENCRYPT_BYTES_MAX {
        return Err(Error::config(format!("AWS KMS encrypts at most {ENCRYPT_BYTES_MAX} bytes, the file has {}", bytes.len()))
            .hint("encrypt it with a text as key, or move certificates out of it with ${file:PATH}"));
    }
    let answer = client(key).await?.encrypt().key_id(&key.arn).plaintext(Blob::new(bytes)).send().await;
    let sealed = answer.map_err(|error| trouble(key, "kms:Encrypt", error))?.ciphertext_blob;
    sealed.map(Blob::into_inner).ok_or_else(|| Error::config("AWS KMS answered without a text"))
}

async fn client(key: &KmsKey) -> Result<Client> {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let found = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http).region(Region::new(key.region.clone())).load().await;
    // Asked first and by itself: as part of a request, their absence would look like a network that is down.
    let credentials = match found.credentials_provider() {
        Some(provider) => provider.provide_credentials().await.map_err(|error| error.to_string()),
        None => Err("no place to look for them".to_owned()),
    };
    let credentials = credentials.map_err(|reason| {
        Error::config(format!("AWS KMS is to decrypt, and no AWS credentials could be found: {reason}"))
            .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role")
    })?;
    let attempt = Duration::from_secs(ATTEMPT_SECONDS);
    let timeouts =
        TimeoutConfig::builder().operation_attempt_timeout(attempt).operation_timeout(Duration::from_secs(TOTAL_SECONDS)).build();
    Ok(Client::from_conf(Builder::from(&found).credentials_provider(credentials).timeout_config(timeouts).build()))
}

/// Why a request did not give what it should, in words for the one who runs it.
fn trouble<E: ProvideErrorMetadata>(key: &KmsKey, action: &str, error: SdkError<E>) -> Error {
    let unreachable = |why: &str| {
        Error::config(format!("AWS KMS in {} cannot be reached: {why}", key.region)).hint(
            "check the region in the key's name, the network, and AWS_ENDPOINT_URL_KMS and AWS_ENDPOINT_URL if they are set; a private network needs a VPC endpoint for KMS",
        )
    };
    let not_kms = |status: u16| unreachable(&format!("what answers there is not KMS (HTTP status {status})"));
    match &error {
        SdkError::ServiceError(answer) => match answer.err().code() {
            Some(code) => refused(key, action, code, answer.err().message()),
            None => not_kms(answer.raw().status().as_u16()),
        },
        SdkError::TimeoutError(_) => unreachable(&format!("no answer within {TOTAL_SECONDS} s")),
        SdkError::DispatchFailure(failure) => {
            unreachable(&failure.as_connector_error().map_or_else(|| "no connection".to_owned(), innermost))
        }
        SdkError::ResponseError(answer) => not_kms(answer.raw().status().as_u16()),
        _ => Error::config("the request to AWS KMS could not be made").hint("check the key's name in --encryption-key"),
    }
}

/// The last of a chain of causes: the others only say that something failed.
fn innermost(error: &(impl std::error::Error + 'static)) -> String {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// KMS has answered, with a no. Its own words name the caller and the key, and hold no secret.
fn refused(key: &KmsKey, action: &str, code: &str, message: Option<&str>) -> Error {
    let message = message.map(|message| format!(": {message}")).unwrap_or_default();
    let arn = &key.arn;
    let hint = match code {
        "AccessDeniedException" | "AccessDenied" => {
            format!(
                "allow {action} on {arn} to these credentials, in their policy or the key's; the file may also be encrypted with another key"
            )
        }
        "IncorrectKeyException" => "give the key that the file was encrypted with in --encryption-key".to_owned(),
        "InvalidCiphertextException" => {
            "the file was not encrypted by KMS, or it is damaged; a file encrypted with a text as key needs that text in --encryption-key"
                .to_owned()
        }
        "NotFoundException" => format!("check --encryption-key: there is no key {arn}"),
        "DisabledException" | "KMSInvalidStateException" => format!("enable {arn}, or cancel its deletion"),
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            "AWS does not know these credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile".to_owned()
        }
        "ExpiredTokenException" | "ExpiredToken" => "renew the credentials, they have expired".to_owned(),
        _ => "if it stays so, ask whoever looks after the key".to_owned(),
    };
    Error::config(format!("AWS KMS refused {action} ({code}){message}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let key = KmsKey { arn: "arn:aws:kms:eu-west-1:1:key/2".to_owned(), region: "eu-west-1".to_owned() };
        let check = |code: &str, hint: &str| {
            let error = refused(&key, "kms:Decrypt", code, Some("the words of KMS"));
            let text = error.to_string();
            assert!(text.contains(code) && text.contains("the words of KMS") && text.contains("kms:Decrypt"), "{text}");
            assert!(error.advice().is_some_and(|advice| advice.contains(hint)), "{code}: {:?}", error.advice());
        };
        check("AccessDeniedException", "allow kms:Decrypt on arn:aws:kms:eu-west-1:1:key/2");
        check("IncorrectKeyException", "the key that the file was encrypted with");
        check("InvalidCiphertextException", "not encrypted by KMS");
        check("NotFoundException", "there is no key arn:aws:kms:eu-west-1:1:key/2");
        check("DisabledException", "enable");
        check("UnrecognizedClientException", "AWS_ACCESS_KEY_ID");
        check("ExpiredTokenException", "renew");
        check("ThrottlingException", "if it stays so");
    }
}
