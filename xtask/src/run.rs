//! Starting other programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Pinned versions of tools.
const DENY: &str = "0.20.2";
const FUZZ: &str = "0.13.2";

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
    let mut command = Command::new(tool("cargo-deny", DENY)?);
    command.args(["--workspace", "--all-features", "check", "bans", "licenses", "sources"]).current_dir(root());
    finish(command, "cargo deny check bans licenses sources")
}

/// cargo-fuzz, in the folder of the fuzz targets.
pub(crate) fn cargo_fuzz() -> Result<Command> {
    let mut command = Command::new(tool("cargo-fuzz", FUZZ)?);
    // Sanitizers are unstable flags of the compiler, which a stable one takes when it is told to.
    command.current_dir(root().join("fuzz")).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// The binary of a tool, installed unless it is there in that version.
fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let tools = cache()?.join("tools");
    let binary = tools.join("bin").join(name);
    let found = Command::new(&binary).arg("--version").output();
    if !found.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).trim().ends_with(version)) {
        let mut install = cargo_command(&["install", "--locked", "--force", name, "--version", version, "--root"]);
        install.arg(&tools);
        finish(install, &format!("cargo install {name}"))?;
    }
    Ok(binary)
}
