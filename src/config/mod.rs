//! The user's files, as typed values.

pub mod column_type;
pub mod filter;
pub mod merge;
pub mod naming;
pub mod secret;
pub mod selection;
pub mod streams;
