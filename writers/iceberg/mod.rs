#![doc = include_str!("docs.md")]

pub(crate) mod catalog;
mod changes;
mod config;
mod datafile;
pub(crate) mod deletes;
mod evolve;
mod expire;
pub(crate) mod io;
pub(crate) mod manifest;
mod metrics;
mod partition;
mod preview;
mod properties;
mod publish;
mod recall;
mod schema;
mod session;
mod snapshot;
mod stage;
mod table;
mod target;
mod together;
mod token;

pub use config::{DeleteFiles, IcebergConfig};
pub use stage::IcebergPart;
pub use table::IcebergTable;

use crate::parquet::Resources;
use crate::parquet::encode::EncodeOptions;
use crate::{Destination, Error, Kind, Result, TableSpec, Token};
use arrow::array::RecordBatch;
use catalog::{Catalog, Creation, TableName};
use config::Settings;
use evolve::{Wanted, fresh};

/// A catalog of Iceberg tables.
pub struct Iceberg {
    catalog: Catalog,
    settings: Settings,
    options: EncodeOptions,
    resources: Resources,
}

impl Iceberg {
    /// A destination as configured. Nothing is written.
    pub async fn open(config: &IcebergConfig, resources: Resources) -> Result<Self> {
        let settings = config.settings()?;
        let catalog = Box::pin(config.catalog()).await?;
        Ok(Self::at(catalog, settings, resources))
    }

    fn at(catalog: Catalog, settings: Settings, resources: Resources) -> Self {
        // Readers of Iceberg's own library learnt to read deltas only lately.
        let options = EncodeOptions { row_group_bytes: resources.row_group_bytes, deltas: false, ..EncodeOptions::default() };
        Self { catalog, settings, options, resources }
    }

    fn name(&self, database: &str, name: &str) -> TableName {
        let namespace = if database.is_empty() { &self.settings.namespace } else { database };
        TableName { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Once the catalog has been asked something: an error if it is to commit several tables together, and does not offer that.
    fn check_together(&self) -> Result<()> {
        match self.settings.multi_table_commit == Some(true) && !self.catalog.commits_together() {
            true => Err(Error::new(Kind::Config, "`multi_table_commit` is true, and the catalog does not offer commits of several tables")
                .hint("leave it out: then each table is committed by itself")),
            false => Ok(()),
        }
    }

    async fn open_table(&self, name: TableName, spec: &TableSpec) -> Result<IcebergTable> {
        let found = self.catalog.load_to_write(&name).await?;
        self.check_together()?;
        let loaded = match found {
            Some(loaded) => loaded,
            None => {
                let columns = target::columns(spec)?;
                let wanted = Wanted { columns: &columns, key: &spec.key, notes: &spec.notes, identifiers: self.settings.identifiers };
                let creation = Creation {
                    schema: fresh(&wanted)?,
                    properties: self.settings.properties.clone(),
                    format_version: self.settings.format_version,
                };
                self.catalog.create(&name, creation).await?
            }
        };
        IcebergTable::new(self.catalog.clone(), name, spec.clone(), loaded, &self.settings, &self.options, &self.resources)
    }
}

impl Iceberg {
    /// Up to `rows` rows of a table as readers see it now, for looking.
    pub async fn preview(&self, database: &str, name: &str, rows: usize) -> Result<Vec<RecordBatch>> {
        let name = self.name(database, name);
        let Some(loaded) = self.catalog.load(&name).await? else { return Ok(Vec::new()) };
        Box::pin(preview::preview(&loaded, rows)).await.map_err(|e| e.doing(format!("read {name}")))
    }
}

impl Iceberg {
    /// See [`crate::AnyDestination::token`].
    pub async fn token(&self, database: &str, name: &str, writer: &str) -> Result<Option<Token>> {
        let name = self.name(database, name);
        let loaded = self.catalog.load(&name).await.map_err(|e| e.doing(format!("read {name}")))?;
        Ok(loaded.and_then(|loaded| token::committed(&loaded.metadata, writer)))
    }
}

impl Destination for Iceberg {
    type Table = IcebergTable;

    async fn check(&self) -> Result<()> {
        self.catalog.check().await?;
        self.check_together()
    }

    async fn open(&self, spec: &TableSpec) -> Result<IcebergTable> {
        let name = self.name(&spec.database, &spec.name);
        let label = name.to_string();
        Box::pin(self.open_table(name, spec)).await.map_err(|e: Error| e.doing(format!("open {label}")))
    }

    async fn drop_table(&self, database: &str, name: &str) -> Result<()> {
        let name = self.name(database, name);
        self.catalog.drop_table(&name).await.map_err(|e| e.doing(format!("drop {name}")))
    }
}

#[cfg(test)]
mod ceph_tests;
#[cfg(test)]
mod cloud_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
