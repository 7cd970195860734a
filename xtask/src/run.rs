//! Starting other programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// cargo-deny's pinned version.
const DENY: &str = "0.20.2";

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// Where tools are kept between runs, outside the checkout.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("HADAL_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither HADAL_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache").join("hadal"))
}

/// Cargo in the root of the checkout.
pub(crate) fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs cargo and fails if it does.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    finish(cargo_command(arguments), &format!("cargo {}", arguments.join(" ")))
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command, what: &str) -> Result<()> {
    eprintln!("xtask: {what}");
    let status = command.status().with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    Ok(())
}

/// Licences, sources and duplicate versions. Advisories need their database, which is fetched from the network:
/// `cargo deny check advisories` is for a connected machine.
pub(crate) fn deny() -> Result<()> {
    let tools = cache()?.join("tools");
    let binary = tools.join("bin").join("cargo-deny");
    let version = Command::new(&binary).arg("--version").output();
    let have = version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).trim().ends_with(DENY));
    if !have {
        let mut install = cargo_command(&["install", "--locked", "--force", "cargo-deny", "--version", DENY, "--root"]);
        install.arg(&tools);
        finish(install, "cargo install cargo-deny")?;
    }
    let mut command = Command::new(binary);
    command.args(["--workspace", "--all-features", "check", "bans", "licenses", "sources"]).current_dir(root());
    finish(command, "cargo deny check bans licenses sources")
}
