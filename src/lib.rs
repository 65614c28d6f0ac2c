//! Lakeward.
pub mod config;
pub mod error;
pub mod memory;
pub mod postgres;
