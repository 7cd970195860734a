//! The dependency graph of the workspace is what ARCHITECTURE.md says.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each crate may use (directly), tests aside.
const ALLOWED: &[(&str, &[&str])] = &[
    ("hadal-types", &[]),
    ("hadal-proto", &["hadal-types"]),
    ("hadal-shell", &["hadal-proto", "hadal-types"]),
    ("hadal-kernels", &["hadal-types"]),
    ("hadal-model", &["hadal-kernels", "hadal-types"]),
    ("hadal-worker-core", &["hadal-types"]),
    ("hadal-coordinator-core", &["hadal-types"]),
    ("hadal-router-core", &["hadal-types"]),
    ("hadal-transfer", &["hadal-shell", "hadal-types"]),
    (
        "hadal-worker",
        &[
            "hadal-kernels",
            "hadal-model",
            "hadal-proto",
            "hadal-shell",
            "hadal-transfer",
            "hadal-types",
            "hadal-worker-core",
        ],
    ),
    ("hadal-coordinator", &["hadal-coordinator-core", "hadal-proto", "hadal-shell", "hadal-types"]),
    ("hadal-router", &["hadal-proto", "hadal-router-core", "hadal-shell", "hadal-types"]),
    (
        "hadal",
        &[
            "hadal-coordinator",
            "hadal-kernels",
            "hadal-model",
            "hadal-proto",
            "hadal-router",
            // `hadal check` tokenises a text as a router does.
            "hadal-router-core",
            "hadal-shell",
            "hadal-types",
            "hadal-worker",
        ],
    ),
];

/// Crates that no core may reach, however indirectly: they do IO, keep time or draw randomness.
const NOT_IN_CORES: &[&str] = &[
    "tokio",
    "tonic",
    "prost",
    "hyper",
    "axum",
    "mio",
    "socket2",
    "kube",
    "etcd-client",
    "tracing-subscriber",
    "memmap2",
];

const CORES: &[&str] = &["hadal-types", "hadal-worker-core", "hadal-coordinator-core", "hadal-router-core"];

struct Graph {
    /// Crate name to the names of what it is built with, dev-dependencies left out.
    uses: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

fn graph() -> Graph {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    let members = metadata["workspace_members"].as_array().unwrap().iter().map(|id| names[&text(id)].clone()).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let entry = uses.entry(names[&text(&node["id"])].clone()).or_default();
        for dep in node["deps"].as_array().unwrap() {
            let normal = dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
            if normal {
                entry.insert(names[&text(&dep["pkg"])].clone());
            }
        }
    }
    Graph { uses, members }
}

impl Graph {
    fn reach(&self, from: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut left = vec![from.to_owned()];
        while let Some(name) = left.pop() {
            for next in self.uses.get(&name).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
        seen
    }
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let graph = graph();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for name in graph.members.iter().filter(|n| *n != "hadal-tests" && *n != "xtask") {
        let may = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} has no line in ALLOWED: add it here and in ARCHITECTURE.md"));
        for used in graph.uses[name].iter().filter(|u| graph.members.contains(*u)) {
            assert!(may.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn cores_reach_no_io_clock_or_async() {
    let graph = graph();
    for core in CORES {
        let reach = graph.reach(core);
        for bad in NOT_IN_CORES {
            assert!(!reach.contains(*bad), "{core} reaches {bad}");
        }
    }
}

#[test]
fn the_graph_is_read_at_all() {
    // Guards the two tests above against a metadata format that they no longer understand.
    let graph = graph();
    assert!(graph.reach("hadal-proto").contains("tonic"));
    assert!(graph.uses["hadal-model"].contains("hadal-kernels"));
}
