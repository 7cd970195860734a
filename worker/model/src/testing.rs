//! Golden checkpoints for tests, and copies that a test may damage.

use std::path::{Path, PathBuf};

/// A golden folder.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// A copy of one, golden data included.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("golden")).unwrap();
    for folder in ["", "golden"] {
        for entry in std::fs::read_dir(golden(name).join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let bytes = std::fs::read(entry.path()).unwrap();
                std::fs::write(dir.path().join(folder).join(entry.file_name()), bytes).unwrap();
            }
        }
    }
    dir
}
