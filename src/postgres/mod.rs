//! Everything that knows PostgreSQL: connecting, its catalog, its wire format.
//!
//! Connecting: `transport` (sockets), [`tunnel`] (SSH), `tls` and `certificate`, `startup` (login), [`connect`] for both clients, `pooler`, [`replica`]. Our own client: `duplex`
//! and `frame` (bytes and messages), [`wire`] (queries), `copy_data` and [`copy`]; [`replication`] and [`replication_stream`], with `gathering` and [`replication_status`]; [`slot_poll`] with `slot_peek`, and either of them as [`changes`]. Meaning: [`catalog`], [`decode`]. Reading: [`exported`].

pub mod catalog;
mod catalog_assembly;
mod catalog_query;
pub mod certificate;
pub mod changes;
pub mod connect;
pub mod copy;
mod copy_data;
mod copy_line;
pub mod decode;
mod duplex;
pub mod exported;
pub mod frame;
mod gathering;
pub mod lsn;
mod pooler;
pub mod quote;
pub mod replica;
pub mod replication;
pub mod replication_status;
pub mod replication_stream;
pub mod scope;
mod sign_of_life;
pub mod slot_peek;
pub mod slot_poll;
mod sqlstate;
pub(crate) mod startup;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
pub(crate) mod transport;
pub mod tunnel;
pub mod wire;
