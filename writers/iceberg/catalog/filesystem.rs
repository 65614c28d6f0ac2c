//! Tables as folders, in the layout of Hadoop's catalog: `<warehouse>/<namespace>/<table>/metadata/v<N>.metadata.json`, and the number
//! of the newest in `version-hint.text` beside it. Nothing else has to be installed, and others read it.
//!
//! Version N+1 is written only if it is not there yet: that is the commit. The hint comes after it, and may be old when a run
//! has died between the two: we go on from it as long as there is a next version, but many readers do not. So a commit whose hint
//! cannot be written is one in doubt, and whoever loads a table to write it has the hint say what is the newest. A store that would
//! let two writers create the same file is refused.

use super::pointer::{self, created, updated};
use super::{CommitError, Creation, Loaded, TableName};
use crate::iceberg::io::Files;
use crate::parquet::folders::segment;
use crate::storage::parse;
use crate::{Error, Kind, Result};
use bytes::Bytes;
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use std::sync::Arc;

/// What stands between `v<N>` and `.metadata.json`: nothing, or that it is compressed.
const VARIANTS: [&str; 2] = ["", ".gz"];

/// How often a hint that stays behind is written before that is an error.
const HINTS: usize = 8;

/// A warehouse folder.
#[derive(Debug)]
pub(crate) struct Filesystem {
    /// URI, without a slash at its end.
    warehouse: String,
    files: Files,
}

impl Filesystem {
    /// Nothing is looked at yet.
    pub(crate) fn new(warehouse: &str, files: Files) -> Self {
        Self { warehouse: warehouse.trim_end_matches('/').to_owned(), files }
    }

    fn location(&self, table: &TableName) -> Result<String> {
        Ok(format!("{}/{}/{}", self.warehouse, segment(&table.namespace)?, segment(&table.name)?))
    }

    pub(super) async fn check(&self) -> Result<()> {
        let (storage, path) = self.files.place(&self.warehouse)?;
        storage.below(&path).check().await?;
        self.refuse_unsafe().await
    }

    /// Two writers must not be able to create the same version.
    async fn refuse_unsafe(&self) -> Result<()> {
        let (storage, path) = self.files.place(&self.warehouse)?;
        if storage.below(&path).conditional_puts_are_safe().await? {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!("{} does not honour conditional writes, so two writers could overwrite each other's commits", self.warehouse),
        )
        .hint("use a catalog that decides by itself: `catalog_type` jdbc or rest"))
    }

    pub(super) async fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        Ok(self.find(table).await?.map(|(loaded, _)| loaded))
    }

    /// As [`Filesystem::load`]; from then on the hint does not stay behind.
    pub(super) async fn load_to_write(&self, table: &TableName) -> Result<Option<Loaded>> {
        let hint = format!("{}/metadata/version-hint.text", self.location(table)?);
        // Somebody else may write it at the same time, and has it stay behind again.
        for _ in 0..HINTS {
            let Some((loaded, hinted)) = self.find(table).await? else { return Ok(None) };
            let (Some(version), false) = (&loaded.version, hinted) else { return Ok(Some(loaded)) };
            tracing::info!("{hint} had stayed behind");
            self.files.put(&hint, Bytes::from(version.clone())).await?;
        }
        Err(Error::new(Kind::Conflict, format!("{hint} was written {HINTS} times, and what is read of it is still not the newest version"))
            .hint("let nothing else write to the table meanwhile, and no cache stand between the store and its readers"))
    }

    /// A table, and whether the hint does not stay behind its version.
    async fn find(&self, table: &TableName) -> Result<Option<(Loaded, bool)>> {
        let folder = format!("{}/metadata", self.location(table)?);
        let Some((version, hinted)) = self.newest(&folder).await? else { return Ok(None) };
        for variant in VARIANTS {
            let location = format!("{folder}/v{version}{variant}.metadata.json");
            if self.exists(&location).await? {
                let metadata = pointer::read(&self.files, &location).await?;
                let loaded = Loaded {
                    metadata: Arc::new(metadata),
                    metadata_location: location,
                    version: Some(version.to_string()),
                    files: self.files.clone(),
                };
                return Ok(Some((loaded, hinted)));
            }
        }
        Err(Error::new(Kind::Corrupt, format!("{folder} names version {version} as the newest, and there is no such file"))
            .hint("write the number of the newest v<N>.metadata.json into version-hint.text"))
    }

    /// The newest version of a table, and whether the hint does not stay behind it.
    async fn newest(&self, folder: &str) -> Result<Option<(u64, bool)>> {
        let hint = self.files.get(&format!("{folder}/version-hint.text")).await?;
        let hinted = hint.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse::<u64>().ok());
        let mut version = match hinted {
            Some(version) if self.has(folder, version).await? => version,
            _ => match self.listed(folder).await? {
                Some(version) => version,
                None => return Ok(None),
            },
        };
        while let Some(next) = version.checked_add(1)
            && self.has(folder, next).await?
        {
            version = next;
        }
        // A newer one that is gone is not for us to forget.
        Ok(Some((version, hinted.is_some_and(|hinted| hinted >= version))))
    }

    /// The newest version among the files of the folder, for when the hint is lost.
    async fn listed(&self, folder: &str) -> Result<Option<u64>> {
        let (storage, path) = self.files.place(folder)?;
        let entries = storage.list(&path).await?;
        let version = |path: &str| {
            let name = path.rsplit('/').next()?.strip_prefix('v')?.strip_suffix(".metadata.json")?;
            VARIANTS.iter().find_map(|variant| name.strip_suffix(variant)?.parse::<u64>().ok())
        };
        Ok(entries.iter().filter_map(|entry| version(&entry.path)).max())
    }

    async fn has(&self, folder: &str, version: u64) -> Result<bool> {
        for variant in VARIANTS {
            if self.exists(&format!("{folder}/v{version}{variant}.metadata.json")).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn exists(&self, location: &str) -> Result<bool> {
        let (storage, path) = self.files.place(location)?;
        Ok(storage.size(&path).await?.is_some())
    }

    pub(super) async fn create(&self, table: &TableName, creation: Creation) -> Result<Loaded> {
        self.refuse_unsafe().await?;
        let metadata = created(&table.name, &self.location(table)?, creation)?;
        match self.publish(&metadata, 1).await {
            Ok(location) => Ok(Loaded {
                metadata: Arc::new(metadata),
                metadata_location: location,
                version: Some("1".into()),
                files: self.files.clone(),
            }),
            Err(CommitError::Conflict(error) | CommitError::Unknown(error)) => self.load_to_write(table).await?.ok_or(error),
            Err(CommitError::Failed(error)) => Err(error),
        }
    }

    /// Writes version `version`, which must not be there yet.
    async fn publish(&self, metadata: &TableMetadata, version: u64) -> Result<String, CommitError> {
        let folder = format!("{}/metadata", metadata.location());
        let (data, variant) = pointer::encode(metadata)?;
        let taken = || {
            let message = format!("version {version} of {} was committed by somebody else", metadata.location());
            CommitError::Conflict(Error::new(Kind::Conflict, message).transient())
        };
        // Under its other name it would be the same version.
        for other in VARIANTS.iter().filter(|other| **other != variant) {
            if self.exists(&format!("{folder}/v{version}{other}.metadata.json")).await? {
                return Err(taken());
            }
        }
        let location = format!("{folder}/v{version}{variant}.metadata.json");
        let (storage, path) = self.files.place(&location)?;
        match storage.put_if_absent(&path, data).await {
            Ok(true) => {}
            Ok(false) => return Err(taken()),
            // A store that did not answer may have done it all the same.
            Err(error) => return Err(CommitError::Unknown(error)),
        }
        let hint = format!("{folder}/version-hint.text");
        match self.files.put(&hint, Bytes::from(version.to_string())).await {
            Ok(()) => Ok(location),
            Err(error) => Err(CommitError::Unknown(error)),
        }
    }

    pub(super) async fn commit(
        &self,
        _: &TableName,
        base: &Loaded,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CommitError> {
        let version: u64 = base
            .version
            .as_deref()
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| Error::new(Kind::Bug, "a table without a version"))?;
        let metadata = updated(base, &requirements, updates)?;
        // Old versions are removed: where the one that we know is gone, the next one may be as well, and its name be free again.
        if !self.exists(&base.metadata_location).await? {
            let message = format!("{} is not there any more: others have committed many times since", base.metadata_location);
            return Err(CommitError::Conflict(Error::new(Kind::Conflict, message).transient()));
        }
        let location = self.publish(&metadata, version + 1).await?;
        pointer::tidy(&self.files, &base.metadata, &metadata).await;
        Ok(pointer::loaded(base, metadata, location, Some((version + 1).to_string())))
    }

    pub(super) async fn drop_table(&self, table: &TableName) -> Result<()> {
        let (storage, path) = self.files.place(&self.location(table)?)?;
        storage.remove_folder(&parse(path.as_ref())?).await
    }
}
