//! Change data capture: what logical replication says, as values, and what it needs from the server. The connection is in [`crate::postgres`].
//!
//! [`pgoutput`] turns the bytes of one message into a `message` that borrows from them, with rows as `tuple`s; [`rows`] turns those into
//! record batches, [`json`] a row into one value of them, and [`json_key`] a key of a json value; [`judge`] says whether a filter keeps a row, whose
//! values are [`comparable`]. None of them does I/O. [`spool`] keeps messages on the disk until their transaction has an outcome.
//! Before that, [`server`], [`slot`], [`table`] and [`publication`] ask the server what is there; `slot_judgement`, with
//! `slot_refusals`, [`publication_check`] and [`publication_rights`] judge it, purely, as [`finding`]s that say what mends them. [`publication_sync`] adds what a publication
//! lacks, [`retype`] says which changes of a type leave values as they are, and [`slot_drop`] drops a slot.

pub mod comparable;
pub mod finding;
pub mod json;
pub mod json_cast;
pub mod json_key;
pub mod judge;
mod message;
pub mod partitions;
pub mod pgoutput;
mod place;
pub mod publication;
pub mod publication_check;
pub mod publication_rights;
pub mod publication_sync;
pub mod retype;
pub mod rows;
pub mod server;
pub mod slot;
pub mod slot_drop;
pub mod slot_judgement;
mod slot_refusals;
pub mod spool;
pub mod table;
mod tuple;
