//! The command line: OLake's commands and flags, and ours. Only this module prints, reads flags or ends the process.

pub mod check;
pub mod clear;
pub mod discover;
pub mod dry_run;
pub mod encrypt;
pub mod exit;
pub mod files;
pub mod log;
pub mod log_file;
pub mod preview;
pub mod report;
pub mod size;
pub mod spec;
pub mod state;
mod state_repair;
pub mod sync;

use crate::config::encryption::{self, Key};
use crate::config::expand::Lookup;
use crate::config::load::{FileKind, Text};
use crate::config::selection::{Chosen, choose};
use crate::config::streams::StreamsFile;
use crate::config::{Destination, Source};
use crate::error::{Context as _, Error, Result};
use crate::kms;
use crate::postgres::connect::ConnectOptions;
use clap::{Args, Parser, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use size::ByteSize;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use writers::Secret;

/// Brings PostgreSQL tables into a lakehouse.
///
/// discover writes streams.json, sync copies what is chosen there. Data goes to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(name = "lakeward", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the JSON schema of source.json, or of destination.json with --destination-type
    Spec,
    /// Check that source and destination can be reached with what the files say
    Check(check::CheckArgs),
    /// Look at the database and write streams.json
    Discover,
    /// Copy the chosen streams to the destination
    Sync(sync::SyncArgs),
    /// Remove the chosen streams' tables from the destination, and their entries from the state
    ClearDestination,
    /// Print the first rows of a table in the destination
    Preview(preview::PreviewArgs),
    /// Print the file of --config or --destination, encrypted with --encryption-key
    Encrypt,
    /// Show what the state file says, or repair it
    State(state::StateArgs),
}

/// Flags that every command accepts, as in OLake.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// source.json: how to reach the database
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// streams.json: which tables, and what they become
    #[arg(long, visible_alias = "streams", global = true, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// destination.json: where to write
    #[arg(long, global = true, value_name = "FILE")]
    pub destination: Option<PathBuf>,
    /// state.json to go on from; without it a sync starts anew and writes state.json beside the config
    #[arg(long, global = true, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// For spec: parquet or iceberg instead of the source
    #[arg(long, global = true, value_name = "TYPE")]
    pub destination_type: Option<String>,
    /// Do not write streams.json, state.json or stats.json beside the config, but into the temporary folder
    #[arg(long, global = true)]
    pub no_save: bool,
    /// Seconds that discover may take
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = -1, allow_negative_numbers = true)]
    pub timeout: i64,
    /// For discover: a second catalog; prints how it differs from --catalog, without connecting
    #[arg(long, global = true, value_name = "FILE")]
    pub difference: Option<PathBuf>,
    /// For discover: what destination databases start with, instead of "postgres"
    #[arg(long, global = true, value_name = "PREFIX")]
    pub destination_database_prefix: Option<String>,
    /// Key of encrypted source and destination files: a text, or the ARN of a key in AWS KMS. Other users see flags in the list of
    /// processes: the environment is a better place
    #[arg(long, global = true, value_name = "KEY", env = "LAKEWARD_ENCRYPTION_KEY", hide_env_values = true, value_parser = secret)]
    pub encryption_key: Option<Secret>,
    /// Most rows that a sync hands to the writer at a time; without it batches are cut by their bytes alone
    #[arg(long, global = true, value_name = "ROWS", value_parser = rows)]
    pub destination_buffer_size: Option<NonZeroUsize>,
    /// Accepted for compatibility, has no effect: discover asks for all tables at once
    #[arg(long, global = true, value_name = "N", hide = true)]
    pub max_discover_threads: Option<i64>,
    /// Warn about unknown keys in files instead of refusing them
    #[arg(long, global = true)]
    pub lenient: bool,
    /// Format of what is printed to stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Also write the log to logs/sync_TIME/olake.log beside the config, as JSON lines
    #[arg(long, global = true)]
    pub log_files: bool,
    /// error, warn, info, debug or trace; or a filter such as lakeward=debug
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", env = "LAKEWARD_LOG")]
    pub log_level: String,
    /// Memory that a sync may use: 512MiB, 2GB …; default a quarter of the machine or cgroup
    #[arg(long, global = true, value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
}

impl Flags {
    /// The key of encrypted files, if they are encrypted.
    fn encryption_key(&self) -> Result<Option<Key>> {
        self.encryption_key.as_ref().map_or(Ok(None), Key::parse)
    }
}

fn rows(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "expected a number of rows, 1 or more")
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Format of what is printed to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people; progress bars on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Runs the command line; the only place that decides the exit code.
pub fn main() -> ExitCode {
    keep_guarded_panics_quiet();
    let cli = Cli::parse();
    crate::memory::prepare_allocator(sync::memory_limit(&cli.flags));
    let screen = match log::start(&cli.flags) {
        Ok(screen) => screen,
        Err(error) => return fail_early(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail_early(&Error::bug(format!("start the runtime: {error}"))),
    };
    let outcome = runtime.block_on(run(cli, &screen));
    runtime.shutdown_background();
    if let Err(error) = &outcome {
        log::error(error);
    }
    screen.close();
    exit::code(&outcome)
}

/// What a damaged file makes a library do becomes an error, and is told as one.
fn keep_guarded_panics_quiet() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !writers::is_guarded() {
            print(panic);
        }
    }));
}

async fn run(cli: Cli, screen: &log::Screen) -> Result<()> {
    let Cli { flags, command } = cli;
    if flags.max_discover_threads.is_some() {
        tracing::info!("--max-discover-threads is accepted for compatibility, has no effect");
    }
    match command {
        Command::Spec => spec::run(&flags),
        Command::Check(args) => check::run(&flags, &args).await,
        Command::Discover => discover::run(&flags).await,
        Command::Sync(args) => Box::pin(sync::run(&flags, &args, screen)).await,
        Command::ClearDestination => clear::run(&flags).await,
        Command::Preview(args) => preview::run(&flags, &args).await,
        Command::Encrypt => encrypt::run(&flags).await,
        Command::State(args) => state::run(&flags, &args).await,
    }
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn fail_early(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    if let Some(advice) = error.advice() {
        eprintln!("what to do: {advice}");
    }
    ExitCode::from(exit::status(error.kind()))
}

/// Prints data to stdout, with a line end. A reader that has gone away (`| head`) has what it wanted.
pub fn print(data: &impl std::fmt::Display) {
    use std::io::Write as _;
    if let Err(error) = writeln!(std::io::stdout().lock(), "{data}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        tracing::warn!("write to stdout: {error}");
    }
}

/// Prints one of OLake's messages, which it logs as well.
fn message(message: &serde_json::Value) {
    print(message);
    tracing::info!(target: log_file::FILE_ONLY, "{message}");
}

/// Logs what was accepted without effect, once.
fn tell(notes: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}

/// `source.json`, and how to connect with it.
async fn read_source(flags: &Flags) -> Result<(Source, ConnectOptions)> {
    let path = files::required(&flags.config, "config", "source.json")?;
    let source: Source = read(flags, path, FileKind::Source).await?;
    let options = source.resolve().map_err(|error| files::about(error, FileKind::Source, path))?;
    Ok((source, options))
}

/// `destination.json`, with a writer that can work with it.
async fn read_destination(flags: &Flags) -> Result<Destination> {
    let path = files::required(&flags.destination, "destination", "destination.json")?;
    let destination: Destination = read(flags, path, FileKind::Destination).await?;
    destination.validate().map_err(|error| files::about(error, FileKind::Destination, path))?;
    Ok(destination)
}

/// Reads a file that may be encrypted.
async fn read<T: DeserializeOwned + JsonSchema>(flags: &Flags, path: &Path, kind: FileKind) -> Result<T> {
    let load = async {
        let mut text = Text::read(path)?;
        if let Some(key) = flags.encryption_key()? {
            let bytes = text.encrypted()?;
            text = text.decrypted(match &key {
                Key::Text(key) => encryption::open(&bytes, key)?,
                Key::Kms(key) => Box::pin(kms::decrypt(key, bytes)).await?,
            })?;
        }
        text.load(kind, flags.lenient, &Lookup::process())
    };
    let loaded = load.await.doing(|| format!("read {kind} file {}", path.display())).map_err(|error| files::advised(error, kind))?;
    tell(&loaded.notes);
    Ok(loaded.value)
}

/// `streams.json`.
fn read_streams(flags: &Flags, path: &Path) -> Result<StreamsFile> {
    let loaded = crate::config::load::<StreamsFile>(path, FileKind::Streams, flags.lenient);
    let loaded = loaded.map_err(|error| files::advised(error, FileKind::Streams))?;
    tell(&loaded.notes);
    Ok(loaded.value)
}

/// The streams that `streams.json` chooses; where they go may have a say in what they are called.
fn read_chosen(flags: &Flags, destination: Option<&Destination>) -> Result<Vec<Chosen>> {
    let path = files::streams(flags);
    choose(&read_streams(flags, &path)?, destination.and_then(Destination::database))
        .map_err(|error| files::about(error, FileKind::Streams, &path))
}
