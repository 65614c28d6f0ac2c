//! Storage on a disk, on an S3 server inside this process, and on stores that misbehave.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use futures::TryFutureExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions, PutResult,
};

pub(crate) const ACCESS: &str = "AKIATESTKEY";
pub(crate) const SECRET: &str = "hunter2hunter2";

/// An S3 server on a loopback port that keeps its objects in a folder.
pub(crate) struct S3Server {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) endpoint: String,
}

impl S3Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await
    }

    /// One that looks at no credentials, not even at tokens of other clouds.
    pub(crate) async fn open() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(auth: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("lake")).unwrap();
        let mut builder = s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        if auth {
            builder.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS, SECRET));
        }
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                    if !auth {
                        request.headers_mut().remove("authorization");
                    }
                    hyper::service::Service::call(&service, request)
                });
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
        Self { folder, endpoint }
    }

    pub(crate) fn options(&self) -> S3Options {
        S3Options {
            bucket: "lake".into(),
            region: "us-east-1".into(),
            prefix: "some/prefix".into(),
            endpoint: Some(self.endpoint.clone()),
            path_style: true,
            credentials: S3Credentials::Keys { access: ACCESS.into(), secret: SECRET.into(), session: "".into() },
            retries: 0,
        }
    }
}

impl From<&str> for crate::Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// What a store does with a put that must not overwrite.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Answers 200 and overwrites.
    Overwrites,
    /// Looks first, writes later.
    Races,
    /// Says that it cannot.
    Refuses,
}

/// A store in memory with one fault.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: InMemory,
    fault: Fault,
    /// Whether everything but the latest intent looks a quarter of an hour older than it is.
    aged: bool,
}

impl Faulty {
    pub(crate) fn store(fault: Fault) -> Storage {
        Storage::of(Arc::new(Self { inner: InMemory::new(), fault, aged: false }))
    }

    pub(crate) fn aged_store(fault: Fault) -> Storage {
        Storage::of(Arc::new(Self { inner: InMemory::new(), fault, aged: true }))
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> object_store::Result<PutResult> {
        if matches!(options.mode, PutMode::Create) {
            match self.fault {
                Fault::Overwrites => {}
                Fault::Races => {
                    if self.inner.head(path).await.is_ok() {
                        return Err(object_store::Error::AlreadyExists { path: path.to_string(), source: "412".into() });
                    }
                    tokio::task::yield_now().await;
                }
                Fault::Refuses => {
                    return Err(object_store::Error::NotImplemented { operation: "create".into(), implementer: "test".into() });
                }
            }
            options.mode = PutMode::Overwrite;
        }
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if !self.aged {
            return self.inner.list(prefix);
        }
        let listed = self.inner.list(prefix).try_collect::<Vec<_>>();
        let aged = async {
            let mut objects = listed.await?;
            let intent = |o: &ObjectMeta| o.location.as_ref().ends_with(".intent");
            let latest = objects.iter().filter(|o| intent(o)).map(|o| o.last_modified).max();
            for object in objects.iter_mut().filter(|o| intent(o) && Some(o.last_modified) != latest) {
                object.last_modified -= chrono::TimeDelta::minutes(16);
            }
            Ok(futures::stream::iter(objects.into_iter().map(Ok)))
        };
        aged.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn path(text: &str) -> Path {
    parse(text).unwrap()
}

async fn names(storage: &Storage) -> Vec<String> {
    storage.list(&Path::default()).await.unwrap().into_iter().map(|e| e.path).collect()
}

/// What both kinds of place promise.
async fn keeps_files(storage: &Storage) {
    let file = path("a b/50%/ü.txt");
    assert_eq!(storage.get(&file).await.unwrap(), None);
    assert_eq!(storage.list(&path("a b")).await.unwrap(), []);
    assert!(storage.put_if_absent(&file, Bytes::from_static(b"one")).await.unwrap());
    assert!(!storage.put_if_absent(&file, Bytes::from_static(b"two")).await.unwrap());
    assert_eq!(storage.get(&file).await.unwrap().unwrap(), "one");
    storage.put(&file, Bytes::from_static(b"three")).await.unwrap();
    assert_eq!(storage.get(&file).await.unwrap().unwrap(), "three");
    let listed = storage.list(&path("a b")).await.unwrap();
    assert_eq!((listed[0].path.as_str(), listed[0].bytes, listed.len()), (file.as_ref(), 5, 1));
    assert!(listed[0].modified_ms > 1_600_000_000_000);
    // A folder's name is not a prefix of its neighbour's.
    storage.put(&path("a/x"), Bytes::new()).await.unwrap();
    storage.put(&path("ab/x"), Bytes::new()).await.unwrap();
    assert_eq!(storage.list(&path("a")).await.unwrap().len(), 1);
    storage.delete(vec![path("a/x"), path("nothing/here"), path("ab/x")]).await.unwrap();
    storage.delete(Vec::new()).await.unwrap();
    assert_eq!(names(storage).await, [file.as_ref()]);
    storage.remove_folder(&path("a b")).await.unwrap();
    storage.remove_folder(&path("a b")).await.unwrap();
    storage.check().await.unwrap();
    assert_eq!(names(storage).await, Vec::<String>::new());
}

/// Uploads below, at and above one part; abandoned ones.
async fn takes_uploads(storage: &Storage) {
    let part = 8 << 20;
    for (bytes, piece) in [(0, 1), (10, 3), (part, part), (part + 1, 1 << 20), (2 * part + 77, 300_001)] {
        let file = path(&format!("f/{bytes}"));
        let data: Bytes = (0..bytes).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>().into();
        let mut upload = storage.upload(&file).await.unwrap();
        for start in (0..bytes).step_by(piece) {
            upload.write(data.slice(start..bytes.min(start + piece))).await.unwrap();
        }
        assert!(!names(storage).await.contains(&file.to_string()), "invisible until it is finished");
        assert_eq!(upload.finish().await.unwrap(), bytes as u64);
        assert!(storage.get(&file).await.unwrap().unwrap() == data, "{bytes} bytes come back");
        let mut upload = storage.upload(&file).await.unwrap();
        upload.write(Bytes::from(vec![1; bytes.max(1)])).await.unwrap();
        drop(upload);
        assert!(storage.get(&file).await.unwrap().unwrap() == data, "an abandoned upload changes nothing");
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(names(storage).await.len(), 5, "and leaves nothing");
}

#[tokio::test]
async fn a_disk_keeps_files() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path().join("new/lake"));
    keeps_files(&storage).await;
    takes_uploads(&storage).await;
}

#[tokio::test]
async fn a_bucket_keeps_files() {
    let server = S3Server::start().await;
    let storage = Storage::s3(server.options()).unwrap();
    keeps_files(&storage).await;
    takes_uploads(&storage).await;
    assert!(server.folder.path().join("lake/some/prefix/f/10").exists());
    let temporary: Vec<_> = std::fs::read_dir(server.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!temporary.iter().any(|n| n.to_string_lossy().contains("upload")), "multipart uploads were aborted: {temporary:?}");
}

#[tokio::test]
async fn checking_a_disk_leaves_not_even_folders() {
    let folder = tempfile::tempdir().unwrap();
    Storage::local(folder.path().join("new/lake")).check().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_probe_sees_stores_that_do_not_honour_conditional_writes() {
    for fault in [Fault::Overwrites, Fault::Races, Fault::Refuses] {
        let storage = Faulty::store(fault);
        assert!(!storage.conditional_puts_are_safe().await.unwrap(), "{fault:?}");
        assert_eq!(names(&storage).await, Vec::<String>::new());
    }
    assert!(Storage::of(Arc::new(InMemory::new())).conditional_puts_are_safe().await.unwrap());
}

#[tokio::test]
async fn mistakes_in_the_options_are_explained_without_secrets() {
    let server = S3Server::start().await;
    let refused = async |change: fn(&mut S3Options)| {
        let mut options = server.options();
        change(&mut options);
        let error = Storage::s3(options).unwrap().check().await.unwrap_err();
        let all = format!("{error} {error:?} {}", error.advice().unwrap_or_default());
        assert!(!all.contains(ACCESS) && !all.contains(SECRET) && !all.contains("wrong-secret"), "{all}");
        assert_eq!(error.kind(), Kind::Storage);
        all
    };
    let check = |all: String, message: &str, hint: &str| assert!(all.contains(message) && all.contains(hint), "{all}");
    check(refused(|o| o.bucket = "missing".into()).await, "the bucket does not exist", "create the bucket");
    check(
        refused(|o| o.credentials = S3Credentials::Keys { access: ACCESS.into(), secret: "wrong-secret".into(), session: "".into() }).await,
        "the secret key does not belong",
        "s3_secret_key",
    );
    check(
        refused(|o| o.credentials = S3Credentials::Keys { access: "AKIAOTHER".into(), secret: SECRET.into(), session: "".into() }).await,
        "does not know the access key",
        "s3_access_key",
    );
    check(refused(|o| o.endpoint = Some("http://127.0.0.1:1".into())).await, "the connection was refused", "s3_endpoint");
    check(refused(|o| o.endpoint = Some("http://no-such-host.invalid".into())).await, "cannot be found", "s3_endpoint");
    let tls = server.endpoint.replace("http://", "https://");
    let mut options = server.options();
    options.endpoint = Some(tls);
    let error = Storage::s3(options).unwrap().check().await.unwrap_err();
    assert!(error.to_string().contains("no secure connection"), "{error}");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    let error = Storage::local(folder.path().join("file/lake")).check().await.unwrap_err();
    assert!(error.to_string().contains("is a file, not a folder"), "{error}");
    // A device that is always full (ENOSPC), through the same code.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let error = std::io::Write::write_all(&mut &full, b"x").map_err(|e| disk::trouble(e, "write", "/dev/full".as_ref())).unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
}

#[tokio::test]
async fn a_lock_keeps_others_out_until_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    let lock = storage.lock(&path("a/lock")).await.unwrap().unwrap();
    assert_eq!(storage.lock(&path("a/lock")).await.unwrap_err().kind(), Kind::Conflict);
    drop(lock);
    let lock = storage.lock(&path("a/lock")).await.unwrap();
    storage.remove_folder(&path("a")).await.unwrap();
    storage.lock(&path("a/lock")).await.unwrap().expect("a lock on a removed file holds nobody");
    drop(lock);
}

#[tokio::test]
async fn a_rename_never_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::local(folder.path());
    for name in ["x/1", "y/1"] {
        storage.put(&path(name), Bytes::from(name)).await.unwrap();
    }
    let error = storage.rename_all(vec![(path("x/1"), path("y/1"))]).await.unwrap_err();
    assert!(error.to_string().contains("something is there already"), "{error}");
    assert_eq!(storage.get(&path("y/1")).await.unwrap().unwrap(), "y/1");
    storage.rename_all(vec![(path("x/1"), path("z/deep/1"))]).await.unwrap();
    assert_eq!(names(&storage).await, ["y/1", "z/deep/1"]);
    storage.remove_empty_folders(&path("x")).await.unwrap();
    storage.remove_empty_folders(&path("z")).await.unwrap();
    assert!(!folder.path().join("x").exists() && folder.path().join("z/deep").exists());
}
