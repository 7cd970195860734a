//! Builds only from a bundled model that is whole: otherwise says which file is not, and how to get it back.

use std::path::Path;

#[path = "src/bundled/sums.rs"]
mod sums;

const FOLDER: &str = "../models/sample";
const RESTORE: &str = "restore it with `git checkout -- models/sample`, or put a checkpoint of your own there with \
                       `cargo xtask sample-model FOLDER`";

fn main() {
    let folder = Path::new(FOLDER);
    println!("cargo::rerun-if-changed={FOLDER}/SUMS");
    let Ok(sums) = std::fs::read_to_string(folder.join("SUMS")) else {
        println!("cargo::error=models/sample/SUMS cannot be read; {RESTORE}");
        return;
    };
    for name in sums::NAMES {
        println!("cargo::rerun-if-changed={FOLDER}/{name}");
    }
    if let Err(damage) = sums::check(&sums, sums::NAMES, |name| std::fs::read(folder.join(name)).ok()) {
        println!("cargo::error=models/sample/{damage}; {RESTORE}");
    }
}
