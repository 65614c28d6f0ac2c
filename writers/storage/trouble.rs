//! An object store's errors in terms of what to do.
//!
//! The client library has one text for most failures, with the server's XML inside. That text is
//! never shown: S3 repeats key ids and the signed string in it. What is shown is its code.

use super::credentials::NoCredentials;
use crate::{Error, Kind};
use object_store::Error as StoreError;

/// Whether the error says that there is no such object. A missing bucket is something else.
pub(super) fn absent(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. }) && code(&text(error)) != Some("NoSuchBucket")
}

/// Whether the store does not know the operation.
pub(super) fn unsupported(error: &StoreError) -> bool {
    let text = text(error);
    matches!(error, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })
        || status(&text) == Some(501)
        || matches!(code(&text), Some("NotImplemented" | "InvalidArgument" | "UnsupportedArgument"))
}

/// The error of an attempt to do `doing` below `root`.
pub(super) fn explain(error: StoreError, doing: &str, root: &str) -> Error {
    if let StoreError::Generic { source, .. } = &error
        && let Some(missing) = source.downcast_ref::<NoCredentials>()
    {
        return missing.explain().doing(doing);
    }
    let text = text(&error);
    let (message, hint, transient) = match known(code(&text).unwrap_or_default(), &text) {
        Some((message, hint, transient)) => (message.to_owned(), hint, transient),
        None => unknown(&error, &text),
    };
    let mut built = Error::new(Kind::Storage, message).doing(doing);
    if !hint.is_empty() {
        built = built.hint(hint.replace("{root}", root));
    }
    if transient { built.transient() } else { built }
}

type Known = (&'static str, &'static str, bool);

/// S3's error codes (API reference, "List of error codes"), then what a connection can meet.
fn known(code: &str, text: &str) -> Option<Known> {
    Some(match code {
        "NoSuchBucket" => {
            ("the bucket does not exist", "create the bucket, or correct `s3_bucket` (and `s3_endpoint`, `s3_region`)", false)
        }
        "SignatureDoesNotMatch" => {
            ("the store refused the signature: the secret key does not belong to the access key", "correct `s3_secret_key`", false)
        }
        "InvalidAccessKeyId" | "NotSignedUp" => {
            ("the store does not know the access key", "correct `s3_access_key` and `s3_secret_key`", false)
        }
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            ("the session token is invalid or has expired", "renew the temporary credentials (`s3_session_token`)", false)
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => (
            "access denied",
            "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on {root}/* and s3:ListBucket on its bucket",
            false,
        ),
        "RequestTimeTooSkewed" => ("this machine's clock is wrong by more than the store allows", "set the clock, then run again", false),
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            ("the bucket is in another region", "correct `s3_region`", false)
        }
        "InvalidBucketName" => ("the bucket's name is not valid", "correct `s3_bucket`", false),
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" => {
            ("the store is full", "free space or raise its quota, then run again", false)
        }
        "EntityTooLarge" => ("a file is larger than the store takes", "lower `max_file_size_mb`", false),
        "SlowDown" | "Busy" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" | "RequestTimeoutException" => {
            ("the store is busy", "run again; lower `max_threads` if it persists", true)
        }
        "" => return connection(text),
        _ => return None,
    })
}

fn connection(text: &str) -> Option<Known> {
    let has = |part: &str| text.contains(part);
    if has("redirect without LOCATION") {
        return Some(("the bucket is in another region", "correct `s3_region`", false));
    }
    if has("dns error") || has("failed to lookup address") {
        return Some((
            "the host of the store cannot be found",
            "correct `s3_endpoint` or `s3_region`, or look at this machine's DNS",
            true,
        ));
    }
    if has("Connection refused") {
        return Some(("the connection was refused", "start the store, or correct host and port in `s3_endpoint`", true));
    }
    if has("certificate") || has("InvalidContentType") || has("CorruptMessage") {
        return Some((
            "no secure connection could be made",
            "let `s3_endpoint` begin with http:// if the store has no TLS, else make this machine trust its certificate",
            false,
        ));
    }
    if has("scheme is not http") || has("URL scheme is not allowed") {
        return Some(("the endpoint's scheme is not allowed", "let `s3_endpoint` begin with http:// or https://", false));
    }
    if has("operation timed out") || has("Connect") || has("connection closed") || has("Connection reset") || has("error sending request") {
        return Some(("the store did not answer", "look at the network between here and the store, then run again", true));
    }
    None
}

fn unknown(error: &StoreError, text: &str) -> (String, &'static str, bool) {
    match (error, status(text), code(text)) {
        (StoreError::PermissionDenied { .. }, _, None) | (_, Some(403), None) => {
            let (message, hint, transient) = known("AccessDenied", "").unwrap_or_default();
            (message.to_owned(), hint, transient)
        }
        (StoreError::Unauthenticated { .. }, ..) => {
            ("the store wants credentials".to_owned(), "set `s3_access_key` and `s3_secret_key`, or give this process a role", false)
        }
        (StoreError::NotFound { .. }, _, code) => (format!("not found{}", in_brackets(code)), "", false),
        (StoreError::AlreadyExists { .. }, ..) => ("it exists already, or is being written by someone else".to_owned(), "", true),
        (_, Some(status), code) => {
            (format!("the store answered with status {status}{}", in_brackets(code)), "", status >= 500 || status == 429)
        }
        (_, None, Some(code)) => (format!("the store answered {code}"), "", false),
        (_, None, None) => (format!("the store failed: {}", last_cause(error)), "", false),
    }
}

fn in_brackets(code: Option<&str>) -> String {
    code.map(|c| format!(" ({c})")).unwrap_or_default()
}

/// The innermost error's own words. Those of errors around it may quote the request.
fn last_cause(error: &StoreError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The whole chain, to be searched and never shown.
fn text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The code of S3's error document: letters only, so it can be shown.
fn code(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("<Code>")?;
    let (code, _) = after.split_once("</Code>")?;
    (!code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

fn status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Error {
        explain(StoreError::Generic { store: "S3", source: text.to_owned().into() }, "write s3://b/k", "s3://b")
    }

    #[test]
    fn each_failure_says_what_to_do_and_whether_to_try_again() {
        use crate::Retry::{Again, Never};
        let check = |text: &str, message: &str, hint: &str, retry| {
            let error = error(text);
            assert_eq!(error.to_string(), format!("write s3://b/k: {message}"));
            assert!(error.advice().unwrap_or_default().contains(hint), "{:?}", error.advice());
            assert_eq!(error.retry(), retry);
        };
        check("status code: 404 Not Found: <Error><Code>NoSuchBucket</Code></Error>", "the bucket does not exist", "s3_bucket", Never);
        check("status code: 403 Forbidden: <Error><Code>AccessDenied</Code>", "access denied", "s3://b/*", Never);
        check("status code: 403 Forbidden: ", "access denied", "s3:PutObject", Never);
        check("status code: 503 x: <Code>SlowDown</Code>", "the store is busy", "max_threads", Again);
        check("status code: 502 Bad Gateway: ", "the store answered with status 502", "", Again);
        check("status code: 400 Bad Request: <Code>Odd</Code>", "the store answered with status 400 (Odd)", "", Never);
        check("error sending request: client error (Connect): dns error: x", "the host of the store cannot be found", "s3_endpoint", Again);
        check("error sending request: tcp connect error: Connection refused (os error 111)", "the connection was refused", "port", Again);
    }

    #[test]
    fn what_the_server_quotes_is_not_repeated() {
        let text = "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIASECRET</AWSAccessKeyId>\
                    <StringToSign>AWS4-HMAC AKIASECRET</StringToSign></Error>";
        let error = error(text);
        assert!(!format!("{error} {error:?} {:?}", error.advice()).contains("AKIASECRET"));
        assert!(error.advice().is_some_and(|h| h.contains("s3_secret_key")));
        let odd = explain(
            StoreError::Generic { store: "S3", source: "status code: 400: <Code>A<b>AKIASECRET</Code>".to_owned().into() },
            "x",
            "y",
        );
        assert!(!odd.to_string().contains("AKIASECRET"));
    }
}
