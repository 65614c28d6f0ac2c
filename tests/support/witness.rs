//! A reader that we did not write (DuckDB), kept running: a test that looks a hundred times does not start it a hundred times.

use super::readback::python_program;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The reader. It ends when dropped.
pub struct Witness {
    child: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
}

impl Witness {
    /// Starts it.
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/witness.py");
        let program = python_program();
        let spawned = Command::new(&program).args(["-B", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("start {}: {e}; ./build.sh test prepares it", program.display()));
        let asks = child.stdin.take();
        let says = BufReader::new(child.stdout.take().expect("a standard output"));
        Self { child, asks, says }
    }

    /// The rows of a query (`witness.py` says what a question is), or what is wrong.
    pub fn ask(&mut self, question: &Value) -> Result<Value, String> {
        let asks = self.asks.as_mut().expect("it runs");
        writeln!(asks, "{question}").and_then(|()| asks.flush()).expect("ask the reader");
        let mut answer = String::new();
        self.says.read_line(&mut answer).expect("hear the reader");
        let answer: Value = serde_json::from_str(&answer).expect("the reader answers JSON");
        match answer.get("error") {
            Some(error) => Err(format!("{} (asked: {question})", error.as_str().unwrap_or_default())),
            None => Ok(answer),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        drop(self.asks.take());
        let _ = self.child.wait();
    }
}
