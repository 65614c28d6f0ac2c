//! Compresses pages. Each thread has one context and one buffer for all columns, so that a table of many columns does not
//! hold one for each of them.

use crate::error::{Error, Kind, Result};
use crate::parquet::encode::Compression;
use bytes::Bytes;
use std::cell::RefCell;

/// A buffer larger than this is given back after the page that needed it.
const KEPT_BYTES: usize = 2 << 20;

struct Tools {
    page: Vec<u8>,
    compressed: Vec<u8>,
    /// With the level that it is set to.
    zstd: Option<(i32, zstd::bulk::Compressor<'static>)>,
    snappy: snap::raw::Encoder,
}

thread_local! {
    static TOOLS: RefCell<Tools> =
        RefCell::new(Tools { page: Vec::new(), compressed: Vec::new(), zstd: None, snappy: snap::raw::Encoder::new() });
}

/// A page ready to be stored.
pub(super) struct Compressed {
    pub(super) bytes: Bytes,
    /// Before compression.
    pub(super) plain: usize,
    /// What was done to it.
    pub(super) compression: Compression,
}

/// Compresses what `write` appends. If that saves less than one part in `least_gain`, it stays as it is; 0 asks for no gain.
pub(super) fn page(mut compression: Compression, least_gain: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<Compressed> {
    TOOLS.with_borrow_mut(|Tools { page, compressed, zstd, snappy }| {
        page.clear();
        write(page);
        let mut bytes = match compression {
            Compression::None => Bytes::copy_from_slice(page),
            Compression::Snappy => {
                compressed.resize(snap::raw::max_compress_len(page.len()), 0);
                let len = snappy.compress(page, compressed).map_err(broken)?;
                Bytes::copy_from_slice(&compressed[..len])
            }
            Compression::Zstd(level) => {
                let compressor = match zstd {
                    Some((of, compressor)) if *of == level => compressor,
                    _ => &mut zstd.insert((level, zstd::bulk::Compressor::new(level).map_err(broken)?)).1,
                };
                compressed.clear();
                compressed.reserve(zstd::zstd_safe::compress_bound(page.len()));
                compressor.compress_to_buffer(page, compressed).map_err(broken)?;
                Bytes::copy_from_slice(compressed)
            }
        };
        let plain = page.len();
        if least_gain > 0 && bytes.len() + plain / least_gain > plain {
            (bytes, compression) = (Bytes::copy_from_slice(page), Compression::None);
        }
        for buffer in [page, compressed] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        Ok(Compressed { bytes, plain, compression })
    })
}

fn broken(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Bug, "cannot compress a page").because(e)
}
