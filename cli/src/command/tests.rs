//! The command line as a whole, and docs/configuration.md, which is made from it.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, ArgAction, Command as Clap};

use super::*;

fn read(args: &[&str]) -> Result<Cli, String> {
    Cli::read(std::iter::once("hadal").chain(args.iter().copied()).map(OsString::from).collect())
        .map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn every_command_and_flag_has_help() {
    let definition = definition();
    for command in definition.get_subcommands().flat_map(|c| c.get_subcommands().chain([c])) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
        }
    }
}

#[test]
fn flags_of_the_other_engine_are_refused() {
    let error = read(&["worker", "--sim-step", "1ms"]).unwrap_err();
    assert!(error.contains("--sim-step has no effect without --engine sim"), "{error}");
    let error = read(&["worker", "--engine", "sim", "--kv", "fp8"]).unwrap_err();
    assert!(error.contains("--kv has no effect without --engine model"), "{error}");
    read(&["worker", "--engine", "sim", "--sim-step", "1ms"]).unwrap();
    read(&["worker", "--kv", "fp8"]).unwrap();
}

#[test]
fn tls_takes_all_its_files() {
    let error = read(&["router", "--tls-cert", "x.pem"]).unwrap_err();
    assert!(error.contains("--tls-key") && error.contains("--tls-ca"), "{error}");
}

#[test]
fn wrong_values_name_the_choices() {
    let error = read(&["up", "--dtype", "fp16"]).unwrap_err();
    assert!(error.contains("--dtype") && error.contains("f32, bf16"), "{error}");
    let error = read(&["worker", "--role", "both"]).unwrap_err();
    assert!(error.contains("prefill") && error.contains("decode") && error.contains("mixed"), "{error}");
    assert!(read(&["up", "--decode", "0"]).is_err());
    let error = read(&["up", "--served-model-name", "a=b"]).unwrap_err();
    assert!(error.contains("the new name alone"), "{error}");
}

const INTRODUCTION: &str = "\
# Configuration

Every command takes flags, and `hadal COMMAND --help` explains them. The parts (`up`, `router`, `coordinator`, `worker`)
also take `--config FILE`: a TOML file that writes the same flags down. Flags on the command line override the file. A
key that no flag has is refused with its path, and so is a value that the flag does not take.

```toml
# worker.toml: hadal worker --config worker.toml
role = \"decode\"
model = \"/models/DeepSeek-V3.2-Exp\"
coordinator = \"coordinator:8002\"
grpc = \"0.0.0.0:8003\"
kv = \"fp8\"
kv_memory = \"64GiB\"

[tls]                    # a table is a prefix: --tls-cert, --tls-key, --tls-ca
cert = \"/tls/worker.pem\"
key = \"/tls/worker.key\"
ca = \"/tls/ca.pem\"
```

Sizes are numbers with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB; durations are numbers with us, ms, s, m or h.

## Several machines

Internal listeners (the coordinator's and the workers' gRPC, the KV plane, metrics of coordinator and worker) bind to
loopback only, unless TLS is configured or `--insecure` says that everything on the network is trusted. With TLS both
sides are authenticated: every part has a certificate signed by the authority in `--tls-ca`, and a listener's
certificate bears the name or address that the others dial, or the one name that all parts are given as `--tls-name`.

This page is made from the commands' definitions; `UPDATE=1 cargo test -p hadal` renews it.
";

fn default_of(arg: &Arg) -> String {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return "false".to_owned();
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    if values.is_empty() { String::new() } else { format!("`{}`", values.join(",")) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn table(command: &Clap) -> String {
    let mut text = String::from("\n| flag | key | default | |\n| --- | --- | --- | --- |\n");
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long().filter(|long| *long != "help") else { continue };
        let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
        let value = value.map_or_else(String::new, |names| format!(" {}", one_line(&names.join(" "))));
        let key = if config::keys(command).any(|a| a.get_id() == arg.get_id()) {
            format!("`{}`", long.replace('-', "_"))
        } else {
            String::new()
        };
        let help = arg.get_help().map(|h| one_line(&h.to_string())).unwrap_or_default();
        let _ = writeln!(text, "| `--{long}{value}` | {key} | {} | {help} |", default_of(arg));
    }
    text
}

fn page() -> String {
    let definition = definition();
    let mut text = INTRODUCTION.to_owned();
    for name in ["up", "router", "coordinator", "worker"] {
        let command = definition.find_subcommand(name).unwrap();
        let _ = write!(text, "\n## hadal {name}\n\n{}.\n{}", command.get_about().unwrap(), table(command));
    }
    text
}

#[test]
fn the_page_is_that_of_the_commands() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page(), "docs/configuration.md is stale; renew it with UPDATE=1 cargo test -p hadal");
}

#[test]
fn the_page_writes_a_file_that_is_taken() {
    let toml = INTRODUCTION.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.toml");
    std::fs::write(&path, toml).unwrap();
    let cli = read(&["worker", "--config", path.to_str().unwrap()]).unwrap();
    assert!(format!("{cli:?}").contains("/tls/worker.key"));
}
