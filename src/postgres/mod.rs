//! Everything that knows PostgreSQL: connecting, its catalog, its types, its wire format.
//!
//! Connecting: `transport` (sockets), `tls` and `certificate`, `startup` (login), [`connect`] for both clients. Our own client: `frame`
//! (messages), [`wire`] (queries), [`copy`]. Meaning: [`catalog`], [`types`], [`decode`]. Reading: [`chunk`], [`exported`].

mod transport;
mod tls;
mod certificate;
mod startup;
pub mod connect;
mod sqlstate;
pub mod quote;
mod frame;
pub mod wire;
pub mod copy;
pub mod scope;
pub mod catalog;
mod catalog_assembly;
mod catalog_query;
pub mod types;
mod type_table;
mod column;
mod array;
mod numeric;
mod temporal;
pub mod decode;
pub mod chunk;
pub mod exported;
#[cfg(test)]
mod payload;
#[cfg(test)]
mod testing;
