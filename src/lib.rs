//! Lakeward.
pub mod config;
pub mod discover;
pub mod error;
pub mod memory;
pub mod postgres;
