//! `cargo test` of many crates, with one line at the end that adds up what all of them said.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Adds what a line says, if it ends the tests of a target.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let before = result.split(what).next().unwrap_or_default();
            before.trim_end().rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default()
        };
        self.passed += count(" passed;");
        self.failed += count(" failed;");
    }
}

/// Runs tests, shows what they print, and closes with the sum.
pub(crate) fn finish(mut command: Command) -> Result<()> {
    eprintln!("xtask: cargo test");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("the output of cargo test cannot be read")?;
            // A failing test may print anything.
            let line = String::from_utf8_lossy(&line);
            counts.add(&line);
            println!("{line}");
        }
    }
    let status = child.wait().context("cargo test cannot be waited for")?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if !status.success() {
        bail!("cargo test: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up_and_other_lines_are_not() {
        let mut counts = Counts::default();
        for line in [
            "test result: ok. 17 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test name ... ok",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 5.31s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 27, failed: 2 });
    }
}
