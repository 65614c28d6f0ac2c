//! Lakeward brings PostgreSQL tables into a lakehouse.
//!
//! ```text
//! cli ─▶ config ─▶ sync::plan                                        values, no I/O
//!                      │
//! postgres::wire ─bytes─▶ postgres::decode ─RecordBatch─▶ table.stage ─part─▶ sync::settle
//!                                                                            1. destination commits parts + token
//!                                                                            2. state.json saved
//!                                                                            3. source acknowledged
//! ```
//!
//! Words: a *stream* is a source table as the catalog names it; a *chunk* a range of one table read by one task; an
//! *exported snapshot* PostgreSQL's shared MVCC snapshot; a *part* staged output that no reader can see; a *commit* makes
//! parts and *token* visible together; *state* is our memory of the tokens.
//!
//! Invariants: the `writers` crate does not know PostgreSQL · nothing below [`cli`] prints or ends the process · no row
//! object exists between the wire and Arrow · the destination's token wins over the state file · no bytes from outside
//! can cause a panic. `ARCHITECTURE.md` has the map.

pub mod capture;
pub mod chunks;
pub mod cli;
mod columns;
pub mod config;
pub mod discover;
pub mod error;
pub mod kms;
pub mod memory;
pub mod postgres;
pub mod repair;
pub mod shutdown;
pub mod state;
pub mod sync;
pub mod types;
mod values;
