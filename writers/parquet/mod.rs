//! Parquet files.
pub mod config;
