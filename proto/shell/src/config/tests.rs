//! Files and flags together, over a command that has a little of everything.

use std::time::Duration;

use clap::{Args, FromArgMatches};

use super::*;
use crate::net::ExposureOptions;
use crate::units;

#[derive(Debug, Args)]
struct Config {
    #[command(flatten)]
    file: FileOption,
    /// Role
    #[arg(long)]
    role: String,
    /// Queue
    #[arg(long, default_value_t = 16)]
    queue_max: usize,
    /// Timeout
    #[arg(long, value_parser = units::duration, default_value = "5s")]
    timeout: Duration,
    /// Names
    #[arg(long)]
    served_model_name: Vec<String>,
    #[command(flatten)]
    exposure: ExposureOptions,
}

fn run(toml: &str, flags: &[&str]) -> Result<Config, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.toml");
    std::fs::write(&path, toml).unwrap();
    let command =
        Command::new("hadal").subcommand_required(true).subcommand(Config::augment_args(Command::new("part")));
    let mut args: Vec<OsString> = ["hadal", "part", "--config"].map(OsString::from).to_vec();
    args.push(path.into());
    args.extend(flags.iter().map(OsString::from));
    let matches = parse(&command, &args)?;
    Ok(Config::from_arg_matches(matches.subcommand().unwrap().1).unwrap())
}

#[test]
fn a_file_sets_flags_and_the_rest_keeps_its_default() {
    let toml = "role = 'decode'\ntimeout = '250ms'\ninsecure = true\nserved_model_name = ['a', 'b']";
    let config = run(toml, &[]).unwrap();
    assert_eq!(config.role, "decode");
    assert_eq!(config.queue_max, 16);
    assert_eq!(config.timeout, Duration::from_millis(250));
    assert_eq!(config.served_model_name, ["a", "b"]);
    assert!(config.exposure.insecure);
    assert!(config.file.config.is_some());
}

#[test]
fn a_flag_overrides_the_file_also_a_list() {
    let toml = "role = 'decode'\nqueue_max = 3\nserved_model_name = ['a', 'b']";
    let config = run(toml, &["--queue-max", "4", "--served-model-name", "c"]).unwrap();
    assert_eq!((config.queue_max, config.served_model_name), (4, vec!["c".to_owned()]));
}

#[test]
fn what_the_file_leaves_out_may_come_from_a_flag() {
    assert_eq!(run("queue_max = 3", &["--role", "mixed"]).unwrap().role, "mixed");
    assert!(matches!(run("queue_max = 3", &[]), Err(Error::Usage(_))));
}

#[test]
fn a_table_is_a_prefix() {
    let toml = "role = 'x'\n[tls]\ncert = 'c.pem'\nkey = 'k.pem'\nca = 'a.pem'";
    let config = run(toml, &[]).unwrap();
    assert_eq!(config.exposure.tls.ca, Some(PathBuf::from("a.pem")));
}

#[test]
fn an_unknown_key_is_refused_with_its_path() {
    let error = run("role = 'x'\n[tls]\ncertt = 'c.pem'", &[]).unwrap_err().to_string();
    assert!(error.contains("part.toml: unknown key tls.certt; did you mean tls_cert?"), "{error}");
    let error = run("role = 'x'\nnonsense = 1", &[]).unwrap_err().to_string();
    assert!(error.ends_with("part.toml: unknown key nonsense"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_file_and_key() {
    for (toml, expected) in [
        ("role = 'x'\nqueue_max = 'many'", "queue_max: invalid value 'many'"),
        ("role = 'x'\ntimeout = '5'", "timeout: invalid value '5'"),
        ("role = 'x'\ninsecure = 'yes'", "insecure: true or false is expected"),
        ("role = ['x']", "role: a text or a number is expected"),
        ("role = ", "TOML parse error at line 1"),
    ] {
        let error = run(toml, &[]).unwrap_err().to_string();
        assert!(error.contains("part.toml") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let command = Command::new("hadal").subcommand(Config::augment_args(Command::new("part")));
    let args = ["hadal", "part", "--config", "/nowhere/x.toml"].map(OsString::from);
    let error = parse(&command, &args).unwrap_err().to_string();
    assert!(error.contains("/nowhere/x.toml"), "{error}");
}

#[test]
fn help_and_wrong_flags_are_the_command_lines() {
    let command = Command::new("hadal").subcommand(Config::augment_args(Command::new("part")));
    for (args, kind) in [
        (vec!["hadal", "part", "--help"], ErrorKind::DisplayHelp),
        (vec!["hadal", "part", "--nope"], ErrorKind::UnknownArgument),
        (vec!["hadal", "other"], ErrorKind::InvalidSubcommand),
    ] {
        let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        let Error::Usage(error) = parse(&command, &args).unwrap_err() else { panic!("{args:?}") };
        assert_eq!(error.kind(), kind);
    }
}
