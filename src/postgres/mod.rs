//! Everything that knows PostgreSQL: connecting, its catalog, its types, its wire format.
//!
//! Connecting: `transport` (sockets), `tls` and `certificate`, `startup` (login), [`connect`] for both clients. Our own client: `frame`
//! (messages), [`wire`] (queries), [`copy`]. Meaning: [`catalog`], [`types`], [`decode`]. Reading: [`chunk`], [`exported`].

mod array;
pub mod catalog;
mod catalog_assembly;
mod catalog_query;
mod certificate;
pub mod chunk;
mod column;
pub mod connect;
pub mod copy;
pub mod decode;
pub mod exported;
mod frame;
mod numeric;
#[cfg(test)]
mod payload;
pub mod quote;
pub mod scope;
mod sqlstate;
pub(crate) mod startup;
mod temporal;
#[cfg(test)]
mod testing;
mod tls;
mod transport;
mod type_table;
pub mod types;
pub mod wire;
