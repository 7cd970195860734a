//! The Python environment of the tests' clients: pinned, verified by hash, kept outside the checkout.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// The interpreter of the environment, made at the first call for these requirements.
pub(crate) fn environment() -> Result<PathBuf> {
    let requirements = run::root().join("tests/clients/requirements.txt");
    let text = std::fs::read(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let digest = blake3::hash(&text).to_hex();
    let folder = run::cache()?.join(format!("python-{}", &digest[..16]));
    let python = folder.join("bin").join("python");
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&folder);
    run::finish(venv, "python3 -m venv (needs Python 3 with its venv module)")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]);
    install.args(["--only-binary", ":all:", "-r"]).arg(&requirements);
    run::finish(install, "pip install --require-hashes")?;
    std::fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(python)
}
