#![doc = include_str!("docs.md")]

mod commit;
mod config;
pub(crate) mod encode;
mod flat;
pub(crate) mod folders;
pub(crate) mod labels;
pub(crate) mod layout;
pub(crate) mod partition;
mod preview;
pub(crate) mod record;
pub(crate) mod roll;
pub(crate) mod stage;

pub use config::{Compression, ParquetConfig};
pub use stage::{ParquetPart, StagedFile};

use crate::order::Order;
use crate::storage::{Storage, default_region};
use crate::{Commit, Destination, Error, Kind, PartName, Result, Table, TableSpec, Token};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use commit::{Intents, Ledger};
use config::Place;
use encode::EncodeOptions;
use folders::Folders;
use futures::Stream;
use partition::PartitionExpression;
use stage::{ByFolder, Stager};
use std::sync::Arc;

/// Retries of [`Destination::check`]: someone is waiting for the answer.
const RETRIES_OF_CHECK: usize = 2;

/// What the writer is given to work with.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Threads that encode.
    pub pool: Arc<rayon::ThreadPool>,
    /// Memory at which a row group is written out, in bytes.
    pub row_group_bytes: usize,
    /// When the run began: `now()` in partition expressions.
    pub now: DateTime<Utc>,
}

/// A folder or bucket prefix of Parquet tables.
pub struct Parquet {
    storage: Storage,
    /// The same place, reached with less patience.
    hasty: Storage,
    options: EncodeOptions,
    resources: Resources,
    /// What this run left in stores that went away.
    intents: Intents,
}

/// One table: a folder of Parquet files.
pub struct ParquetTable {
    ledger: Ledger,
    stager: Arc<Stager>,
    schema: SchemaRef,
    label: String,
}

impl Parquet {
    /// A destination as configured. Nothing is written; AWS is asked for the region at most.
    pub async fn open(config: &ParquetConfig, resources: Resources) -> Result<Self> {
        let (place, options) = config.resolve()?;
        let (storage, hasty) = match place {
            Place::Local(root) => (Storage::local(&root), Storage::local(root)),
            Place::S3(mut s3) => {
                if s3.region.is_empty() {
                    let profile = config.s3_profile.trim();
                    s3.region = default_region((!profile.is_empty()).then_some(profile)).await.ok_or_else(|| {
                        Error::new(Kind::Config, "`s3_region` is empty, and neither the environment nor the AWS profile names a region")
                            .hint("set `s3_region`, or AWS_REGION, or the region of the profile")
                    })?;
                }
                let mut hasty = s3.clone();
                hasty.retries = RETRIES_OF_CHECK;
                (Storage::s3(s3)?, Storage::s3(hasty)?)
            }
        };
        Ok(Self::at(storage, hasty, options, resources))
    }

    fn at(storage: Storage, hasty: Storage, options: EncodeOptions, resources: Resources) -> Self {
        let options = EncodeOptions { row_group_bytes: resources.row_group_bytes, ..options };
        Self { storage, hasty, options, resources, intents: Intents::default() }
    }
}

impl Parquet {
    /// Up to `rows` rows of a table as readers see it now, for looking.
    pub async fn preview(&self, database: &str, name: &str, rows: usize) -> Result<Vec<RecordBatch>> {
        preview::preview(&self.storage, &Folders::of(database, name)?.table, rows).await
    }
}

impl Parquet {
    /// See [`crate::AnyDestination::token`].
    pub async fn token(&self, database: &str, name: &str) -> Result<Option<Token>> {
        let reading = |e: Error| e.doing(format!("read {database}.{name}"));
        let folders = Folders::of(database, name).map_err(reading)?;
        Box::pin(Ledger::token(self.storage.clone(), folders)).await.map_err(reading)
    }
}

impl Destination for Parquet {
    type Table = ParquetTable;

    async fn check(&self) -> Result<()> {
        self.hasty.check().await
    }

    async fn open(&self, spec: &TableSpec) -> Result<ParquetTable> {
        let label = format!("{}.{}", spec.database, spec.name);
        let opening = |e: Error| e.doing(format!("open {label}"));
        let folders = Folders::of(&spec.database, &spec.name).map_err(opening)?;
        let sorter = ByFolder {
            storage: self.storage.clone(),
            staging: folders.staging().map_err(opening)?,
            columns: spec.schema.fields().len(),
            partition: PartitionExpression::parse(spec).map_err(opening)?,
            now: self.resources.now,
        };
        let stager = Stager {
            sorter,
            schema: spec.schema.clone(),
            batches: spec.batches(),
            order: Order::new(&spec.sort_order, &spec.batches(), self.options.row_group_bytes).map_err(opening)?,
            options: self.options.clone(),
            pool: self.resources.pool.clone(),
            label: label.clone(),
        };
        let ledger = Box::pin(Ledger::open(self.storage.clone(), folders, self.intents.clone())).await.map_err(opening)?;
        Ok(ParquetTable { ledger, stager: Arc::new(stager), schema: spec.schema.clone(), label })
    }

    async fn drop_table(&self, database: &str, name: &str) -> Result<()> {
        let dropping = |e: Error| e.doing(format!("drop {database}.{name}"));
        let folders = Folders::of(database, name).map_err(dropping)?;
        Ledger::drop_table(&self.storage, &folders).await.map_err(dropping)
    }
}

impl Table for ParquetTable {
    type Part = ParquetPart;

    fn committed(&self) -> Option<&Token> {
        self.ledger.committed()
    }

    fn check_append(&self) -> Result<()> {
        self.ledger.check_append(&self.schema, &self.label)
    }

    fn stage<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<ParquetPart, E>> + Send + 'static + use<S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let stager = self.stager.clone();
        async move {
            // The name becomes a folder and files: it must not lead anywhere else.
            if name.generation.is_empty() || !name.generation.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(Error::new(Kind::Bug, format!("`{}` cannot be the name of a generation", name.generation)).into());
            }
            stage::stage(stager, name, batches).await
        }
    }

    async fn adopt(&mut self, remembered: Vec<ParquetPart>) -> Result<Vec<Option<ParquetPart>>> {
        self.ledger.adopt(remembered).await.map_err(|e| e.doing(format!("adopt parts of {}", self.label)))
    }

    async fn commit(&mut self, parts: Vec<ParquetPart>, token: Token, how: Commit) -> Result<()> {
        let committing = |e: Error| e.doing(format!("commit {}", self.label));
        let mut files: Vec<StagedFile> = parts.into_iter().flat_map(|part| part.files).collect();
        if files.is_empty() && how == Commit::Replace && self.ledger.committed() != Some(&token) {
            // Without a file the folder would not say what columns an empty table has.
            let generation = format!("empty-{}-{}", self.ledger.seq() + 1, uuid::Uuid::new_v4().simple());
            let empty = stage::empty_file(self.stager.clone(), PartName { generation, sequence: 0 }).await.map_err(committing)?;
            files = empty.files;
        }
        Box::pin(self.ledger.commit(files, token, how, &self.schema)).await.map_err(committing)
    }
}

#[cfg(test)]
mod tests;
