//! An object store's errors in terms of what to do.
//!
//! The client library has one text for most failures, with the server's XML inside. That text is
//! never shown: S3 repeats key ids and the signed string in it. What is shown is its code.

use super::credentials::NoCredentials;
use crate::{Error, Kind};
use object_store::Error as StoreError;

/// Whose store it is: hints name its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cloud {
    S3,
    Google,
    Azure,
}

/// Whether the error says that there is no such object. A missing bucket is something else.
pub(super) fn absent(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. }) && !matches!(code(&text(error)), Some("NoSuchBucket" | "ContainerNotFound"))
}

/// Whether the store does not know the operation.
pub(super) fn unsupported(error: &StoreError) -> bool {
    let text = text(error);
    matches!(error, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })
        || status(&text) == Some(501)
        || matches!(code(&text), Some("NotImplemented" | "InvalidArgument" | "UnsupportedArgument"))
}

/// The error of an attempt to do `doing` below `root`.
pub(crate) fn explain(error: StoreError, doing: &str, root: &str) -> Error {
    if let StoreError::Generic { source, .. } = &error
        && let Some(missing) = source.downcast_ref::<NoCredentials>()
    {
        return missing.explain().doing(doing);
    }
    let text = text(&error);
    let cloud = match root.split_once("://") {
        Some(("gs", _)) => Cloud::Google,
        Some(("abfss", _)) => Cloud::Azure,
        _ => Cloud::S3,
    };
    let (message, hint, transient) = match known(cloud, code(&text).unwrap_or_default(), &text) {
        Some((message, hint, transient)) => (message.to_owned(), hint, transient),
        None => unknown(cloud, &error, &text),
    };
    let mut built = Error::new(Kind::Storage, message).doing(doing);
    if !hint.is_empty() {
        built = built.hint(hint.replace("{root}", root));
    }
    if transient { built.transient() } else { built }
}

type Known = (&'static str, &'static str, bool);

fn known(cloud: Cloud, code: &str, text: &str) -> Option<Known> {
    match cloud {
        Cloud::S3 => known_s3(code, text),
        Cloud::Google => known_google(code, text),
        Cloud::Azure => known_azure(code, text),
    }
}

/// Google's codes are mostly S3's (XML API, "HTTP status and error codes").
fn known_google(code: &str, text: &str) -> Option<Known> {
    Some(match code {
        "NoSuchBucket" => ("the bucket does not exist", "create the bucket, or correct its name in `iceberg_s3_path`", false),
        "AccessDenied" | "Forbidden" | "AuthenticationRequired" | "InvalidSecurity" | "UserProjectAccountProblem" => (
            "access denied",
            "give the service account the role Storage Object User on the bucket (storage.objects.get, .create, .delete, .list), or correct `gcp_service_account_json`",
            false,
        ),
        "InvalidBucketName" => ("the bucket's name is not valid", "correct it in `iceberg_s3_path`", false),
        "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" => return known_s3(code, text),
        "" if text.contains("metadata.google.internal") || text.contains("169.254.169.254") => (
            "no Google credentials could be found",
            "set `gcp_service_account_json` or GOOGLE_APPLICATION_CREDENTIALS, or give this machine a service account",
            false,
        ),
        "" if text.contains("token request") || text.contains("token response") => (
            "Google gave no access token for the service account",
            "correct `gcp_service_account_json`, and look at this machine's clock",
            false,
        ),
        "" => return connection(Cloud::Google, text),
        _ => return None,
    })
}

/// Azure's codes ("Blob Storage error codes", "Common REST API error codes").
fn known_azure(code: &str, text: &str) -> Option<Known> {
    Some(match code {
        "ContainerNotFound" => ("the container does not exist", "create the container, or correct its name in `iceberg_s3_path`", false),
        "ContainerBeingDeleted" | "ContainerDisabled" => {
            ("the container is being deleted or is disabled", "use another one, or wait until it is gone and create it again", false)
        }
        "AuthenticationFailed" | "InvalidAuthenticationInfo" => (
            "the store refused the credentials",
            "correct `azure_account_key`, `azure_sas_token` (has it expired?) or `azure_client_secret`, and look at this machine's clock",
            false,
        ),
        "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "InsufficientAccountPermissions"
        | "AuthorizationResourceTypeMismatch"
        | "AuthorizationServiceMismatch"
        | "AuthorizationProtocolMismatch"
        | "AuthorizationSourceIPMismatch"
        | "Forbidden"
        | "AccessDenied" => (
            "access denied",
            "give the identity the role Storage Blob Data Contributor on the container, or the SAS token the rights r, w, d, l; and look at the account's firewall",
            false,
        ),
        "NoAuthenticationInformation" | "PublicAccessNotPermitted" => (
            "the store wants credentials",
            "set `azure_account_key`, `azure_sas_token` or the three of `azure_client_id`, `azure_client_secret`, `azure_tenant_id`",
            false,
        ),
        "KeyBasedAuthenticationNotPermitted" => (
            "the storage account takes no account keys",
            "use `azure_client_id`, `azure_client_secret` and `azure_tenant_id` instead",
            false,
        ),
        "InvalidResourceName" => ("the container's name is not valid", "correct it in `iceberg_s3_path`", false),
        "AccountIsDisabled" => ("the storage account is disabled", "enable it in Azure, then run again", false),
        "ServerBusy" | "OperationTimedOut" | "InternalError" => {
            ("the store is busy", "run again; lower `max_threads` if it persists", true)
        }
        "" if text.contains("169.254.169.254") || text.contains("metadata/identity") => (
            "no Azure credentials could be found",
            "set `azure_account_key`, `azure_sas_token` or the three of `azure_client_id`, `azure_client_secret`, `azure_tenant_id`, or give this machine an identity",
            false,
        ),
        "" if text.contains("token request") || text.contains("token response") => {
            ("Azure gave no access token", "correct `azure_client_id`, `azure_client_secret` and `azure_tenant_id`", false)
        }
        "" => return connection(Cloud::Azure, text),
        _ => return None,
    })
}

/// S3's error codes (API reference, "List of error codes"), then what a connection can meet.
fn known_s3(code: &str, text: &str) -> Option<Known> {
    Some(match code {
        "NoSuchBucket" => (
            "the bucket does not exist",
            "create the bucket, or correct its name in `s3_bucket` (Iceberg: `iceberg_s3_path`), or the store's `s3_endpoint` and region",
            false,
        ),
        "SignatureDoesNotMatch" => (
            "the store refused the signature: the secret key does not belong to the access key",
            "correct `s3_secret_key` (Iceberg: `aws_secret_key`)",
            false,
        ),
        "InvalidAccessKeyId" | "NotSignedUp" => (
            "the store does not know the access key",
            "correct `s3_access_key` and `s3_secret_key` (Iceberg: `aws_access_key`, `aws_secret_key`)",
            false,
        ),
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => (
            "the session token is invalid or has expired",
            "renew the temporary credentials (`s3_session_token`; Iceberg: `aws_session_token`)",
            false,
        ),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => (
            "access denied",
            "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on {root}/* and s3:ListBucket on its bucket",
            false,
        ),
        "RequestTimeTooSkewed" => ("this machine's clock is wrong by more than the store allows", "set the clock, then run again", false),
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            ("the bucket is in another region", "correct `s3_region` (Iceberg: `aws_region`)", false)
        }
        "InvalidBucketName" => ("the bucket's name is not valid", "correct `s3_bucket` (Iceberg: `iceberg_s3_path`)", false),
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" => {
            ("the store is full", "free space or raise its quota, then run again", false)
        }
        "EntityTooLarge" => (
            "a file is larger than the store takes",
            "lower `max_file_size_mb` (Iceberg: the table property write.target-file-size-bytes)",
            false,
        ),
        "SlowDown" | "Busy" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" | "RequestTimeoutException" => {
            ("the store is busy", "run again; lower `max_threads` if it persists", true)
        }
        "" => return connection(Cloud::S3, text),
        _ => return None,
    })
}

/// One of three hints.
fn of(cloud: Cloud, s3: &'static str, google: &'static str, azure: &'static str) -> &'static str {
    match cloud {
        Cloud::S3 => s3,
        Cloud::Google => google,
        Cloud::Azure => azure,
    }
}

fn connection(cloud: Cloud, text: &str) -> Option<Known> {
    let has = |part: &str| text.contains(part);
    if cloud == Cloud::S3 && has("redirect without LOCATION") {
        return Some(("the bucket is in another region", "correct `s3_region` (Iceberg: `aws_region`)", false));
    }
    if has("dns error") || has("failed to lookup address") {
        return Some((
            "the host of the store cannot be found",
            of(
                cloud,
                "correct `s3_endpoint` or the region (`s3_region`; Iceberg: `aws_region`), or look at this machine's DNS",
                "correct `gcs_endpoint`, or look at this machine's DNS",
                "correct the account's name in `iceberg_s3_path` or `azure_endpoint`, or look at this machine's DNS",
            ),
            true,
        ));
    }
    if has("Connection refused") {
        let hint = of(
            cloud,
            "start the store, or correct host and port in `s3_endpoint`",
            "start the store, or correct host and port in `gcs_endpoint`",
            "start the store, or correct host and port in `azure_endpoint`",
        );
        return Some(("the connection was refused", hint, true));
    }
    if has("certificate") || has("InvalidContentType") || has("CorruptMessage") {
        return Some((
            "no secure connection could be made",
            of(
                cloud,
                "let `s3_endpoint` begin with http:// if the store has no TLS, else make this machine trust its certificate",
                "let `gcs_endpoint` begin with http:// if the store has no TLS, else make this machine trust its certificate",
                "let `azure_endpoint` begin with http:// if the store has no TLS, else make this machine trust its certificate",
            ),
            false,
        ));
    }
    if has("scheme is not http") || has("URL scheme is not allowed") {
        let hint = of(
            cloud,
            "let `s3_endpoint` begin with http:// or https://",
            "let `gcs_endpoint` begin with http:// or https://",
            "let `azure_endpoint` begin with http:// or https://",
        );
        return Some(("the endpoint's scheme is not allowed", hint, false));
    }
    if has("operation timed out") || has("Connect") || has("connection closed") || has("Connection reset") || has("error sending request") {
        return Some(("the store did not answer", "look at the network between here and the store, then run again", true));
    }
    None
}

fn unknown(cloud: Cloud, error: &StoreError, text: &str) -> (String, &'static str, bool) {
    match (error, status(text), code(text)) {
        (StoreError::PermissionDenied { .. }, _, None) | (_, Some(403), None) => {
            let (message, hint, transient) = known(cloud, "AccessDenied", "").unwrap_or_default();
            (message.to_owned(), hint, transient)
        }
        (StoreError::Unauthenticated { .. }, ..) => {
            let hint = of(
                cloud,
                "set `s3_access_key` and `s3_secret_key` (Iceberg: `aws_access_key`, `aws_secret_key`), or give this process a role",
                "set or correct `gcp_service_account_json`, or give this machine a service account",
                "correct `azure_account_key`, `azure_sas_token` or `azure_client_secret`, or give this machine an identity",
            );
            ("the store wants credentials".to_owned(), hint, false)
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
    fn each_cloud_has_hints_of_its_own() {
        let check = |root: &str, text: &str, message: &str, hint: &str| {
            let source = text.to_owned().into();
            let error = explain(StoreError::Generic { store: "x", source }, "write", root);
            let advice = error.advice().unwrap_or_default();
            assert!(error.to_string().contains(message) && advice.contains(hint), "{error}: {advice}");
            assert!(!advice.contains("`s3_"), "{advice}");
        };
        let (google, azure) = ("gs://b", "abfss://c@a.dfs.core.windows.net");
        check(google, "status code: 404: <Code>NoSuchBucket</Code>", "bucket does not exist", "iceberg_s3_path");
        check(google, "status code: 403: <Code>AccessDenied</Code>", "access denied", "Storage Object User");
        check(google, "Error performing GET http://metadata.google.internal/x", "no Google credentials", "GOOGLE_APPLICATION_CREDENTIALS");
        check(google, "dns error: failed to lookup address", "cannot be found", "gcs_endpoint");
        check(azure, "status code: 404: <Code>ContainerNotFound</Code>", "container does not exist", "create the container");
        check(azure, "status code: 403: <Code>AuthenticationFailed</Code>", "refused the credentials", "azure_account_key");
        check(azure, "status code: 403: ", "access denied", "Storage Blob Data Contributor");
        check(azure, "Error performing GET http://169.254.169.254/metadata/identity", "no Azure credentials", "azure_client_id");
        check(azure, "tcp connect error: Connection refused", "refused", "azure_endpoint");
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
