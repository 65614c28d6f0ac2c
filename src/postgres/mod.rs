//! Everything that knows PostgreSQL: connecting, its catalog, its types, its wire format.

pub mod catalog;
mod catalog_assembly;
mod catalog_query;
pub mod chunk;
pub mod connect;
pub mod copy;
pub mod decode;
pub mod numeric;
pub mod quote;
pub mod scope;
pub mod tls;
pub mod types;
pub mod wire;
