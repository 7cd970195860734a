//! The sources of the cores name no clock, no sockets, no files and no threads.

use std::path::Path;

const CORES: &[&str] = &["proto/types/src", "worker/core/src", "coordinator/core/src", "router/core/src"];
const FORBIDDEN: &[&str] =
    &["std::time::Instant", "SystemTime", "Instant::now", "std::fs", "std::net", "std::thread", "std::env"];

fn scan(folder: &Path, hits: &mut Vec<String>) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += scan(&path, hits);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            hits.extend(FORBIDDEN.iter().filter(|f| code.contains(**f)).map(|f| format!("{}: {f}", path.display())));
        }
    }
    files
}

#[test]
fn cores_are_sans_io() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut hits = Vec::new();
    for core in CORES {
        assert!(scan(&root.join(core), &mut hits) > 0, "{core} has no sources");
    }
    assert!(hits.is_empty(), "{hits:#?}");
}
