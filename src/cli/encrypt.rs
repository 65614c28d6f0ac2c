//! `encrypt`: a source or destination file as the encrypted string that OLake and we read with `--encryption-key`.

use super::Flags;
use crate::config::encryption::{self, Key};
use crate::config::load::{FileKind, Text};
use crate::error::{Context, Error, Result};
use crate::kms;
use std::path::Path;

/// Prints the file of `--config` or `--destination`, encrypted. The text stays as it is, `${…}` included.
pub async fn run(flags: &Flags) -> Result<()> {
    let (kind, path) = match (&flags.config, &flags.destination) {
        (Some(path), None) => (FileKind::Source, path),
        (None, Some(path)) => (FileKind::Destination, path),
        _ => {
            return Err(Error::config("encrypt takes one file: --config or --destination")
                .hint("encrypt each with a command of its own, and send what is printed into a file"));
        }
    };
    let key = flags.encryption_key()?.ok_or_else(|| {
        Error::config("--encryption-key is missing").hint("give a text or the ARN of a key in AWS KMS, best in LAKEWARD_ENCRYPTION_KEY")
    })?;
    let sealed = encrypted(&key, kind, path).await.doing(|| format!("encrypt {kind} file {}", path.display()))?;
    super::print(&encryption::file(&sealed));
    Ok(())
}

async fn encrypted(key: &Key, kind: FileKind, path: &Path) -> Result<Vec<u8>> {
    let text = Text::read(path)?.plain(kind)?;
    match key {
        Key::Text(key) => encryption::seal(text.as_bytes(), key),
        Key::Kms(key) => Box::pin(kms::encrypt(key, text.into_bytes())).await,
    }
}
