//! Stub: replaced at merge.
/// Stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Stub.
    None,
    /// Stub.
    Snappy,
    /// Stub.
    Zstd(i32),
}
/// Stub.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// Stub.
    pub compression: Compression,
    /// Stub.
    pub row_group_bytes: usize,
    /// Stub.
    pub file_bytes_max: u64,
}
impl Default for EncodeOptions {
    fn default() -> Self {
        Self { compression: Compression::None, row_group_bytes: 1 << 20, file_bytes_max: 512 << 20 }
    }
}
