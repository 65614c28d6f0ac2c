//! Everything that knows PostgreSQL: connecting, its catalog, its types, its wire format.

mod array;
pub mod catalog;
mod catalog_assembly;
mod catalog_query;
pub mod chunk;
mod column;
pub mod connect;
pub mod copy;
pub mod decode;
mod numeric;
#[cfg(test)]
mod payload;
pub mod exported;
pub mod quote;
pub mod scope;
mod temporal;
pub mod tls;
mod type_table;
pub mod types;
pub mod wire;
