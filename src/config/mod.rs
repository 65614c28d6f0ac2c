//! The user's files, as typed values.

pub mod secret;
pub mod streams;
pub mod column_type;
