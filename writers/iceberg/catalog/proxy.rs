//! A server between a client and a catalog, for tests: sees what is asked, answers by itself, or changes what the catalog answers.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;

/// A request on its way.
pub(crate) struct Asked {
    /// Method.
    pub(crate) method: String,
    /// Path without the query.
    pub(crate) path: String,
    /// Header `authorization`.
    pub(crate) authorization: Option<String>,
    /// Header `x-iceberg-access-delegation`.
    pub(crate) delegation: Option<String>,
    /// Header `x-goog-user-project`.
    pub(crate) project: Option<String>,
    /// Header `x-amz-target`.
    pub(crate) target: Option<String>,
    /// Body.
    pub(crate) body: Bytes,
}

/// Status, body and headers of an answer.
pub(crate) type Answered = (u16, Value, Vec<(&'static str, String)>);

/// A server between client and catalog.
pub(crate) struct Proxy;

impl Proxy {
    /// Gives its address. `before` answers by itself, `after` changes what the catalog has answered.
    pub(crate) async fn start(
        upstream: &str,
        before: impl Fn(&Asked) -> Option<Answered> + Send + Sync + 'static,
        after: impl Fn(&Asked, Answered) -> Answered + Send + Sync + 'static,
    ) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("address"));
        let (upstream, client, hooks) = (upstream.to_owned(), reqwest::Client::new(), Arc::new((before, after)));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (upstream, client, hooks) = (upstream.clone(), client.clone(), hooks.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (upstream, client, hooks) = (upstream.clone(), client.clone(), hooks.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = reqwest::Response::from(Response::new(reqwest::Body::wrap(body))).bytes().await.expect("a body");
                        let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
                        let asked = Asked {
                            method: parts.method.to_string(),
                            path: parts.uri.path().to_owned(),
                            authorization: header("authorization"),
                            delegation: header("x-iceberg-access-delegation"),
                            project: header("x-goog-user-project"),
                            target: header("x-amz-target"),
                            body: body.clone(),
                        };
                        let (status, body, headers) = match hooks.0(&asked) {
                            Some(answer) => answer,
                            None => {
                                let mut forwarded = client.request(parts.method, format!("{upstream}{}", parts.uri)).body(body);
                                for (name, value) in &parts.headers {
                                    // A token that the proxy has given means nothing behind it.
                                    let own = value.as_bytes().starts_with(b"Bearer proxy-");
                                    if !own && !["host", "content-length", "connection"].contains(&name.as_str()) {
                                        forwarded = forwarded.header(name, value);
                                    }
                                }
                                let answer = forwarded.send().await.expect("an answer");
                                let status = answer.status().as_u16();
                                let body = serde_json::from_slice(&answer.bytes().await.expect("a body")).unwrap_or(Value::Null);
                                hooks.1(&asked, (status, body, Vec::new()))
                            }
                        };
                        let mut response = Response::builder().status(status).header("content-type", "application/json");
                        for (name, value) in headers {
                            response = response.header(name, value);
                        }
                        let text = if body.is_null() { String::new() } else { body.to_string() };
                        Ok::<_, Infallible>(response.body(reqwest::Body::from(text)).expect("a response"))
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(socket), service));
            }
        });
        address
    }
}
