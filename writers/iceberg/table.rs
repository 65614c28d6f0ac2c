//! One open table: staging, adopting, committing.

use super::catalog::{Catalog, Loaded, TableName, pointer};
use super::changes::{self, ChangeStager};
use super::config::{DeleteFiles, Settings};
use super::deletes;
use super::manifest::{alive, current};
use super::properties::Properties;
use super::publish::{Publication, Request};
use super::recall::{Recall, SharedIndex};
use super::session::Session;
use super::snapshot::{BySpec, Change, Gone};
use super::stage::{self, Content, IcebergPart, StagedFile, Stager, Workshop};
use super::target::Target;
use super::{datafile, together, token};
use crate::parquet::Resources;
use crate::parquet::encode::EncodeOptions;
use crate::storage::parse;
use crate::{Commit, Error, Joint, Kind, PartName, Result, Table, TableSpec, Token};
use arrow::array::RecordBatch;
use futures::{Stream, StreamExt, TryStreamExt};
use iceberg::spec::{FormatVersion, NestedFieldRef, PrimitiveType, Type};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// One table of a catalog.
pub struct IcebergTable {
    pub(super) catalog: Catalog,
    pub(super) name: TableName,
    pub(super) label: String,
    pub(super) spec: TableSpec,
    pub(super) identifiers: bool,
    pub(super) loaded: Loaded,
    pub(super) target: Arc<Target>,
    pub(super) properties: Properties,
    pub(super) stager: Arc<Stager>,
    pub(super) changes: Option<ChangeStager>,
    pub(super) delete_files: DeleteFiles,
    /// Where rows are, by key; opened when it is first needed.
    pub(super) index: SharedIndex,
    pub(super) index_root: PathBuf,
    pub(super) committed: Option<Token>,
    pub(super) session: Arc<Session>,
    /// Whether commits are made together with those of other tables: `true` demands it, `None` where the catalog offers it.
    pub(super) joins: Option<bool>,
}

impl IcebergTable {
    /// A table as the catalog has it, for columns that are to be written.
    pub(super) fn new(
        catalog: Catalog,
        name: TableName,
        spec: TableSpec,
        loaded: Loaded,
        settings: &Settings,
        options: &EncodeOptions,
        resources: &Resources,
    ) -> Result<Self> {
        let label = name.to_string();
        let target = Target::of(&loaded, &spec, settings.identifiers)?;
        for note in &target.notes {
            tracing::warn!("{label}: {note}");
        }
        let properties = Properties::of(loaded.metadata.properties())?;
        let session = Arc::new(Session::new(&loaded.files, loaded.metadata.location(), &spec.writer)?);
        let workshop =
            Workshop { loaded: &loaded, target: &target, properties: &properties, session: &session, pool: &resources.pool, label: &label };
        let stager = workshop.stager(Content::Rows, &target.fields, spec.batches(), &spec.sort_order, properties.encoding(options))?;
        let changes = workshop.changes(&spec, &stager, properties.delete_encoding(options))?;
        let committed = token::committed(&loaded.metadata, &spec.writer);
        Ok(Self {
            catalog,
            name,
            label,
            spec,
            identifiers: settings.identifiers,
            delete_files: settings.delete_files,
            index: SharedIndex::default(),
            index_root: settings.index_path.clone(),
            loaded,
            target: Arc::new(target),
            properties,
            stager,
            changes,
            committed,
            session,
            joins: settings.multi_table_commit,
        })
    }

    /// The files of `parts` as they are in a snapshot.
    fn change(&self, parts: &[IcebergPart], token: &Token, how: Commit) -> Result<Change> {
        let future = &self.target.future;
        let mut data = BySpec::new();
        for file in parts.iter().flat_map(|part| &part.files) {
            let described = datafile::data(file, future, !self.spec.sort_order.is_empty())?;
            data.entry(future.default_partition_spec_id()).or_default().push(described);
        }
        let gone = match how {
            Commit::Replace => Gone::Everything,
            Commit::Append => Gone::Nothing,
        };
        let mut summary = token::summary(&self.spec.writer, token);
        let mut taken = BySpec::new();
        let mut keys = parts.iter().flat_map(|part| &part.keys).peekable();
        if keys.peek().is_some() && how == Commit::Append {
            let key = self.key()?;
            summary.extend([deletes::summary(&key)]);
            if self.delete_files == DeleteFiles::Equality {
                let ids: Vec<i32> = key.iter().map(|field| field.id).collect();
                let described = keys.map(|file| datafile::equality_deletes(file, future, self.target.unpartitioned, &ids));
                taken.insert(self.target.unpartitioned, described.collect::<Result<_>>()?);
            }
        }
        Ok(Change { data, deletes: taken, gone, summary })
    }

    /// The fields of the key.
    pub(super) fn key(&self) -> Result<Vec<NestedFieldRef>> {
        let find = |name: &String| self.target.fields.iter().find(|field| field.name == *name).cloned();
        let key: Option<Vec<_>> = self.spec.key.iter().map(find).collect();
        key.filter(|key| !key.is_empty()).ok_or_else(|| {
            Error::new(Kind::Config, "the table has no key, so no row can take the place of another")
                .hint("select the columns of the primary key, or set append_mode for the stream")
        })
    }

    /// Commits a change, on whatever the table has become meanwhile.
    pub(super) async fn publish(&mut self, mut publication: Publication) -> Result<()> {
        loop {
            let Request { requirements, updates } = publication.request(self).await?;
            let outcome = self.catalog.commit(&self.name, &self.loaded, requirements, updates).await;
            if publication.answered(self, outcome).await? {
                return Ok(());
            }
        }
    }

    /// What is to be published for a commit; `None` when it has been, and then the parts are removed.
    pub(super) async fn publication(&mut self, parts: &[IcebergPart], token: Token, how: Commit) -> Result<Option<Publication>> {
        if self.committed.as_ref() == Some(&token) {
            self.discard(parts).await?;
            self.session.end(begun(parts)).await;
            return Ok(None);
        }
        if let Some(part) = parts.iter().find(|part| part.layout != self.target.layout) {
            let message = format!("part {} was staged for other columns or partitions than the table has", part.name);
            return Err(Error::new(Kind::Conflict, message).hint("run again: it is then read again"));
        }
        let change = self.change(parts, &token, how)?;
        let keys = match (how, self.delete_files) {
            // Nothing is left that a key could take away.
            (Commit::Replace, _) | (_, DeleteFiles::Equality) => Vec::new(),
            (Commit::Append, DeleteFiles::Position | DeleteFiles::DeletionVector) => {
                parts.iter().flat_map(|part| &part.keys).map(|file| file.location.clone()).collect()
            }
        };
        Ok(Some(Publication::new(self, change, keys, Some(token))))
    }

    /// After a commit: what was staged for it is staged no more.
    pub(super) async fn published(&self, parts: &[IcebergPart], how: Commit) {
        if how == Commit::Replace || self.delete_files != DeleteFiles::Equality {
            let keys: Vec<String> = parts.iter().flat_map(|part| &part.keys).map(|file| file.location.clone()).collect();
            if let Err(error) = self.loaded.files.delete(&keys).await {
                tracing::warn!("{error}; the files of keys stay behind");
            }
        }
        self.session.end(begun(parts)).await;
    }

    /// An error while a commit is made.
    pub(super) fn committing(&self, error: Error) -> Error {
        error.doing(format!("commit {}", self.label))
    }

    /// Of these files, those that the current snapshot names.
    async fn named(&self, files: &HashSet<String>) -> Result<HashSet<String>> {
        let mut named = HashSet::new();
        if files.is_empty() {
            return Ok(named);
        }
        for manifest in current(&self.loaded.files, &self.loaded.metadata).await? {
            for entry in alive(&self.loaded.files, &manifest).await? {
                if files.contains(entry.file_path()) {
                    named.insert(entry.file_path().to_owned());
                }
            }
        }
        Ok(named)
    }

    /// Removes the files of parts that will not be committed, unless they have been.
    async fn discard(&self, parts: &[IcebergPart]) -> Result<()> {
        let files: HashSet<String> = parts.iter().flat_map(IcebergPart::all).map(|file| file.location.clone()).collect();
        let named = self.named(&files).await?;
        let gone: Vec<String> = files.into_iter().filter(|file| !named.contains(file)).collect();
        self.loaded.files.delete(&gone).await
    }

    /// Whether the files of a part are all there, with their sizes.
    async fn is_whole(&self, part: &IcebergPart) -> Result<bool> {
        if part.layout != self.target.layout {
            return Ok(false);
        }
        for StagedFile { location, bytes, .. } in part.all() {
            let (storage, path) = self.loaded.files.place(location)?;
            if storage.size(&path).await? != Some(*bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes what runs have staged that died, after making sure that none of them can still commit it.
    async fn clean_up(&mut self, dead: &[String], kept: &HashSet<String>) -> Result<()> {
        let fence = Change { summary: token::fence(&self.spec.writer, &self.session.id), ..Change::default() };
        let fence = Publication::new(self, fence, Vec::new(), None);
        self.publish(fence).await?;
        let (storage, path) = self.loaded.files.place(&pointer::folder(&self.loaded.metadata))?;
        storage.remove_abandoned(&path).await?;
        let data = self.stager.sorter.data.clone();
        let (storage, path) = self.loaded.files.place(&data)?;
        storage.remove_abandoned(&path).await?;
        let below = format!("{path}/");
        let entries = storage.list(&parse(path.as_ref())?).await?;
        let theirs = entries.iter().filter(|entry| Session::is_of(&entry.path, dead));
        let uris: HashSet<String> = theirs.filter_map(|entry| Some(format!("{data}/{}", entry.path.strip_prefix(&below)?))).collect();
        let named = self.named(&uris).await?;
        let gone: Vec<String> = uris.into_iter().filter(|uri| !named.contains(uri) && !kept.contains(uri)).collect();
        self.loaded.files.delete(&gone).await?;
        storage.remove_empty_folders(&path).await
    }
}

impl Table for IcebergTable {
    type Part = IcebergPart;

    fn committed(&self) -> Option<&Token> {
        self.committed.as_ref()
    }

    fn check_changes(&self) -> Result<()> {
        let key = self.key()?;
        if let Some(field) = key.iter().find(|field| !field.field_type.is_primitive()) {
            return Err(Error::new(
                Kind::Config,
                format!("column {:?} of the key has the type {}: rows cannot be found by it", field.name, field.field_type),
            ));
        }
        if self.delete_files == DeleteFiles::DeletionVector && self.loaded.metadata.format_version() < FormatVersion::V3 {
            return Err(Error::new(Kind::Config, "`delete_files` is deletion_vector, and the table has format version 2, which has none")
                .hint("set \"delete_files\": \"position\" in the destination file, or upgrade the table to format version 3"));
        }
        let float = |field: &&NestedFieldRef| matches!(*field.field_type, Type::Primitive(PrimitiveType::Float | PrimitiveType::Double));
        match key.iter().find(float) {
            Some(field) if self.delete_files == DeleteFiles::Equality => Err(Error::new(
                Kind::Config,
                format!("column {:?} of the key is a floating-point number, which Iceberg does not delete by", field.name),
            )
            .hint("set \"delete_files\": \"position\" (or \"deletion_vector\") in the destination file, or append_mode for the stream")),
            _ => Ok(()),
        }
    }

    fn stage_changes<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<IcebergPart, E>> + Send + 'static + use<S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (changes, session, layout, key) = (self.changes.clone(), self.session.clone(), self.target.layout.clone(), self.key());
        let (loaded, index, index_root) = (self.loaded.clone(), self.index.clone(), self.index_root.clone());
        let fields = self.target.fields.clone();
        async move {
            key?;
            let changes = changes.ok_or_else(|| Error::new(Kind::Bug, "changes of a table without a key"))?;
            check_name(&name)?;
            let Some(batches) = with_rows(batches).await? else { return Ok(IcebergPart::empty(name, layout)) };
            session.begin().await;
            let recall = Recall { loaded, index, index_root, fields, key: changes.key.clone() };
            let (files, keys) = changes::stage(changes, recall, name.clone(), batches).await?;
            Ok(IcebergPart { name, layout, files, keys })
        }
    }

    fn stage<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<IcebergPart, E>> + Send + 'static + use<S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (stager, session, layout) = (self.stager.clone(), self.session.clone(), self.target.layout.clone());
        async move {
            check_name(&name)?;
            let Some(batches) = with_rows(batches).await? else { return Ok(IcebergPart::empty(name, layout)) };
            session.begin().await;
            let files = stage::stage(stager, name.clone(), batches).await?;
            Ok(IcebergPart { name, layout, files, keys: Vec::new() })
        }
    }

    async fn adopt(&mut self, remembered: Vec<IcebergPart>) -> Result<Vec<Option<IcebergPart>>> {
        let doing = |e: Error| e.doing(format!("adopt parts of {}", self.label));
        let dead = self.session.dead().await.map_err(doing)?;
        let all: HashSet<String> = remembered.iter().flat_map(IcebergPart::all).map(|file| file.location.clone()).collect();
        let named = self.named(&all).await.map_err(doing)?;
        let (mut outcome, mut kept, mut lost) = (Vec::with_capacity(remembered.len()), HashSet::new(), Vec::new());
        for part in remembered {
            if part.all().all(|file| !named.contains(&file.location)) && self.is_whole(&part).await.map_err(doing)? {
                kept.extend(part.all().map(|file| file.location.clone()));
                outcome.push(Some(part));
            } else {
                lost.push(part);
                outcome.push(None);
            }
        }
        self.discard(&lost).await.map_err(doing)?;
        if !dead.is_empty() {
            Box::pin(self.clean_up(&dead, &kept)).await.map_err(|e| e.doing(format!("remove what a run has left of {}", self.name)))?;
        }
        self.session.adopt(begun(outcome.iter().flatten()), &dead).await;
        Ok(outcome)
    }

    async fn commit(&mut self, parts: Vec<IcebergPart>, token: Token, how: Commit) -> Result<()> {
        let committed = async {
            if let Some(publication) = self.publication(&parts, token, how).await? {
                self.publish(publication).await?;
                self.published(&parts, how).await;
            }
            Ok(())
        };
        let outcome = Box::pin(committed).await;
        outcome.map_err(|error| self.committing(error))
    }

    fn commits_together(&self) -> bool {
        self.joins != Some(false) && self.catalog.commits_together()
    }

    async fn commit_together(group: Vec<Joint<'_, Self>>) -> Vec<Result<()>> {
        Box::pin(together::commit(group)).await
    }
}

/// The batches, if there is a row in them. Without one nothing is staged, and nobody has to know of it.
async fn with_rows<S, E>(batches: S) -> Result<Option<impl Stream<Item = Result<RecordBatch, E>> + Send + 'static>, E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: Send + 'static,
{
    let mut batches = Box::pin(batches);
    while let Some(batch) = batches.try_next().await? {
        if batch.num_rows() > 0 {
            return Ok(Some(futures::stream::iter([Ok(batch)]).chain(batches)));
        }
    }
    Ok(None)
}

/// How many of the parts were begun: those that have a file.
fn begun<'p>(parts: impl IntoIterator<Item = &'p IcebergPart>) -> usize {
    parts.into_iter().filter(|part| part.all().next().is_some()).count()
}

/// The name becomes that of files: it must not lead anywhere else.
fn check_name(name: &PartName) -> Result<()> {
    match !name.generation.is_empty() && name.generation.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        true => Ok(()),
        false => Err(Error::new(Kind::Bug, format!("`{}` cannot be the name of a generation", name.generation))),
    }
}
