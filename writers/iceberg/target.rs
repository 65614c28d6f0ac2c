//! What a table is to become: its schema, its partition spec, and what a commit has to say for that. Pure.

use super::catalog::{CommitError, Loaded, pointer};
use super::evolve::{Origins, Wanted, evolve};
use super::partition;
use crate::{Error, Kind, Result, TableSpec};
use arrow::datatypes::Schema as ArrowSchema;
use iceberg::spec::{NestedFieldRef, NullOrder, SortDirection, SortField, SortOrder, TableMetadata, Transform, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Table property: which column of the source each field stands for.
const ORIGINS: &str = "lakeward.columns";

/// A table as it will be, and the way there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Changes of schema, spec and properties, to be committed before a snapshot.
    pub(crate) updates: Vec<TableUpdate>,
    /// What these changes rely on.
    pub(crate) requirements: Vec<TableRequirement>,
    /// The metadata with them.
    pub(crate) future: TableMetadata,
    /// The field that each column of a batch goes to.
    pub(crate) fields: Vec<NestedFieldRef>,
    /// The spec without partitions, whose deletes apply to all of the table.
    pub(crate) unpartitioned: i32,
    /// Identifies fields, types and partitions: files staged with another one are of no use.
    pub(crate) layout: String,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// The columns of a table: those that are written, and those that only partition, which here are columns as well.
pub(crate) fn columns(spec: &TableSpec) -> Result<ArrowSchema> {
    let visible = |name: &str| spec.partition_names.iter().find(|(_, own)| *own == name).map_or(name.to_owned(), |(name, _)| name.clone());
    let mut fields: Vec<_> = spec.schema.fields().iter().cloned().collect();
    for field in &spec.partition_only {
        let name = visible(field.name());
        if fields.iter().any(|other| *other.name() == name) {
            return Err(Error::new(
                Kind::Config,
                format!("partition_regex needs the column {name:?}, and the table has another column of that name"),
            )
            .hint("set \"normalization\": true, or partition by another column"));
        }
        fields.push(field.as_ref().clone().with_name(name).into());
    }
    Ok(ArrowSchema::new(fields))
}

impl Target {
    /// Compares the table with what is wanted.
    pub(crate) fn of(base: &Loaded, spec: &TableSpec, identifiers: bool) -> Result<Self> {
        let metadata = &base.metadata;
        partition::check_names(metadata)?;
        let columns = columns(spec)?;
        let wanted = Wanted { columns: &columns, key: &spec.key, notes: &spec.notes, identifiers };
        let known = origins(metadata, &spec.source);
        let evolution = evolve(metadata.current_schema(), metadata.last_column_id(), &known, &wanted)?;
        let (mut updates, mut requirements) = (Vec::new(), Vec::new());
        if let Some(schema) = evolution.schema {
            requirements.push(TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() });
            requirements.push(TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() });
            updates.push(TableUpdate::AddSchema { schema });
            updates.push(TableUpdate::SetCurrentSchema { schema_id: -1 });
        }
        if evolution.origins != known {
            let kept = Kept { source: spec.source.clone(), columns: evolution.origins };
            let value = serde_json::to_string(&kept).map_err(|e| Error::new(Kind::Bug, "cannot keep origins").because(e))?;
            updates.push(TableUpdate::SetProperties { updates: HashMap::from([(ORIGINS.to_owned(), value)]) });
        }
        let mut future = apply(base, updates.clone())?;
        if !future.partition_specs_iter().any(|spec| spec.is_unpartitioned()) {
            requirements.push(TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id: metadata.last_partition_id() });
            updates.push(TableUpdate::AddSpec { spec: UnboundPartitionSpec::builder().build() });
        }
        let fields = partition::wanted(&visible(spec))?;
        let schema = future.current_schema().clone();
        // Without an expression the table's own spec stays.
        if !fields.is_empty() && !partition::is(future.default_partition_spec(), &fields, &schema) {
            requirements.push(TableRequirement::DefaultSpecIdMatch { default_spec_id: metadata.default_partition_spec_id() });
            requirements.push(TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id: metadata.last_partition_id() });
            updates.push(TableUpdate::AddSpec { spec: partition::unbound(&fields, &schema)? });
            updates.push(TableUpdate::SetDefaultSpec { spec_id: -1 });
        }
        if let Some(order) = sort_order(spec, &evolution.fields, future.default_sort_order())? {
            let default_sort_order_id = metadata.default_sort_order_id();
            requirements.push(TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id });
            updates.push(TableUpdate::AddSortOrder { sort_order: order });
            updates.push(TableUpdate::SetDefaultSortOrder { sort_order_id: -1 });
        }
        future = apply(base, updates.clone())?;
        let unpartitioned = future.partition_specs_iter().find(|spec| spec.is_unpartitioned()).map(|spec| spec.spec_id());
        let unpartitioned = unpartitioned.ok_or_else(|| Error::new(Kind::Bug, "the spec without partitions is missing"))?;
        let layout = layout(&future, &evolution.fields, !spec.sort_order.is_empty());
        let mut notes = evolution.notes;
        if kept(metadata).is_some_and(|kept| kept.source != spec.source) {
            notes.push("it was written from another table before; a first load or a full refresh takes the place of those rows".to_owned());
        }
        Ok(Self { updates, requirements, future, fields: evolution.fields, unpartitioned, layout, notes })
    }
}

/// The spec of the table with its partition-only columns under the names they have here.
fn visible(spec: &TableSpec) -> TableSpec {
    let mut visible = spec.clone();
    for field in &mut visible.partition_only {
        if let Some((name, own)) = spec.partition_names.iter().find(|(_, own)| *own == field.name()) {
            *field = field.as_ref().clone().with_name(name).into();
            visible.partition_names.retain(|_, other| other != own);
        }
    }
    visible
}

fn apply(base: &Loaded, updates: Vec<TableUpdate>) -> Result<TableMetadata> {
    pointer::updated(base, &[], updates).map_err(|e| match e {
        CommitError::Conflict(e) | CommitError::Unknown(e) | CommitError::Failed(e) => e,
    })
}

/// What is kept of origins.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    source: String,
    columns: Origins,
}

/// Of another table of the source, numbers mean nothing: its columns are found by name.
fn origins(metadata: &TableMetadata, source: &str) -> Origins {
    kept(metadata).filter(|kept| kept.source == source).map(|kept| kept.columns).unwrap_or_default()
}

fn kept(metadata: &TableMetadata) -> Option<Kept> {
    serde_json::from_str(metadata.properties().get(ORIGINS)?).ok()
}

/// The order that a table is to have, if it has another. Without one that is asked for, the table's own stays.
fn sort_order(spec: &TableSpec, fields: &[NestedFieldRef], current: &SortOrder) -> Result<Option<SortOrder>> {
    let wanted = spec.sort_order.iter().map(|key| {
        let index = spec.schema.index_of(&key.column);
        let field = index.ok().and_then(|index| fields.get(index)).ok_or_else(|| {
            Error::new(Kind::Config, format!("sort_order names {:?}, which is not written", key.column)).hint("name a column that is")
        })?;
        Ok(SortField {
            source_id: field.id,
            transform: Transform::Identity,
            direction: if key.descending { SortDirection::Descending } else { SortDirection::Ascending },
            null_order: if key.nulls_first { NullOrder::First } else { NullOrder::Last },
        })
    });
    let wanted: Vec<SortField> = wanted.collect::<Result<_>>()?;
    if wanted.is_empty() || wanted == current.fields {
        return Ok(None);
    }
    // The number is given when it is committed.
    let order = SortOrder::builder().with_order_id(current.order_id + 1).with_fields(wanted).build_unbound();
    order.map(Some).map_err(|e| Error::new(Kind::Bug, "cannot build a sort order").because(e))
}

fn layout(future: &TableMetadata, fields: &[NestedFieldRef], sorted: bool) -> String {
    let spec = future.default_partition_spec();
    let columns: Vec<String> = fields.iter().map(|field| format!("{}:{}:{}", field.id, field.field_type, field.required)).collect();
    let parts: Vec<String> = spec.fields().iter().map(|field| format!("{}:{}", field.source_id, field.transform)).collect();
    let sorted = if sorted { format!("|sorted {}", future.default_sort_order_id()) } else { String::new() };
    format!("{}|{}|{}{sorted}", future.uuid(), columns.join(","), parts.join(","))
}
