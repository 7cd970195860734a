//! What developers run: `cargo xtask test`, `cargo xtask check`, and more seldom `cargo xtask sample-model`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

mod etcd;
mod fuzz;
mod python;
mod results;
mod run;
mod sample;
mod tidy;

const USAGE: &str = "\
cargo xtask COMMAND

  test [ARGS]   set up what the tests need (a Python environment with pinned clients, an etcd) and run all of them;
                ARGS go to `cargo test` (for instance `-p hadal-kernels` or `-- golden`)
  lint          formatting, clippy with warnings denied, tidy, cargo-deny
  check         lint, then test

  fuzz TARGET [SECONDS]   look for what breaks the `loader` of checkpoints or the `scheduler`, 300 seconds long
                          unless told otherwise; needs a C++ compiler

  sample-model FOLDER   make this checkpoint the bundled model: copies it to models/sample and renews its sums

Environment: HADAL_CACHE is where tools are kept (default: ~/.cache/hadal).";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => bail!("no command\n\n{USAGE}"),
    };
    match command {
        "test" => test(rest),
        "lint" => lint(),
        "check" => lint().and_then(|()| test(rest)),
        "sample-model" => match rest {
            [folder] => sample::replace(Path::new(folder)),
            _ => bail!("sample-model takes the folder of one checkpoint\n\n{USAGE}"),
        },
        "fuzz" => match rest {
            [target] => fuzz::run(target, "300"),
            [target, seconds] => fuzz::run(target, seconds),
            _ => bail!("fuzz takes a target and perhaps seconds\n\n{USAGE}"),
        },
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command {other:?}\n\n{USAGE}"),
    }
}

fn test(arguments: &[String]) -> Result<()> {
    let (python, etcd) = (python::environment()?, etcd::binary()?);
    // The tests of several processes start this binary.
    run::cargo(&["build", "--locked", "-p", "hadal", "-p", "hadal-tests", "--bins"])?;
    let everything: &[&str] = if arguments.is_empty() { &["--workspace"] } else { &[] };
    let mut command = run::cargo_command(&["test", "--locked", "--no-fail-fast"]);
    command.args(everything).args(arguments);
    command.env("HADAL_TEST_PYTHON", &python).env("HADAL_TEST_ETCD", &etcd);
    results::finish(command)
}

fn lint() -> Result<()> {
    run::cargo(&["fmt", "--all", "--check"])?;
    run::cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    tidy::check()?;
    run::deny()
}
