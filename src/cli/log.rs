//! Talk: log lines on stderr, as text or JSON, the screen that progress bars share with them, and the log file if one is wanted.

use super::log_file::{FILE_ONLY, LogFile};
use super::{Flags, LogFormat, files};
use crate::error::{Error, Result};
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{IsTerminal, Write, stderr};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

/// Where bars are drawn; log lines go above them.
#[derive(Clone, Debug)]
pub struct Screen {
    /// The bars.
    pub bars: MultiProgress,
    /// Whether somebody watches: stderr is a terminal and the format is text.
    pub interactive: bool,
    /// How log lines are written.
    pub format: LogFormat,
    /// Where they are written as well.
    file: Option<LogFile>,
}

impl Screen {
    /// Says something to people, without time and level.
    pub fn say(&self, text: &str) {
        // Nobody is left to tell that stderr is gone.
        let _ = Line { screen: self }.write_all(text.as_bytes());
    }

    /// Ends the log file.
    pub fn close(&self) {
        if let Some(file) = &self.file {
            file.close();
        }
    }
}

/// Starts logging.
pub fn start(flags: &Flags) -> Result<Screen> {
    let interactive = stderr().is_terminal() && flags.log_format == LogFormat::Text;
    let target = if interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let file = if flags.log_files { Some(LogFile::create(&files::logs_output(flags))?) } else { None };
    let screen = Screen { bars: MultiProgress::with_draw_target(target), interactive, format: flags.log_format, file };
    let level = match flags.log_level.as_str() {
        "error" | "warn" | "info" | "debug" | "trace" => format!("warn,lakeward={0},writers={0}", flags.log_level),
        filter => filter.to_owned(),
    };
    let filter = EnvFilter::try_new(&level).map_err(|e| Error::config(format!("--log-level {:?}: {e}", flags.log_level)))?;
    let lines = fmt::layer().with_writer(screen.clone());
    let lines = match flags.log_format {
        LogFormat::Text => lines.with_target(false).with_ansi(interactive).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(filter_fn(|meta| meta.target() != FILE_ONLY));
    let all = registry().with(filter).with(lines).with(screen.file.clone());
    tracing::subscriber::set_global_default(all).map_err(|e| Error::bug(format!("start logging: {e}")))?;
    Ok(screen)
}

/// Says why the command failed, in one line, and what to do, in the next.
pub fn error(error: &Error) {
    tracing::error!(kind = ?error.kind(), "{error}");
    if let Some(advice) = error.advice() {
        tracing::error!("what to do: {advice}");
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { screen: self }
    }
}

/// Writes a log line above the bars.
#[derive(Debug)]
pub struct Line<'a> {
    screen: &'a Screen,
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        match self.screen.interactive {
            true => self.screen.bars.suspend(|| stderr().write_all(text))?,
            false => stderr().write_all(text)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        stderr().flush()
    }
}
