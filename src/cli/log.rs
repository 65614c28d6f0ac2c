//! Talk: log lines on stderr, as text or JSON, and the screen that progress bars share with them.

use super::{Flags, LogFormat};
use crate::error::{Error, Result};
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{IsTerminal, Write, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Where bars are drawn; log lines go above them.
#[derive(Clone, Debug)]
pub struct Screen {
    /// The bars.
    pub bars: MultiProgress,
    /// Whether somebody watches: stderr is a terminal and the format is text.
    pub interactive: bool,
    /// How log lines are written.
    pub format: LogFormat,
}

impl Screen {
    /// Says something to people, without time and level.
    pub fn say(&self, text: &str) {
        // Nobody is left to tell that stderr is gone.
        let _ = Line { screen: self }.write_all(text.as_bytes());
    }
}

/// Starts logging.
pub fn start(flags: &Flags) -> Result<Screen> {
    let interactive = stderr().is_terminal() && flags.log_format == LogFormat::Text;
    let target = if interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let screen = Screen { bars: MultiProgress::with_draw_target(target), interactive, format: flags.log_format };
    let level = match flags.log_level.as_str() {
        "error" | "warn" | "info" | "debug" | "trace" => format!("warn,lakeward={0},writers={0}", flags.log_level),
        filter => filter.to_owned(),
    };
    let filter = EnvFilter::try_new(&level).map_err(|e| Error::config(format!("--log-level {:?}: {e}", flags.log_level)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen.clone());
    match flags.log_format {
        LogFormat::Text => builder.with_target(false).with_ansi(interactive).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
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
