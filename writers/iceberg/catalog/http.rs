//! HTTP as catalogs speak it: one request, or one that waits for a server that is busy.
//!
//! Promises: who asks learns whether an answer came; `Retry-After` is honoured; what a server says of an error is shown, in whichever
//! of the usual shapes it says it; no header is ever shown. Knows no catalog.

use super::sigv4::Signer;
use crate::{Error, Kind, Result, Retry};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::error::Error as _;
use std::time::{Duration, Instant, SystemTime};

/// Time to reach a host.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for one answer: a catalog may write a large metadata file before it gives one.
const ANSWER: Duration = Duration::from_secs(120);
/// How often a request is sent again that failed for a passing reason.
const RETRIES: u32 = 6;
/// The first pause; each one after it is twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// After this time nothing is sent again, whatever the server asks for.
const PATIENCE: Duration = Duration::from_secs(180);
/// As much of a message that is no JSON as is shown.
const SHOWN: usize = 300;

/// The client. Cloning shares its connections.
#[derive(Clone, Debug)]
pub(crate) struct Http(Client);

/// A request, which can be sent again. Not to be shown: a header may hold a secret.
#[derive(Clone)]
pub(crate) struct Call {
    /// Method.
    pub(crate) method: Method,
    /// Where to.
    pub(crate) url: Url,
    /// All headers but those of the connection and of a signature.
    pub(crate) headers: Vec<(String, String)>,
    /// Body; may be empty.
    pub(crate) body: Bytes,
}

impl Call {
    /// A request without a body.
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), body: Bytes::new() }
    }

    /// With a header.
    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With a body.
    #[must_use]
    pub(crate) fn body(self, kind: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }.header("content-type", kind)
    }

    /// With JSON as its body.
    #[must_use]
    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Http {
    /// Nothing is opened yet. Proxies are those of the environment.
    pub(crate) fn new() -> Result<Self> {
        // A commit that is redirected would become a read.
        let builder = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .user_agent(concat!("lakeward/", env!("CARGO_PKG_VERSION")));
        Ok(Self(builder.build().map_err(|e| Error::new(Kind::Config, "this machine cannot speak HTTPS").because(e.without_url()))?))
    }

    /// Sends once. An error means that nobody knows whether the server has done it.
    pub(crate) async fn once(&self, call: &Call, signer: Option<&Signer>) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        let signature = match signer {
            Some(signer) => signer.sign(call).await?,
            None => Vec::new(),
        };
        for (name, value) in call.headers.iter().chain(&signature) {
            let parsed = HeaderName::try_from(name.as_str()).ok().zip(HeaderValue::try_from(value.as_str()).ok());
            let (header, value) = parsed.ok_or_else(|| {
                Error::new(Kind::Config, format!("the value for the HTTP header {name} has characters that none can have"))
                    .hint("look for line breaks in the keys of the destination file")
            })?;
            headers.insert(header, value);
        }
        let request = self.0.request(call.method.clone(), call.url.clone()).headers(headers).body(call.body.clone());
        let lost = |e: reqwest::Error| lost(&call.url, &e);
        let response = request.send().await.map_err(lost)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await.map_err(lost)? })
    }

    /// Sends until the server has time for it. For what may be done twice.
    pub(crate) async fn patient(&self, call: &Call, signer: Option<&Signer>) -> Result<Answer> {
        self.while_refused(call, signer, |result| match result {
            Ok(answer) => answer.is_busy() || matches!(answer.status, 500 | 502 | 503 | 504),
            Err(error) => error.retry() == Retry::Again,
        })
        .await
    }

    /// Sends until the server takes it; whatever leaves a doubt is not sent again. For what must not be done twice.
    pub(crate) async fn careful(&self, call: &Call, signer: Option<&Signer>) -> Result<Answer> {
        self.while_refused(call, signer, |result| result.as_ref().is_ok_and(Answer::is_busy)).await
    }

    async fn while_refused(&self, call: &Call, signer: Option<&Signer>, again: impl Fn(&Result<Answer>) -> bool) -> Result<Answer> {
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            let result = self.once(call, signer).await;
            let asked = result.as_ref().ok().and_then(Answer::retry_after);
            let wait = asked.unwrap_or(PAUSE * 2_u32.pow(attempt));
            if attempt == RETRIES || begun.elapsed() + wait > PATIENCE || !again(&result) {
                return result;
            }
            attempt += 1;
            tracing::debug!("{} {}: attempt {attempt} failed, again in {wait:?}", call.method, call.url.path());
            tokio::time::sleep(wait).await;
        }
    }
}

impl Answer {
    /// Whether the server did it.
    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the server has refused even to begin, for now.
    fn is_busy(&self) -> bool {
        let throttled =
            || self.said().0.is_some_and(|kind| ["Throttl", "TooManyRequests", "SlowDown"].iter().any(|word| kind.contains(word)));
        self.status == 429 || self.status == 400 && throttled()
    }

    /// How long the server asks to wait.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let then = chrono::DateTime::parse_from_rfc2822(text).ok()?;
        Some(SystemTime::from(then).duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// The body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Error::new(Kind::Corrupt, format!("the catalog's answer (HTTP {}) cannot be read: {e}", self.status)))
    }

    /// Name and text of an error, from Iceberg's, AWS' and OAuth's shapes.
    pub(crate) fn said(&self) -> (Option<String>, String) {
        let header = self.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let inner = if body["error"].is_object() { &body["error"] } else { &body };
        let text = |keys: &[&str]| keys.iter().find_map(|key| inner[*key].as_str()).filter(|text| !text.is_empty());
        let kind = header.or_else(|| text(&["type", "__type", "error", "error_code"]));
        // `com.amazonaws.glue#EntityNotFoundException`, `EntityNotFoundException:http://…`
        let kind = kind.and_then(|kind| kind.split(':').next()?.rsplit('#').next()).map(str::to_owned);
        let html = || self.body.trim_ascii_start().starts_with(b"<");
        let message = match text(&["message", "Message", "error_description"]) {
            Some(message) => message.to_owned(),
            None if !body.is_null() || html() => String::new(),
            None => String::from_utf8_lossy(&self.body).chars().take(SHOWN).collect::<String>().trim().to_owned(),
        };
        (kind, message)
    }

    /// Whether this is the error of that name.
    pub(crate) fn is_error(&self, name: &str) -> bool {
        !self.is_ok() && self.said().0.is_some_and(|kind| kind == name)
    }

    /// The answer as an error.
    pub(crate) fn error(&self) -> Error {
        let (kind, message) = self.said();
        let said: Vec<String> = kind.into_iter().chain((!message.is_empty()).then_some(message)).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {}", said.join(": ")) };
        let (what, kind, hint) = match self.status {
            401 | 419 => ("the catalog does not accept the credentials", Kind::Config, "look at the credentials of the catalog"),
            403 => ("the catalog does not allow this", Kind::Storage, "give these credentials the right to create and change tables there"),
            409 => ("the catalog refuses this as it is now", Kind::Conflict, ""),
            429 => ("the catalog is busy", Kind::Storage, "run again later"),
            500.. => ("the catalog failed", Kind::Storage, "run again; look at the catalog's own log if it persists"),
            300..=399 => ("the catalog is somewhere else", Kind::Config, "look at the catalog's URL"),
            _ => ("the catalog refuses this", Kind::Storage, ""),
        };
        let mut error = Error::new(kind, format!("{what} (HTTP {}{said})", self.status));
        if !hint.is_empty() {
            error = error.hint(hint);
        }
        if matches!(self.status, 408 | 429 | 500 | 502..=504) { error.transient() } else { error }
    }
}

/// No answer came.
fn lost(url: &Url, error: &reqwest::Error) -> Error {
    let host = url.host_str().unwrap_or_default();
    let place = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    if error.is_timeout() && !error.is_connect() {
        return Error::new(Kind::Storage, format!("the catalog at {place} did not answer in time")).transient().hint("run again");
    }
    // The innermost cause says it; what lies around it repeats the URL.
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    let why = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    let what = if error.is_connect() { "cannot be reached" } else { "ended the connection" };
    let text = format!("the catalog at {place} {what}{why}");
    let hint = if why.contains("certificate") || why.contains("UnknownIssuer") {
        "add the certificate's issuer to this machine's trusted roots (or name a file of roots in SSL_CERT_FILE)"
    } else {
        "look at the catalog's URL, and whether it runs and this machine may reach it"
    };
    Error::new(Kind::Storage, text).transient().hint(hint)
}

/// A URL out of the configuration, without a slash at its end. Errors do not show it: it may hold a password.
pub(crate) fn url(key: &str, text: &str) -> Result<Url> {
    let wrong = |why: String| Error::new(Kind::Config, format!("`{key}` is no URL of a server: {why}")).hint("write https://host/path");
    let parsed = Url::parse(text.trim().trim_end_matches('/')).map_err(|e| wrong(e.to_string()))?;
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() => Ok(parsed),
        _ => Err(wrong("it does not begin with http:// or https://".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str, headers: &[(&'static str, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("value"))).collect();
        Answer { status, headers, body: Bytes::from(body.to_owned()) }
    }

    #[test]
    fn errors_are_read_in_every_shape() {
        let said = |status, body, headers: &[_]| answer(status, body, headers).said();
        let named = |kind: &str, text: &str| (Some(kind.to_owned()), text.to_owned());
        let iceberg = r#"{"error": {"message": "gone", "type": "NoSuchTableException", "code": 404}}"#;
        assert_eq!(said(404, iceberg, &[]), named("NoSuchTableException", "gone"));
        let glue = r#"{"__type": "com.amazonaws.glue#EntityNotFoundException", "Message": "no"}"#;
        assert_eq!(said(400, glue, &[]), named("EntityNotFoundException", "no"));
        let header = [("x-amzn-errortype", "ConflictException:http://internal/")];
        assert_eq!(said(409, r#"{"message": "stale"}"#, &header), named("ConflictException", "stale"));
        let oauth = r#"{"error": "invalid_client", "error_description": "unknown"}"#;
        assert_eq!(said(401, oauth, &[]), named("invalid_client", "unknown"));
        assert_eq!(said(502, "<html>…", &[]), (None, String::new()));
        assert_eq!(said(500, "out of memory", &[]), (None, "out of memory".to_owned()));
    }

    #[test]
    fn servers_say_how_long_to_wait() {
        assert_eq!(answer(503, "", &[("retry-after", "7")]).retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(answer(503, "", &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]).retry_after(), Some(Duration::ZERO));
        assert!(answer(400, r#"{"__type": "ThrottlingException"}"#, &[]).is_busy());
        assert!(!answer(503, "", &[]).is_busy());
    }
}
