//! Whose staged files these are: while a run has files that no snapshot names, a marker in the table's folder says so.
//!
//! A later run finds the markers of runs that died, and then, only then, looks for their files. Failing to write a marker costs
//! files that stay behind, never rows. Does not know what is staged.

use super::io::Files;
use crate::parquet::folders::segment;
use crate::storage::{PRIVATE, parse};
use crate::{Error, Result};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::Mutex;
use uuid::Uuid;

/// How a marker's name ends.
const SUFFIX: &str = ".staging";

/// One open table of one run.
#[derive(Debug)]
pub(crate) struct Session {
    files: Files,
    /// Folder of the markers, a URI.
    folder: String,
    writer: String,
    /// Distinguishes the run's files.
    pub(crate) id: String,
    /// Markers that this session has to remove: its own, and those of parts that it goes on with.
    marked: Mutex<Vec<String>>,
    /// Parts that were staged, or adopted, and are not committed.
    outstanding: AtomicUsize,
}

impl Session {
    /// Nothing is written yet.
    pub(crate) fn new(files: &Files, location: &str, writer: &str) -> Result<Self> {
        let id = Uuid::new_v4().simple().to_string()[..12].to_owned();
        // Stores that know what a table's folder holds (table buckets of SeaweedFS) take such names from anybody, and no other.
        let folder = format!("{}/{PRIVATE}", location.trim_end_matches('/'));
        Ok(Self { files: files.clone(), folder, writer: segment(writer)?, id, marked: Mutex::default(), outstanding: AtomicUsize::new(0) })
    }

    fn marker(&self, session: &str) -> String {
        format!("{}/{}@{session}{SUFFIX}", self.folder, self.writer)
    }

    /// Before a file is staged.
    pub(crate) async fn begin(&self) {
        let mut marked = self.marked.lock().await;
        let marker = self.marker(&self.id);
        if !marked.contains(&marker) {
            let text = format!("process {} stages files here since {}\n", std::process::id(), chrono::Utc::now().to_rfc3339());
            if let Err(error) = self.files.put(&marker, Bytes::from(text)).await {
                tracing::warn!("{error}; if this run is killed, its staged files stay in the table's folder");
            }
            marked.push(marker);
        }
        self.outstanding.fetch_add(1, SeqCst);
    }

    /// After `parts` have been committed or removed.
    pub(crate) async fn end(&self, parts: usize) {
        let mut marked = self.marked.lock().await;
        let left = self.outstanding.load(SeqCst).saturating_sub(parts);
        self.outstanding.store(left, SeqCst);
        if left == 0 {
            self.remove(std::mem::take(&mut *marked)).await;
        }
    }

    /// Takes over the parts of dead sessions.
    pub(crate) async fn adopt(&self, parts: usize, sessions: &[String]) {
        let markers = sessions.iter().map(|session| self.marker(session)).collect();
        if parts == 0 {
            self.remove(markers).await;
            return;
        }
        self.marked.lock().await.extend(markers);
        self.outstanding.fetch_add(parts, SeqCst);
    }

    async fn remove(&self, markers: Vec<String>) {
        if let Err(error) = self.files.delete(&markers).await {
            tracing::warn!("{error}; the next run takes it for that of a run that was killed");
        }
        if let Ok((storage, path)) = self.files.place(&self.folder) {
            // An empty folder is no reason to warn.
            let _: Result<(), Error> = storage.remove_empty_folders(&path).await;
        }
    }

    /// Sessions of this writer that have left a marker.
    pub(crate) async fn dead(&self) -> Result<Vec<String>> {
        let (storage, path) = self.files.place(&self.folder)?;
        let prefix = format!("{}@", self.writer);
        storage.remove_abandoned(&path).await?;
        let entries = storage.list(&parse(path.as_ref())?).await?;
        let session = |path: &str| Some(path.rsplit('/').next()?.strip_prefix(&prefix)?.strip_suffix(SUFFIX)?.to_owned());
        Ok(entries.iter().filter_map(|entry| session(&entry.path)).filter(|session| *session != self.id).collect())
    }

    /// Whether a staged file's name is that of one of these sessions.
    pub(crate) fn is_of(path: &str, sessions: &[String]) -> bool {
        let session = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')?.0.rsplit_once('-')).map(|(_, session)| session);
        session.is_some_and(|session| sessions.iter().any(|dead| dead == session))
    }
}
