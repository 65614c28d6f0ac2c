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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use tempfile::TempDir;
use tokio::sync::Notify;

/// The access key that is let in.
pub const ACCESS_KEY: &str = "AKLAKEWARDTEST";
/// Its secret.
pub const SECRET_KEY: &str = "the secret of the object store";
/// The only bucket.
pub const BUCKET: &str = "lake";

/// Nothing is wrong; the next commit is carried out and not answered; nothing is answered; no connection lasts.
const UP: u8 = 0;
const ARMED: u8 = 1;
const DOWN: u8 = 2;
const DEAD: u8 = 3;

/// A running store. It stops when dropped.
pub struct ObjectStore {
    root: TempDir,
    address: SocketAddr,
    outage: Arc<AtomicU8>,
    /// Tells that the store has died.
    death: Arc<Notify>,
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
        let death = Arc::new(Notify::new());
        let dies = death.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if state.load(SeqCst) == DEAD {
                    continue;
                }
                let dies = dies.clone();
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
                    let builder = Builder::new(TokioExecutor::new());
                    tokio::select! {
                        // A client that goes away is not the store's problem.
                        _ = builder.serve_connection(TokioIo::new(socket), service) => {}
                        () = dies.notified() => {}
                    }
                });
            }
        });
        Self { root, address, outage, death, _runtime: runtime }
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

    /// What it is at is not brought to an end, and no connection lasts from now on.
    pub fn die(&self) {
        self.outage.store(DEAD, SeqCst);
        self.death.notify_waiters();
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

    /// The keys of an Iceberg destination's `writer`, with tables in folders of this store.
    pub fn iceberg_writer(&self) -> Value {
        json!({
            "catalog_type": "filesystem", "iceberg_s3_path": format!("s3://{BUCKET}/raw"), "aws_region": "us-east-1",
            "aws_access_key": ACCESS_KEY, "aws_secret_key": SECRET_KEY, "s3_endpoint": format!("http://{}", self.address),
        })
    }

    /// A table of such a destination as readers find it (`lakes.py`). `folder`: below [`ObjectStore::files_root`].
    pub fn lake(&self, folder: &Path) -> Value {
        let hint = std::fs::read_to_string(folder.join("metadata/version-hint.text")).expect("a hint");
        let place = folder.strip_prefix(self.root.path()).expect("a folder of the store");
        let properties = json!({
            "s3.endpoint": format!("http://{}", self.address), "s3.region": "us-east-1", "s3.access-key-id": ACCESS_KEY, "s3.secret-access-key": SECRET_KEY,
        });
        json!({"metadata": format!("s3://{}/metadata/v{}.metadata.json", place.display(), hint.trim()), "properties": properties})
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
