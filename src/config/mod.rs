//! The user's files, as typed values.

pub mod secret;
