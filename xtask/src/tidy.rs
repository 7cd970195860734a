//! Habits that no lint knows: file lengths, headers, markers of unfinished work.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// Lines of a file without its inline tests.
const LINES_MAX: usize = 800;

/// Checks every Rust file of the workspace.
pub(crate) fn check() -> Result<()> {
    let mut files = Vec::new();
    collect(&run::root(), &mut files)?;
    let mut problems = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        problems.extend(problems_of(&text).into_iter().map(|p| format!("{}: {p}", file.display())));
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems\n{}", problems.len(), problems.join("\n"));
    }
    eprintln!("xtask: tidy: {} files", files.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn problems_of(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push("does not open with a `//!` header that says what it owns".into());
    }
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > LINES_MAX {
        problems.push(format!("{lines} lines; split it by meaning ({LINES_MAX} at most)"));
    }
    // Split so that this file does not find itself.
    for marker in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ig", "nore")] {
        if text.contains(marker) {
            problems.push(format!("contains {marker}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_header_and_with_a_marker_is_named() {
        let text = format!("fn main() {{}} // {}: later", concat!("TO", "DO"));
        assert_eq!(problems_of(&text).len(), 2);
        assert!(problems_of("//! Owns nothing.\n").is_empty());
    }
}
