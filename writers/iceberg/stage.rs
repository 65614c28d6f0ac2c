//! Stages parts: data files in the table's folder, which no snapshot names yet.
//!
//! A part remembers what the commit needs of its files, so that it goes on from the state file alone. Does not know commits.

use super::catalog::Loaded;
use super::changes::ChangeStager;
use super::io::Files;
use super::metrics::{Metrics, Modes};
use super::partition::{Partition, Partitioner, Tuple};
use super::properties::Properties;
use super::schema::{convert, file_field};
use super::session::Session;
use super::target::Target;
use crate::TableSpec;
use crate::error::{Error, Kind, Result};
use crate::order::{Order, SortKey};
use crate::parquet::encode::EncodeOptions;
use crate::parquet::labels::Rows;
use crate::parquet::roll::{self, Rolled, Roller, Sorter};
use crate::storage::Storage;
use crate::table::{Part, PartName, Stats};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use futures::Stream;
use iceberg::spec::{Literal, NestedFieldRef, PartitionSpec, StructType};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Staged files with rows of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcebergPart {
    /// Name of the part.
    pub(crate) name: PartName,
    /// The columns and the partitions that its files have; with others they are of no use.
    pub(crate) layout: String,
    /// Files with rows.
    pub(crate) files: Vec<StagedFile>,
    /// Files with the keys of rows that are to go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<StagedFile>,
}

/// A complete file that no snapshot names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedFile {
    /// URI.
    pub(crate) location: String,
    /// Rows.
    pub(crate) rows: u64,
    /// Bytes as stored.
    pub(crate) bytes: u64,
    /// Values of its partition ("JSON single-value serialization").
    pub(crate) partition: Vec<Option<serde_json::Value>>,
    /// What the manifest says of its columns.
    pub(crate) metrics: Metrics,
}

impl Part for IcebergPart {
    fn stats(&self) -> Stats {
        let files = || self.files.iter();
        Stats { rows: files().map(|file| file.rows).sum(), files: self.files.len() as u64, bytes: files().map(|file| file.bytes).sum() }
    }
}

impl IcebergPart {
    /// A part without rows.
    pub(crate) fn empty(name: PartName, layout: String) -> Self {
        Self { name, layout, files: Vec::new(), keys: Vec::new() }
    }

    /// All files of the part.
    pub(crate) fn all(&self) -> impl Iterator<Item = &StagedFile> {
        self.files.iter().chain(&self.keys)
    }
}

impl StagedFile {
    /// The partition's values, which have the types `types`.
    pub(crate) fn tuple(&self, types: &StructType) -> Result<Tuple> {
        let broken =
            |why: String| Error::new(Kind::Corrupt, format!("the staged file {} has no partition of the table: {why}", self.location));
        if self.partition.len() != types.fields().len() {
            return Err(broken(format!("{} values", self.partition.len())));
        }
        let read = |(value, field): (&Option<serde_json::Value>, &NestedFieldRef)| match value {
            None => Ok(None),
            Some(value) => Literal::try_from_json(value.clone(), &field.field_type).map_err(|e| broken(e.message().to_owned())),
        };
        self.partition.iter().zip(types.fields()).map(read).collect()
    }
}

/// Sorts rows into partitions of an Iceberg table.
pub(crate) struct ByPartition {
    pub(crate) files: Files,
    /// Folder of the table's data files, a URI.
    pub(crate) data: String,
    /// `write.object-storage.enabled`: folders by a hash come before those of partitions.
    pub(crate) hashed: bool,
    /// `write.object-storage.partitioned-paths`: whether partitions have folders then.
    pub(crate) partitioned: bool,
    /// What distinguishes the files of this run from those of another that staged the same part.
    pub(crate) session: String,
    /// What the files hold.
    pub(crate) content: Content,
    pub(crate) partitioner: Partitioner,
    /// Schema of the files; the columns of a batch, in order, converted.
    pub(crate) schema: SchemaRef,
    /// What the manifest will say of columns.
    pub(crate) modes: Modes,
}

/// What staged files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Rows.
    Rows,
    /// Keys of rows that are to go.
    Keys,
}

/// What staging into one table needs.
pub(crate) type Stager = Roller<ByPartition>;

impl Sorter for ByPartition {
    type Group = Partition;

    fn divides(&self) -> bool {
        self.partitioner.divides()
    }

    fn route(&self, batch: &RecordBatch) -> Result<Vec<(Partition, Rows)>> {
        if !self.divides() {
            return Ok(vec![(Partition { tuple: Vec::new(), folder: String::new() }, Rows::All)]);
        }
        self.partitioner.split(&self.written(batch.clone())?)
    }

    fn written(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let columns =
            batch.columns().iter().zip(self.schema.fields()).map(|(column, field)| convert(column, field)).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::new(Kind::Schema, "the rows do not have the table's columns").because(e))
    }

    fn place(&self, group: &Partition, part: &PartName, number: u32) -> Result<(Storage, Path)> {
        self.files.place(&self.location(group, part, number))
    }
}

impl ByPartition {
    fn location(&self, group: &Partition, part: &PartName, number: u32) -> String {
        let kind = match self.content {
            Content::Rows => "",
            Content::Keys => "keys-",
        };
        let name = format!("{part}-{kind}{number:03}-{}.parquet", self.session);
        let mut location = self.data.clone();
        if self.hashed {
            // Object stores divide their work by prefixes.
            let hash = format!("{:020b}", murmur3::murmur3_32(&mut name.as_bytes(), 0).unwrap_or_default() >> 12);
            for part in [&hash[..4], &hash[4..8], &hash[8..12], &hash[12..]] {
                location.push('/');
                location.push_str(part);
            }
        }
        if !group.folder.is_empty() && (self.partitioned || !self.hashed) {
            location.push('/');
            location.push_str(&group.folder);
        }
        format!("{location}/{name}")
    }

    fn staged(&self, part: &PartName, file: &Rolled<Partition>) -> Result<StagedFile> {
        let types = self.partitioner.types.fields();
        let partition = file.group.tuple.iter().zip(types).map(|(value, field)| {
            let json = |value: &Literal| value.clone().try_into_json(&field.field_type);
            value.as_ref().map(json).transpose().map_err(|e| Error::new(Kind::Bug, "cannot keep a partition's value").because(e))
        });
        Ok(StagedFile {
            location: self.location(&file.group, part, file.number),
            rows: file.rows,
            bytes: file.bytes,
            partition: partition.collect::<Result<_>>()?,
            metrics: Metrics::of(&file.footer, &self.modes),
        })
    }
}

/// Stages `batches` as files of the part `name`.
pub(crate) async fn stage<S, E>(stager: Arc<Stager>, name: PartName, batches: S) -> Result<Vec<StagedFile>, E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    E: From<Error> + Send + 'static,
{
    let files = roll::roll(stager.clone(), name.clone(), batches).await?;
    Ok(files.iter().map(|file| stager.sorter.staged(&name, file)).collect::<Result<Vec<_>>>()?)
}

/// Makes the stagers of one open table.
pub(crate) struct Workshop<'t> {
    pub(crate) loaded: &'t Loaded,
    pub(crate) target: &'t Target,
    pub(crate) properties: &'t Properties,
    pub(crate) session: &'t Session,
    pub(crate) pool: &'t Arc<rayon::ThreadPool>,
    pub(crate) label: &'t str,
}

impl Workshop<'_> {
    /// A stager of batches whose columns go to `fields`.
    pub(crate) fn stager(
        &self,
        content: Content,
        fields: &[NestedFieldRef],
        batches: SchemaRef,
        order: &[SortKey],
        options: EncodeOptions,
    ) -> Result<Arc<Stager>> {
        let future = &self.target.future;
        let written: Vec<i32> = fields.iter().map(|field| field.id).collect();
        let unpartitioned = PartitionSpec::unpartition_spec();
        let spec = match content {
            Content::Rows => future.default_partition_spec().as_ref(),
            Content::Keys => &unpartitioned,
        };
        let schema = Arc::new(Schema::new(fields.iter().map(|field| file_field(field)).collect::<Result<Vec<_>>>()?));
        let location = self.loaded.metadata.location().trim_end_matches('/');
        let sorter = ByPartition {
            files: self.loaded.files.clone(),
            data: self.properties.data_path.clone().unwrap_or_else(|| format!("{location}/data")),
            hashed: self.properties.hashed_paths,
            partitioned: self.properties.partitioned_paths,
            session: self.session.id.clone(),
            content,
            partitioner: Partitioner::new(spec, future.current_schema(), &written)?,
            schema: schema.clone(),
            modes: Modes::of(future.current_schema(), future.properties())?,
        };
        let order = match content {
            Content::Rows => Order::new(order, &batches, options.row_group_bytes)?,
            Content::Keys => Order::default(),
        };
        Ok(Arc::new(Stager { sorter, schema, batches, order, options, pool: self.pool.clone(), label: self.label.to_owned() }))
    }

    /// What stages changes, if the table has a key.
    pub(crate) fn changes(&self, spec: &TableSpec, rows: &Arc<Stager>, options: EncodeOptions) -> Result<Option<ChangeStager>> {
        let batches = spec.batches();
        let find = |name: &String| self.target.fields.iter().position(|field| field.name == *name);
        let key: Option<Vec<usize>> = spec.key.iter().map(find).collect();
        let Some(key) = key.filter(|key| !key.is_empty()) else { return Ok(None) };
        let fields: Vec<NestedFieldRef> = key.iter().map(|index| self.target.fields[*index].clone()).collect();
        let columns = batches.project(&key).map_err(|e| Error::new(Kind::Bug, "the key is not among the columns").because(e))?;
        let bound = options.row_group_bytes;
        let keys = self.stager(Content::Keys, &fields, Arc::new(columns), &[], options)?;
        Ok(Some(ChangeStager { rows: rows.clone(), keys, key, bound }))
    }
}
