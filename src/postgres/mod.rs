//! Everything that knows PostgreSQL: connecting, its catalog, its types, its wire format.

pub mod catalog;
pub mod chunk;
pub mod connect;
pub mod copy;
pub mod decode;
pub mod exported;
pub mod numeric;
pub mod quote;
pub mod tls;
pub mod types;
pub mod wire;
