//! An object store inside the test process: strict about signatures and checksums, its objects are plain files under `root`.

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use tempfile::TempDir;

/// The access key that is let in.
pub const ACCESS_KEY: &str = "AKLAKEWARDTEST";
/// Its secret.
pub const SECRET_KEY: &str = "the secret of the object store";
/// The only bucket.
pub const BUCKET: &str = "lake";

/// Nothing is wrong; the next commit is carried out and not answered; nothing is answered.
const UP: u8 = 0;
const ARMED: u8 = 1;
const DOWN: u8 = 2;

/// A running store. It stops when dropped.
pub struct ObjectStore {
    root: TempDir,
    address: SocketAddr,
    outage: Arc<AtomicU8>,
    _runtime: tokio::runtime::Runtime,
}

impl ObjectStore {
    /// Starts a store with one empty bucket. It does not know conditional writes, as many do not.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts one that refuses to overwrite when it is asked to (`If-None-Match: *`), as Amazon's does.
    pub fn conditional() -> Self {
        Self::start_with(true)
    }

    fn start_with(conditional: bool) -> Self {
        let root = tempfile::tempdir().expect("make the store's root");
        std::fs::create_dir(root.path().join(BUCKET)).expect("make the bucket");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).expect("open the store's root"));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("start a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().expect("the address");
        let outage = Arc::new(AtomicU8::new(UP));
        let state = outage.clone();
        let (bucket, creating) = (root.path().to_owned(), Arc::new(tokio::sync::Mutex::new(())));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (inner, state, bucket, creating) = (service.clone(), state.clone(), bucket.clone(), creating.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (inner, state, creating) = (inner.clone(), state.clone(), creating.clone());
                    let file = bucket.join(request.uri().path().trim_start_matches('/'));
                    async move {
                        let creates = conditional && request.headers().contains_key("if-none-match");
                        // One at a time, so that exactly one of several wins.
                        let _turn = if creates { Some(creating.lock().await) } else { None };
                        if creates && file.exists() && state.load(SeqCst) != DOWN {
                            return Ok(status(StatusCode::PRECONDITION_FAILED));
                        }
                        let commits = Method::PUT == request.method() && request.uri().path().contains("/commits/");
                        let answer = match state.load(SeqCst) {
                            DOWN => None,
                            _ => Some(inner.call(request.map(s3s::Body::from)).await?),
                        };
                        if commits && state.compare_exchange(ARMED, DOWN, SeqCst, SeqCst).is_ok() {
                            return Ok(unavailable());
                        }
                        Ok::<_, s3s::HttpError>(answer.unwrap_or_else(unavailable))
                    }
                });
                tokio::spawn(async move {
                    // A client that goes away is not the store's problem.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { root, address, outage, _runtime: runtime }
    }

    /// The next commit of a Parquet table is carried out, but from its answer on nothing is answered any more.
    pub fn fail_at_the_next_commit(&self) {
        self.outage.store(ARMED, SeqCst);
    }

    /// Whether that has happened.
    pub fn is_down(&self) -> bool {
        self.outage.load(SeqCst) == DOWN
    }

    /// From now on nothing is answered.
    pub fn go_down(&self) {
        self.outage.store(DOWN, SeqCst);
    }

    /// Everything is answered again.
    pub fn recover(&self) {
        self.outage.store(UP, SeqCst);
    }

    /// The `writer` object of a destination in this store.
    pub fn writer(&self) -> Value {
        json!({
            "s3_bucket": BUCKET, "s3_region": "us-east-1", "s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY,
            "s3_endpoint": format!("http://{}", self.address), "s3_path": "raw",
        })
    }

    /// Where the objects below `s3_path` are as files.
    pub fn files_root(&self) -> PathBuf {
        self.root.path().join(BUCKET).join("raw")
    }
}

fn unavailable() -> Response<s3s::Body> {
    status(StatusCode::SERVICE_UNAVAILABLE)
}

fn status(status: StatusCode) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::empty());
    *response.status_mut() = status;
    response
}
