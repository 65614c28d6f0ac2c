//! Change data capture: what logical replication says, as values. Pure; the connection is in [`crate::postgres`].
//!
//! [`pgoutput`] turns the bytes of one message into a `message` that borrows from them, with rows as `tuple`s; [`rows`] turns those into
//! record batches, and [`json`] a row into one value of them.

pub mod json;
mod message;
pub mod pgoutput;
pub mod rows;
mod tuple;
