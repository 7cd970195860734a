//! Runs a fuzz target for some time.

use anyhow::{Context, Result, bail};

use crate::run;

/// Targets with the flags that they need: limits on memory are part of what the loader is tested for.
const TARGETS: [(&str, &[&str]); 2] = [
    ("loader", &["-max_len=16384", "-malloc_limit_mb=128", "-rss_limit_mb=2048", "-timeout=20"]),
    ("scheduler", &["-max_len=2000", "-len_control=0", "-rss_limit_mb=2048", "-timeout=20"]),
];

/// Fuzzes with a target for so many seconds. What it finds lies in `fuzz/artifacts`; what it learnt is kept in
/// `fuzz/corpus`.
pub(crate) fn run(target: &str, seconds: &str) -> Result<()> {
    let Some((target, flags)) = TARGETS.into_iter().find(|(name, _)| *name == target) else {
        bail!("no fuzz target {target:?}; there are {}", TARGETS.map(|(name, _)| name).join(", "));
    };
    let seconds: u32 = seconds.parse().with_context(|| format!("{seconds:?} is no number of seconds"))?;
    if target == "loader" {
        run::cargo(&[
            "run",
            "--release",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--bin",
            "seeds",
            "fuzz/corpus/loader",
        ])?;
    }
    let mut command = run::cargo_fuzz()?;
    command.args(["run", target, "--"]).args(flags).arg(format!("-max_total_time={seconds}"));
    run::finish(command, &format!("cargo fuzz run {target}"))
}
