//! The user's files, as typed values.

pub mod column_type;
pub mod secret;
pub mod streams;
