//! A destination of whichever kind the configuration names: the engine is compiled once for all of them.
//!
//! Passes everything on and decides nothing.

use crate::iceberg::{Iceberg, IcebergPart, IcebergTable};
use crate::parquet::{Parquet, ParquetPart, ParquetTable};
use crate::table::{Commit, Joint, Part, PartName, Stats, TableSpec, Token};
use crate::{Destination, Error, Kind, Result, Table};
use arrow::array::RecordBatch;
use futures::Stream;
use futures::future::Either;
use serde::{Deserialize, Serialize};

/// A destination of any kind.
pub enum AnyDestination {
    /// Folders of Parquet files.
    Parquet(Parquet),
    /// Apache Iceberg tables.
    Iceberg(Iceberg),
}

/// A table of any kind.
pub enum AnyTable {
    /// A folder of Parquet files.
    Parquet(Box<ParquetTable>),
    /// An Apache Iceberg table.
    Iceberg(Box<IcebergTable>),
}

/// A part of any kind; each is stored in its own form.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum AnyPart {
    /// Staged Parquet files.
    Parquet(ParquetPart),
    /// Staged files of an Iceberg table.
    Iceberg(IcebergPart),
}

/// By what the forms have of their own: serde's choice among untagged variants does not read maps whose keys are numbers.
impl<'de> Deserialize<'de> for AnyPart {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = serde_json::Value::deserialize(deserializer)?;
        let read = if form.get("layout").is_some() {
            serde_json::from_value(form).map(Self::Iceberg)
        } else {
            serde_json::from_value(form).map(Self::Parquet)
        };
        read.map_err(serde::de::Error::custom)
    }
}

impl Part for AnyPart {
    fn stats(&self) -> Stats {
        match self {
            Self::Parquet(part) => part.stats(),
            Self::Iceberg(part) => part.stats(),
        }
    }
}

impl AnyDestination {
    /// Up to `rows` rows of a table as readers see it now, for looking.
    pub async fn preview(&self, database: &str, name: &str, rows: usize) -> Result<Vec<RecordBatch>> {
        match self {
            Self::Parquet(lake) => lake.preview(database, name, rows).await,
            Self::Iceberg(lake) => lake.preview(database, name, rows).await,
        }
    }
}

impl AnyDestination {
    /// The token that `writer` ([`TableSpec::writer`]) has committed last, as the next [`Destination::open`] would find it; `None` for a table that it never
    /// committed, or that is not there. Only reads: nothing is created, locked or completed.
    pub async fn token(&self, database: &str, name: &str, writer: &str) -> Result<Option<Token>> {
        match self {
            Self::Parquet(lake) => lake.token(database, name).await,
            Self::Iceberg(lake) => lake.token(database, name, writer).await,
        }
    }
}

impl Destination for AnyDestination {
    type Table = AnyTable;

    async fn check(&self) -> Result<()> {
        match self {
            Self::Parquet(lake) => lake.check().await,
            Self::Iceberg(lake) => lake.check().await,
        }
    }

    async fn open(&self, spec: &TableSpec) -> Result<AnyTable> {
        Ok(match self {
            Self::Parquet(lake) => AnyTable::Parquet(Box::new(Box::pin(lake.open(spec)).await?)),
            Self::Iceberg(lake) => AnyTable::Iceberg(Box::new(Box::pin(lake.open(spec)).await?)),
        })
    }

    async fn drop_table(&self, database: &str, name: &str) -> Result<()> {
        match self {
            Self::Parquet(lake) => lake.drop_table(database, name).await,
            Self::Iceberg(lake) => lake.drop_table(database, name).await,
        }
    }
}

/// Parts of the table's own kind; those of another kind of destination are of no use to it.
fn of_kind<P>(parts: Vec<AnyPart>, own: impl Fn(AnyPart) -> Option<P>) -> Result<Vec<P>> {
    parts.into_iter().map(|part| own(part).ok_or_else(|| Error::new(Kind::Bug, "a part of another destination"))).collect()
}

impl Table for AnyTable {
    type Part = AnyPart;

    fn committed(&self) -> Option<&Token> {
        match self {
            Self::Parquet(table) => table.committed(),
            Self::Iceberg(table) => table.committed(),
        }
    }

    fn check_append(&self) -> Result<()> {
        match self {
            Self::Parquet(table) => table.check_append(),
            Self::Iceberg(table) => table.check_append(),
        }
    }

    fn stage<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<AnyPart, E>> + Send + 'static + use<S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let staging = match self {
            Self::Parquet(table) => Either::Left(table.stage(name, batches)),
            Self::Iceberg(table) => Either::Right(table.stage(name, batches)),
        };
        async move {
            Ok(match staging {
                Either::Left(parquet) => AnyPart::Parquet(parquet.await?),
                Either::Right(iceberg) => AnyPart::Iceberg(iceberg.await?),
            })
        }
    }

    fn check_changes(&self) -> Result<()> {
        match self {
            Self::Parquet(table) => table.check_changes(),
            Self::Iceberg(table) => table.check_changes(),
        }
    }

    fn stage_changes<S, E>(&self, name: PartName, batches: S) -> impl Future<Output = Result<AnyPart, E>> + Send + 'static + use<S, E>
    where
        S: Stream<Item = Result<RecordBatch, E>> + Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let staging = match self {
            Self::Parquet(table) => Either::Left(table.stage_changes(name, batches)),
            Self::Iceberg(table) => Either::Right(table.stage_changes(name, batches)),
        };
        async move {
            Ok(match staging {
                Either::Left(parquet) => AnyPart::Parquet(parquet.await?),
                Either::Right(iceberg) => AnyPart::Iceberg(iceberg.await?),
            })
        }
    }

    async fn adopt(&mut self, remembered: Vec<AnyPart>) -> Result<Vec<Option<AnyPart>>> {
        // What another kind of destination has staged is not here; the order is kept.
        match self {
            Self::Parquet(table) => {
                let own = |part: &AnyPart| matches!(part, AnyPart::Parquet(_));
                let places: Vec<bool> = remembered.iter().map(own).collect();
                let parts =
                    remembered.into_iter().filter_map(|part| if let AnyPart::Parquet(part) = part { Some(part) } else { None }).collect();
                Ok(in_order(places, table.adopt(parts).await?.into_iter().map(|part| part.map(AnyPart::Parquet))))
            }
            Self::Iceberg(table) => {
                let own = |part: &AnyPart| matches!(part, AnyPart::Iceberg(_));
                let places: Vec<bool> = remembered.iter().map(own).collect();
                let parts =
                    remembered.into_iter().filter_map(|part| if let AnyPart::Iceberg(part) = part { Some(part) } else { None }).collect();
                Ok(in_order(places, table.adopt(parts).await?.into_iter().map(|part| part.map(AnyPart::Iceberg))))
            }
        }
    }

    async fn commit(&mut self, parts: Vec<AnyPart>, token: Token, how: Commit) -> Result<()> {
        match self {
            Self::Parquet(table) => {
                let parts = of_kind(parts, |part| if let AnyPart::Parquet(part) = part { Some(part) } else { None })?;
                table.commit(parts, token, how).await
            }
            Self::Iceberg(table) => {
                let parts = of_kind(parts, |part| if let AnyPart::Iceberg(part) = part { Some(part) } else { None })?;
                table.commit(parts, token, how).await
            }
        }
    }

    fn commits_together(&self) -> bool {
        match self {
            Self::Parquet(table) => table.commits_together(),
            Self::Iceberg(table) => table.commits_together(),
        }
    }

    async fn commit_together(group: Vec<Joint<'_, Self>>) -> Vec<Result<()>> {
        let count = group.len();
        match of_iceberg(group) {
            Ok(group) => IcebergTable::commit_together(group).await,
            Err(error) => (0..count).map(|_| Err(error.again())).collect(),
        }
    }
}

/// The commits, if all are of Iceberg tables.
fn of_iceberg<'t>(group: Vec<Joint<'t, AnyTable>>) -> Result<Vec<Joint<'t, IcebergTable>>> {
    let own = |joint: Joint<'t, AnyTable>| {
        let Joint { table, parts, token, how } = joint;
        let AnyTable::Iceberg(table) = table else { return Err(Error::new(Kind::Bug, "this destination commits each table by itself")) };
        let parts = of_kind(parts, |part| if let AnyPart::Iceberg(part) = part { Some(part) } else { None })?;
        Ok(Joint { table: table.as_mut(), parts, token, how })
    };
    group.into_iter().map(own).collect()
}

/// The outcomes where `places` holds, `None` elsewhere.
fn in_order(places: Vec<bool>, mut outcomes: impl Iterator<Item = Option<AnyPart>>) -> Vec<Option<AnyPart>> {
    places.into_iter().map(|own| if own { outcomes.next().flatten() } else { None }).collect()
}
