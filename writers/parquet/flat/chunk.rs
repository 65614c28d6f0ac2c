//! The pages of one column chunk, and what the footer says of them.
//!
//! Knows nothing of the values: whoever encodes them hands over bytes, bounds and counts.

use super::bits;
use super::compress::{self, Compressed};
use crate::error::Result;
use crate::parquet::encode::{Compression, broken};
use arrow::buffer::NullBuffer;
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Encoding, EncodingMask, PageType};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, LevelHistogram, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use std::io::{Read, Write};

/// A chunk that is being filled.
pub(super) struct Chunk {
    descr: ColumnDescPtr,
    compression: Compression,
    pieces: Pieces,
    /// Pages that wait for the dictionary, which stands before them.
    waiting: Vec<CompressedPage>,
    waiting_bytes: usize,
    offsets: OffsetIndexBuilder,
    index: ColumnIndexBuilder,
    order: (bool, bool),
    written: Written,
    rows: usize,
    nulls: usize,
    value_bytes: Option<i64>,
    page: OpenPage,
}

/// The rows of the page being filled.
#[derive(Default)]
struct OpenPage {
    rows: usize,
    nulls: usize,
    /// Definition levels, once there was a NULL; before, all of them are 1.
    levels: Vec<u32>,
}

/// What was written.
#[derive(Default)]
struct Written {
    plain_bytes: usize,
    bytes: usize,
    dictionary_offset: Option<u64>,
    data_offset: Option<u64>,
    encodings: Vec<Encoding>,
    pages: Vec<PageEncodingStats>,
}

/// The bounds of a page's values as the column index has them, and how they stand to those of the page before.
pub(super) struct PageBounds {
    pub(super) low: Vec<u8>,
    pub(super) high: Vec<u8>,
    pub(super) ascending: bool,
    pub(super) descending: bool,
}

/// What a page is filled with.
#[derive(Clone, Copy)]
pub(super) struct Content {
    /// How its values are encoded; indices wait for their dictionary.
    pub(super) encoding: Encoding,
    /// Whether the encoding leaves so little to compress that it may not be worth its time. The first page decides for the chunk.
    pub(super) dense: bool,
}

/// Bits packed tightly are stored as they are unless compression makes them smaller by this part: it costs the writer and
/// every reader more than reading a sixteenth more.
const LEAST_GAIN: usize = 16;

impl Chunk {
    pub(super) fn new(descr: ColumnDescPtr, compression: Compression) -> Self {
        Self {
            compression,
            pieces: Pieces::default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            offsets: OffsetIndexBuilder::new(),
            index: ColumnIndexBuilder::new(descr.physical_type()),
            order: (true, true),
            written: Written::default(),
            rows: 0,
            nulls: 0,
            value_bytes: None,
            page: OpenPage::default(),
            descr,
        }
    }

    /// The column.
    pub(super) fn descr(&self) -> &ColumnDescPtr {
        &self.descr
    }

    /// Rows of the page being filled.
    pub(super) fn page_rows(&self) -> usize {
        self.page.rows
    }

    /// NULLs of the chunk, without those of the page being filled.
    pub(super) fn nulls(&self) -> u64 {
        self.nulls as u64
    }

    /// Values of the chunk that are not NULL, without those of the page being filled.
    pub(super) fn values(&self) -> usize {
        self.rows - self.nulls
    }

    /// Whether pages wait for a dictionary.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes of the pages.
    pub(super) fn encoded(&self) -> usize {
        self.written.bytes + self.waiting_bytes
    }

    /// Memory held.
    pub(super) fn held(&self) -> usize {
        self.encoded() + self.page.levels.capacity() * size_of::<u32>()
    }

    /// Adds rows to the page being filled.
    pub(super) fn add_rows(&mut self, rows: usize, nulls: Option<&NullBuffer>) {
        let page = &mut self.page;
        match nulls.filter(|nulls| nulls.null_count() > 0) {
            Some(nulls) => {
                page.levels.resize(page.rows, 1);
                page.levels.extend(nulls.iter().map(u32::from));
                page.nulls += nulls.null_count();
            }
            None if !page.levels.is_empty() => page.levels.resize(page.rows + rows, 1),
            None => {}
        }
        page.rows += rows;
    }

    /// Ends the page being filled. `write` appends its encoded values; `value_bytes` are those of texts, without lengths.
    /// A page with values but without bounds leaves the chunk without an index: its values have no order.
    pub(super) fn end_page(
        &mut self,
        content: Content,
        bounds: Option<PageBounds>,
        value_bytes: Option<i64>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        let mut page = std::mem::take(&mut self.page);
        let has_levels = self.descr.max_def_level() > 0;
        let least_gain = if content.dense && self.rows == 0 { LEAST_GAIN } else { 0 };
        let Compressed { bytes, plain, compression } = compress::page(self.compression, least_gain, |out| {
            if has_levels {
                levels(&page, out);
            }
            write(out);
        })?;
        self.compression = compression;
        self.describe(&page, bounds, value_bytes);
        self.waiting_bytes += bytes.len();
        let num_values = u32::try_from(page.rows).map_err(|e| broken(ParquetError::External(Box::new(e))))?;
        let data = Page::DataPage {
            buf: bytes,
            num_values,
            encoding: content.encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        self.waiting.push(CompressedPage::new(data, plain));
        if content.encoding != Encoding::RLE_DICTIONARY {
            self.write_waiting()?;
        }
        // The next page can use the room.
        page.levels.clear();
        self.page.levels = page.levels;
        Ok(())
    }

    /// Notes what the indexes say of a page.
    fn describe(&mut self, page: &OpenPage, bounds: Option<PageBounds>, value_bytes: Option<i64>) {
        match bounds {
            Some(PageBounds { low, high, ascending, descending }) => {
                self.order.0 &= ascending;
                self.order.1 &= descending;
                self.index.append(false, low, high, page.nulls as i64);
            }
            None if page.nulls == page.rows => self.index.append(true, Vec::new(), Vec::new(), page.nulls as i64),
            None => self.index.to_invalid(),
        }
        self.index.append_histograms(&None, &self.histogram(page.rows, page.nulls));
        self.offsets.append_row_count(page.rows as i64);
        self.offsets.append_unencoded_byte_array_data_bytes(value_bytes);
        if let Some(bytes) = value_bytes {
            *self.value_bytes.get_or_insert(0) += bytes;
        }
        self.rows += page.rows;
        self.nulls += page.nulls;
    }

    /// How many values have which definition level.
    fn histogram(&self, rows: usize, nulls: usize) -> Option<LevelHistogram> {
        let mut histogram = LevelHistogram::try_new(self.descr.max_def_level())?;
        histogram.increment_by(0, nulls as i64);
        histogram.increment_by(1, (rows - nulls) as i64);
        Some(histogram)
    }

    /// Writes the dictionary and the pages that waited for it.
    pub(super) fn write_dictionary(&mut self, values: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let Compressed { bytes, plain, .. } = compress::page(self.compression, 0, write)?;
        let num_values = u32::try_from(values).map_err(|e| broken(ParquetError::External(Box::new(e))))?;
        let page = Page::DictionaryPage { buf: bytes, num_values, encoding: Encoding::PLAIN, is_sorted: false };
        self.write_page(CompressedPage::new(page, plain))?;
        self.write_waiting()
    }

    fn write_waiting(&mut self) -> Result<()> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting).into_iter().try_for_each(|page| self.write_page(page))
    }

    fn write_page(&mut self, page: CompressedPage) -> Result<()> {
        let (encoding, offset) = (page.encoding(), self.written.bytes as u64);
        // A sink has a buffer of some size: one for each column would be too many.
        let mut sink = TrackedWrite::new(&mut self.pieces);
        let spec = SerializedPageWriter::new(&mut sink).write_page(page).map_err(broken)?;
        sink.into_inner().map_err(broken)?;
        let PageWriteSpec { page_type, uncompressed_size, compressed_size, .. } = spec;
        if page_type == PageType::DICTIONARY_PAGE {
            self.written.dictionary_offset = Some(offset);
        } else {
            self.written.data_offset.get_or_insert(offset);
            self.offsets.append_offset_and_size(offset as i64, compressed_size as i32);
        }
        self.written.add(page_type, encoding, uncompressed_size, compressed_size);
        Ok(())
    }

    /// Ends the chunk, whose pages are all written.
    pub(super) fn close(self, statistics: Statistics) -> Result<(Pieces, ColumnCloseResult)> {
        let histogram = self.histogram(self.rows, self.nulls);
        let Self { descr, pieces, offsets, mut index, order, written, rows, value_bytes, compression, .. } = self;
        let metadata = ColumnChunkMetaData::builder(descr)
            .set_compression(compression.codec()?)
            .set_encodings_mask(EncodingMask::new_from_encodings(written.encodings.iter()))
            .set_page_encoding_stats(written.pages)
            .set_total_compressed_size(written.bytes as i64)
            .set_total_uncompressed_size(written.plain_bytes as i64)
            .set_num_values(rows as i64)
            .set_data_page_offset(written.data_offset.unwrap_or(0) as i64)
            .set_dictionary_page_offset(written.dictionary_offset.map(|offset| offset as i64))
            .set_statistics(statistics)
            .set_unencoded_byte_array_data_bytes(value_bytes)
            .set_definition_level_histogram(histogram)
            .build()
            .map_err(broken)?;
        index.set_boundary_order(match order {
            (true, _) => BoundaryOrder::ASCENDING,
            (false, true) => BoundaryOrder::DESCENDING,
            (false, false) => BoundaryOrder::UNORDERED,
        });
        let column_index = if index.valid() { Some(index.build().map_err(broken)?) } else { None };
        let offset_index = Some(offsets.build());
        let bytes_written = written.bytes as u64;
        let close =
            ColumnCloseResult { bytes_written, rows_written: rows as u64, bloom_filter: None, metadata, column_index, offset_index };
        Ok((pieces, close))
    }
}

impl Written {
    fn add(&mut self, page_type: PageType, encoding: Encoding, plain_bytes: usize, bytes: usize) {
        self.plain_bytes += plain_bytes;
        self.bytes += bytes;
        // The levels are runs.
        for encoding in [Encoding::RLE, encoding] {
            if !self.encodings.contains(&encoding) {
                self.encodings.push(encoding);
            }
        }
        match self.pages.last_mut() {
            Some(last) if last.page_type == page_type && last.encoding == encoding => last.count += 1,
            _ => self.pages.push(PageEncodingStats { page_type, encoding, count: 1 }),
        }
    }
}

/// Appends the definition levels of a page, behind their length.
fn levels(page: &OpenPage, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if page.levels.is_empty() {
        bits::varint((page.rows as u64) << 1, out);
        out.push(1);
    } else {
        bits::hybrid(&page.levels, 1, out);
    }
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The bytes of a chunk, in the pieces in which they came.
#[derive(Default)]
pub(crate) struct Pieces(Vec<Bytes>);

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.push(Bytes::copy_from_slice(data));
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl ChunkReader for Pieces {
    type T = PiecesReader;

    /// A chunk is copied as a whole; there is no other place to begin.
    fn get_read(&self, start: u64) -> ParquetResult<PiecesReader> {
        match start {
            0 => Ok(PiecesReader(self.0.clone().into_iter().collect())),
            _ => Err(ParquetError::General(format!("a column chunk does not begin at its byte {start}"))),
        }
    }

    fn get_bytes(&self, start: u64, _: usize) -> ParquetResult<Bytes> {
        Err(ParquetError::General(format!("a column chunk is not read at its byte {start}")))
    }
}

/// Reads them in order.
pub(crate) struct PiecesReader(std::collections::VecDeque<Bytes>);

impl Read for PiecesReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let Some(piece) = self.0.front_mut() else { return Ok(0) };
        let len = piece.len().min(into.len());
        into[..len].copy_from_slice(&piece.split_to(len));
        if piece.is_empty() {
            self.0.pop_front();
        }
        Ok(len)
    }
}
