//! Parquet files.
mod config;
pub use config::{Compression, ParquetConfig};
