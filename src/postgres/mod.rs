//! Everything that knows PostgreSQL: connecting, its catalog, its wire format.
//!
//! Connecting: `transport` (sockets), [`tunnel`] (SSH), `tls` and `certificate`, `startup` (login), [`connect`] for both clients, `pooler`, [`replica`]. Our own client: `frame`
//! (messages), [`wire`] (queries), [`copy`]. Meaning: [`catalog`], [`decode`]. Reading: [`exported`].

pub mod catalog;
mod catalog_assembly;
mod catalog_query;
mod certificate;
pub mod connect;
pub mod copy;
mod copy_line;
pub mod decode;
pub mod exported;
pub(crate) mod frame;
pub mod lsn;
mod pooler;
pub mod quote;
pub mod replica;
pub mod scope;
mod sqlstate;
pub(crate) mod startup;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
pub(crate) mod transport;
pub mod tunnel;
pub mod wire;
