//! Batches that do not fit in memory, on the local disk.
//!
//! The files have no names: whatever happens to the process, their room is free when it is gone. They are in the folder that the environment
//! variable TMPDIR names.

use crate::error::{Error, Kind, Result};
use crate::faults;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek};
use std::path::Path;

/// Batches that are being written.
pub(crate) struct Spill(FileWriter<BufWriter<File>>);

/// Batches that were written; gives them one after the other.
pub(crate) struct Spilt(FileReader<BufReader<File>>);

impl Spill {
    /// An empty file in `folder`, for batches of one schema.
    pub(crate) fn new(folder: &Path, schema: &Schema) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(trouble)?;
        FileWriter::try_new(BufWriter::new(file), schema).map(Self).map_err(trouble)
    }

    /// Appends a batch.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        faults::step("spill.write")?;
        self.0.write(batch).map_err(trouble)
    }

    /// Everything that was written, from its beginning.
    pub(crate) fn read(mut self) -> Result<Spilt> {
        self.0.finish().map_err(trouble)?;
        let mut file = self.0.into_inner().map_err(trouble)?.into_inner().map_err(|e| trouble(e.into_error()))?;
        file.rewind().map_err(trouble)?;
        FileReader::try_new(BufReader::new(file), None).map(Spilt).map_err(trouble)
    }
}

impl Spilt {
    /// How many batches there are.
    pub(crate) fn len(&self) -> usize {
        self.0.num_batches()
    }

    /// Goes to batch number `index`.
    pub(crate) fn seek(&mut self, index: usize) -> Result<()> {
        self.0.set_index(index).map_err(trouble)
    }

    /// The next batch, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.0.next().transpose().map_err(trouble)
    }
}

fn trouble(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Storage, format!("cannot keep rows for a while in {}", std::env::temp_dir().display()))
        .because(e)
        .hint("make room there, or name another folder with the environment variable TMPDIR")
}
