//! Replaces the bundled model: copies the files that `models/sample/SUMS` names, renews their sums, and has the binary's
//! own tests open the result.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::run;

/// Puts the checkpoint of `folder` into `models/sample`.
pub(crate) fn replace(folder: &Path) -> Result<()> {
    let target = run::root().join("models/sample");
    let sums = target.join("SUMS");
    let old = std::fs::read_to_string(&sums).with_context(|| format!("cannot read {}", sums.display()))?;
    // All is read before anything is written: a folder that lacks a file changes nothing.
    let mut files = Vec::new();
    for name in old.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| name) {
        let path = folder.join(name);
        files.push((name, std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?));
    }
    let mut new = String::new();
    for (name, bytes) in &files {
        let path = target.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(new, "{}  {name}", blake3::hash(bytes).to_hex())?;
    }
    std::fs::write(&sums, new).with_context(|| format!("cannot write {}", sums.display()))?;
    let tested = run::cargo(&["test", "--locked", "-p", "hadal", "--bin", "hadal", "bundled"]);
    tested.with_context(|| {
        format!("{} is no model to bundle; `git checkout -- models/sample` restores the one before", folder.display())
    })
}
