//! The user's files, as typed values.
//!
//! ```text
//! path ─▶ load: read ─▶ expand ${…} ─▶ dialect: other tools' files ─▶ shape: compare with the schema ─▶ typed value
//!                                                                                                          │
//!                              source.resolve() ─▶ ConnectOptions    destination.validate() ─▶ writer's config
//! ```
//!
//! A file is read once and checked as a whole; what comes out of here is not validated again. No secret leaves by a
//! message, a log line or `Debug`. Nothing here connects to anything.

pub mod column_type;
mod connection_string;
pub mod destination;
mod dialect;
mod dialect_blink;
mod dialect_conduit;
mod dialect_noesis;
mod dialect_transferia;
pub mod encryption;
pub mod expand;
pub mod filter;
pub mod flatten;
mod keywords;
pub mod load;
pub mod merge;
pub mod naming;
mod schema;
pub mod seconds;
pub mod selection;
mod shape;
pub mod source;
pub mod ssh;
pub mod streams;
pub mod suggest;
mod type_name;
pub mod update_method;

pub use destination::Destination;
pub use load::{FileKind, Loaded, load, load_with};
pub use source::Source;

use serde_json::Value;

/// The JSON schema of each file, by the file's name; `schemas/` holds them and a test compares.
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("source", schemars::schema_for!(Source).to_value()),
        ("destination", schemars::schema_for!(Destination).to_value()),
        ("streams", schemars::schema_for!(streams::StreamsFile).to_value()),
        ("state", schemars::schema_for!(crate::state::State).to_value()),
    ]
}
