//! The script of [`super`], as tests run it.

use crate::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fail,
    Refuse,
    Crash,
    Hang,
    Slow(Duration),
    Cut,
    Junk,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    step: String,
    /// The times at which it acts, from 1.
    from: usize,
    to: usize,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    trace: Option<File>,
    reached: Mutex<HashMap<&'static str, usize>>,
}

/// A script that cannot be read must not pass for one without faults.
fn script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        let rules = std::env::var("LAKEWARD_FAULTS").unwrap_or_default();
        let trace = std::env::var_os("LAKEWARD_FAULTS_TRACE");
        Script {
            rules: rules.split(';').map(str::trim).filter(|rule| !rule.is_empty()).map(parse).collect(),
            trace: trace.map(|path| File::options().create(true).append(true).open(path).expect("open the trace of faults")),
            reached: Mutex::default(),
        }
    })
}

fn parse(rule: &str) -> Rule {
    let parsed = || {
        let (when, fault) = rule.split_once('=')?;
        let (step, times) = when.split_once('#')?;
        let (from, to) = match times.strip_suffix("..") {
            Some(from) => (from.parse().ok()?, usize::MAX),
            None => (times.parse().ok()?, times.parse().ok()?),
        };
        let fault = match fault.split_once(':') {
            Some(("slow", pause)) => Fault::Slow(Duration::from_millis(pause.parse().ok()?)),
            Some(_) => return None,
            None => match fault {
                "fail" => Fault::Fail,
                "refuse" => Fault::Refuse,
                "crash" => Fault::Crash,
                "hang" => Fault::Hang,
                "cut" => Fault::Cut,
                "junk" => Fault::Junk,
                _ => return None,
            },
        };
        Some(Rule { step: step.to_owned(), from, to, fault })
    };
    parsed().unwrap_or_else(|| panic!("LAKEWARD_FAULTS: `{rule}` is not STEP#N=FAULT"))
}

impl Script {
    /// Counts the step, and says what is to happen.
    fn meet(&self, name: &'static str) -> Option<Fault> {
        if self.rules.is_empty() && self.trace.is_none() {
            return None;
        }
        let times = {
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            let times = reached.entry(name).or_default();
            *times += 1;
            *times
        };
        if let Some(mut trace) = self.trace.as_ref() {
            // One write, so that lines of several threads do not mix.
            trace.write_all(format!("{name}\n").as_bytes()).expect("write the trace of faults");
        }
        let fault = self.rules.iter().find(|rule| rule.step == name && (rule.from..=rule.to).contains(&times))?.fault;
        if fault == Fault::Crash {
            // Nothing is flushed, dropped or said: as `kill -9`.
            std::process::abort();
        }
        Some(fault)
    }
}

fn failed(name: &str, fault: Fault) -> Result<()> {
    let error = Error::new(Kind::Storage, format!("the step {name} was made to fail by a script of faults"));
    match fault {
        Fault::Fail => Err(error.transient()),
        Fault::Refuse => Err(error),
        _ => Ok(()),
    }
}

/// Reaches a step on a thread that may block.
pub fn step(name: &'static str) -> Result<()> {
    let Some(fault) = script().meet(name) else { return Ok(()) };
    match fault {
        Fault::Slow(pause) => std::thread::sleep(pause),
        Fault::Hang => loop {
            std::thread::park();
        },
        _ => {}
    }
    failed(name, fault)
}

/// Reaches a step in a task.
pub async fn reach(name: &'static str) -> Result<()> {
    let Some(fault) = script().meet(name) else { return Ok(()) };
    match fault {
        Fault::Slow(pause) => tokio::time::sleep(pause).await,
        Fault::Hang => std::future::pending().await,
        _ => {}
    }
    failed(name, fault)
}

/// What a step gives that reads: the front half (`cut`), or as many other bytes (`junk`).
pub(crate) fn bytes(name: &'static str, bytes: Bytes) -> Bytes {
    match script().meet(name) {
        Some(Fault::Cut) => bytes.slice(..bytes.len() / 2),
        Some(Fault::Junk) => (0..bytes.len()).map(|at| (at.wrapping_mul(167) >> 3) as u8).collect::<Vec<_>>().into(),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_a_list_of_steps() {
        let rule = |from, to, fault| Rule { step: "storage.put".into(), from, to, fault };
        assert_eq!(parse("storage.put#3=fail"), rule(3, 3, Fault::Fail));
        assert_eq!(parse("storage.put#2..=slow:250"), rule(2, usize::MAX, Fault::Slow(Duration::from_millis(250))));
        for wrong in ["storage.put=fail", "storage.put#x=fail", "storage.put#1=explode", "storage.put#1=slow"] {
            assert!(std::panic::catch_unwind(|| parse(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_acts_at_its_time() {
        let script = Script { rules: vec![parse("a#2=fail"), parse("b#2..=refuse")], ..Script::default() };
        let met: Vec<_> = (0..3).map(|_| script.meet("a")).collect();
        assert_eq!(met, [None, Some(Fault::Fail), None]);
        let met: Vec<_> = (0..3).map(|_| script.meet("b")).collect();
        assert_eq!(met, [None, Some(Fault::Refuse), Some(Fault::Refuse)]);
    }
}
