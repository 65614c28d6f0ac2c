//! Stub: replaced at merge.
/// Stub.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// Stub.
    pub compression: parquet::basic::Compression,
    /// Stub.
    pub row_group_bytes: usize,
    /// Stub.
    pub file_bytes_max: u64,
}
impl Default for EncodeOptions {
    fn default() -> Self {
        Self { compression: parquet::basic::Compression::UNCOMPRESSED, row_group_bytes: 1 << 20, file_bytes_max: 512 << 20 }
    }
}
