//! Progress and summary of a sync: bars on a terminal, lines elsewhere, `stats.json` beside the config.

use super::LogFormat;
use super::log::Screen;
use super::log_file::{FILE_ONLY, STDERR_ONLY};
use super::size::{bytes, count};
use crate::error::Result;
use crate::memory::resident_bytes;
use crate::state::file::write_atomically;
use crate::sync::meter::{Meter, Phase};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use writers::Stats;

/// Bars shown at once; the rest is counted in the last line.
const BARS: usize = 12;
/// Interval of bars, of plain lines, and of `stats.json` (OLake's).
const BAR_INTERVAL: Duration = Duration::from_millis(150);
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const STATS_INTERVAL: Duration = Duration::from_secs(2);

/// Watches a run and tells about it.
#[derive(Debug)]
pub struct Report {
    screen: Screen,
    meters: Vec<Arc<Meter>>,
    bars: Vec<(usize, ProgressBar)>,
    total: ProgressBar,
    stats: PathBuf,
    readers: usize,
    started: Instant,
    cpu: CpuClock,
}

/// What this process took of its processors since it was last asked.
#[derive(Debug)]
struct CpuClock {
    cores: f64,
    wall: Instant,
    cpu: Duration,
}

impl CpuClock {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Self { cores, wall: Instant::now(), cpu: process_time() }
    }

    /// From 0, idle, to 1, all of them; four decimals, as OLake has it.
    fn utilization(&mut self) -> f64 {
        let (wall, cpu) = (Instant::now(), process_time());
        let share = share(cpu.saturating_sub(self.cpu), wall - self.wall, self.cores);
        (self.wall, self.cpu) = (wall, cpu);
        share
    }
}

fn share(used: Duration, wall: Duration, cores: f64) -> f64 {
    let offered = wall.as_secs_f64() * cores;
    if offered > 0.0 { ((used.as_secs_f64() / offered).min(1.0) * 10_000.0).round() / 10_000.0 } else { 0.0 }
}

/// User and system time of all threads of this process.
fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Report {
    /// A report on `meters`.
    pub fn new(screen: &Screen, meters: Vec<Arc<Meter>>, stats: PathBuf, readers: usize) -> Self {
        let total = screen.bars.add(ProgressBar::new_spinner());
        total.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { screen: screen.clone(), meters, bars: Vec::new(), total, stats, readers, started: Instant::now(), cpu: CpuClock::start() }
    }

    /// Tells until it is dropped or aborted.
    pub async fn watch(&mut self) {
        let mut lines = Instant::now();
        let mut stats = Instant::now();
        loop {
            tokio::time::sleep(BAR_INTERVAL).await;
            if self.screen.interactive {
                self.draw();
            } else if lines.elapsed() >= LINE_INTERVAL {
                lines = Instant::now();
                tracing::info!("{}", self.line());
            }
            if stats.elapsed() >= STATS_INTERVAL {
                stats = Instant::now();
                if let Err(error) = self.write_stats() {
                    tracing::warn!("{error}");
                }
            }
        }
    }

    fn draw(&mut self) {
        let style = ProgressStyle::with_template("{prefix:32!} {bar:24} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bars.retain(|(index, bar)| {
            let active = matches!(self.meters[*index].phase(), Phase::Reading | Phase::Committing);
            if !active {
                bar.finish_and_clear();
            }
            active
        });
        for (index, meter) in self.meters.iter().enumerate() {
            if self.bars.len() >= BARS {
                break;
            }
            if matches!(meter.phase(), Phase::Reading | Phase::Committing) && !self.bars.iter().any(|(i, _)| *i == index) {
                let bar = self.screen.bars.insert_before(&self.total, ProgressBar::new(1));
                bar.set_style(style.clone());
                bar.set_prefix(meter.id.clone());
                self.bars.push((index, bar));
            }
        }
        for (index, bar) in &self.bars {
            let meter = &self.meters[*index];
            bar.set_length(meter.chunks_planned.load(Relaxed).max(1));
            bar.set_position(meter.chunks_done.load(Relaxed));
            bar.set_message(describe(meter));
        }
        self.total.set_message(self.line());
    }

    fn line(&self) -> String {
        let sum = |counter: fn(&Meter) -> u64| self.meters.iter().map(|m| counter(m)).sum::<u64>();
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let read = sum(|m| m.bytes_read.load(Relaxed));
        format!(
            "{} of {} streams done, {} rows, {} at {}/s, {:.0} s",
            self.meters.iter().filter(|m| m.phase() == Phase::Done).count(),
            self.meters.len(),
            count(sum(|m| m.rows_read.load(Relaxed))),
            bytes(read),
            bytes((read as f64 / seconds) as u64),
            seconds
        )
    }

    /// Writes `stats.json` with OLake's keys, and ours under `streams`.
    ///
    /// Memory and CPU are those of this process, where OLake has the whole machine's: memory is what is resident, CPU the share of the
    /// processors that it may run on which it used since the last writing.
    pub fn write_stats(&mut self) -> Result<()> {
        let rows: u64 = self.meters.iter().map(|m| m.rows_read.load(Relaxed)).sum();
        let read: u64 = self.meters.iter().map(|m| m.bytes_read.load(Relaxed)).sum();
        let estimated: u64 = self.meters.iter().map(|m| m.rows_estimated.load(Relaxed).max(m.rows_read.load(Relaxed))).sum();
        let seconds = self.started.elapsed().as_secs_f64();
        let speed = rows as f64 / seconds.max(0.001);
        let remaining = match speed > 0.0 {
            true => format!("{:.2} s", estimated.saturating_sub(rows) as f64 / speed),
            false => "Not Determined".to_owned(),
        };
        let streams: Vec<_> = self.meters.iter().map(|m| stream_stats(m)).collect();
        let value = json!({
            "Writer Threads": self.readers, "Synced Records": rows, "Bytes Read": read, "Speed": format!("{speed:.2} rps"),
            "Seconds Elapsed": format!("{seconds:.2}"), "Estimated Remaining Time": remaining,
            "Memory Usage Bytes": resident_bytes(), "CPU Utilization": self.cpu.utilization(), "streams": streams,
        });
        write_atomically(&self.stats, format!("{value:#}\n").as_bytes())
    }

    /// Ends the bars and tells what landed: per stream rows, files, bytes, seconds.
    pub fn finish(&mut self) {
        for (_, bar) in self.bars.drain(..) {
            bar.finish_and_clear();
        }
        self.total.finish_and_clear();
        let streams = json!(self.meters.iter().map(|m| stream_stats(m)).collect::<Vec<_>>());
        match self.screen.format {
            LogFormat::Text => self.screen.say(&self.summary()),
            LogFormat::Json => tracing::info!(target: STDERR_ONLY, %streams, "summary"),
        }
        tracing::info!(target: FILE_ONLY, %streams, "{}", self.summary().trim());
        // Every row is where it should be; that nobody can read about it here must not make the run fail.
        if let Err(error) = self.write_stats() {
            tracing::warn!("{error}");
        }
    }

    fn summary(&self) -> String {
        let width = self.meters.iter().map(|m| m.id.chars().count()).max().unwrap_or(6).clamp(6, 60);
        let mut total = Stats::default();
        let mut text = format!("\n{:width$} {:>14} {:>7} {:>10} {:>9}\n", "stream", "rows", "files", "bytes", "seconds");
        let mut row = |name: &str, stats: Stats, elapsed: Duration| {
            let (rows, size, seconds) = (count(stats.rows), bytes(stats.bytes), elapsed.as_secs_f64());
            text.push_str(&format!("{name:width$} {rows:>14} {:>7} {size:>10} {seconds:>9.2}\n", stats.files));
        };
        for meter in self.meters.iter().filter(|m| m.phase() == Phase::Done) {
            total += meter.stats();
            row(&meter.id, meter.stats(), meter.elapsed());
        }
        row("total", total, self.started.elapsed());
        for meter in self.meters.iter().filter(|m| m.phase() != Phase::Done) {
            let (done, planned) = (meter.chunks_done.load(Relaxed), meter.chunks_planned.load(Relaxed));
            match meter.failure() {
                Some((_, reason, _)) => text.push_str(&format!("{} failed: {reason}\n", meter.id)),
                None => text.push_str(&format!("{} is not finished: {done} of {planned} chunks staged\n", meter.id)),
            }
        }
        text
    }
}

fn describe(meter: &Meter) -> String {
    let rows = meter.rows_read.load(Relaxed);
    let seconds = meter.elapsed().as_secs_f64().max(0.001);
    let speed = bytes((meter.bytes_read.load(Relaxed) as f64 / seconds) as u64);
    let estimated = meter.rows_estimated.load(Relaxed);
    let eta = match rows > 0 && estimated > rows {
        true => format!(", ETA {:.0} s", (estimated - rows) as f64 / (rows as f64 / seconds)),
        false => String::new(),
    };
    match meter.phase() {
        Phase::Committing => "committing".to_owned(),
        _ => format!("{} rows, {speed}/s{eta}", count(rows)),
    }
}

fn stream_stats(meter: &Meter) -> serde_json::Value {
    let stats = meter.stats();
    json!({
        "stream": meter.id, "status": format!("{:?}", meter.phase()).to_lowercase(), "rows_read": meter.rows_read.load(Relaxed),
        "bytes_read": meter.bytes_read.load(Relaxed), "chunks": meter.chunks_planned.load(Relaxed), "chunks_done": meter.chunks_done.load(Relaxed),
        "chunks_kept": meter.chunks_kept.load(Relaxed), "rows": stats.rows, "files": stats.files, "bytes": stats.bytes,
        "seconds": (meter.elapsed().as_secs_f64() * 1000.0).round() / 1000.0, "error": meter.failure().map(|(_, message, _)| message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_processors() {
        let check = |used, wall, cores, expected: f64| {
            assert_eq!(share(Duration::from_millis(used), Duration::from_millis(wall), cores), expected, "{used} in {wall} on {cores}");
        };
        check(0, 2000, 4.0, 0.0);
        check(1000, 2000, 2.0, 0.25);
        check(2000, 2000, 3.0, 0.3333);
        check(2000, 1000, 2.0, 1.0);
        // A container may run on more processors than it is allowed in the long run.
        check(5000, 1000, 2.0, 1.0);
        check(1, 0, 1.0, 0.0);
    }

    #[test]
    fn the_time_of_this_process_passes_while_it_works() {
        let mut clock = CpuClock::start();
        while process_time() <= clock.cpu + Duration::from_millis(20) {}
        assert!(clock.utilization() > 0.0);
    }
}
