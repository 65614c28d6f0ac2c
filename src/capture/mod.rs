//! Change data capture: what logical replication says, as values, and what it needs from the server. The connection is in [`crate::postgres`].
//!
//! [`pgoutput`] turns the bytes of one message into a `message` that borrows from them, with rows as `tuple`s; [`rows`] turns those into
//! record batches, and [`json`] a row into one value of them. None of them does I/O.
//! Before that, [`server`], [`slot`], [`table`] and [`publication`] ask the server what is there; `slot_judgement`, with
//! `slot_refusals`, [`publication_check`] and [`publication_rights`] judge it, purely, as [`finding`]s that say what mends them. [`publication_sync`] adds what a publication
//! lacks, and [`slot_drop`] drops a slot.

pub mod finding;
pub mod json;
mod message;
pub mod partitions;
pub mod pgoutput;
pub mod publication;
pub mod publication_check;
pub mod publication_rights;
pub mod publication_sync;
pub mod rows;
pub mod server;
pub mod slot;
pub mod slot_drop;
pub mod slot_judgement;
mod slot_refusals;
pub mod table;
mod tuple;
