//! Configuration: one mechanism for flags and files. A part's configuration is a `clap::Args` struct; a TOML file
//! writes the same flags down, and flags on the command line override it.
//!
//! ```toml
//! # hadal worker --config worker.toml
//! role = "decode"                 # --role decode
//! coordinator = "10.0.0.7:8002"   # --coordinator 10.0.0.7:8002
//! insecure = true                 # --insecure
//! [tls]
//! cert = "worker.pem"             # --tls-cert worker.pem
//! ```
//! Because the file becomes flags, its keys, types, limits and error messages are those of the flags: there is no second
//! definition to keep in step. Unknown keys are refused with their path.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The flag that names the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FileOption {
    /// Read flags from a TOML file: role = "decode" is --role decode, [tls] cert = "x" is --tls-cert x; flags given
    /// here override it
    #[arg(long, value_name = "FILE", id = "config")]
    pub config: Option<PathBuf>,
}

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("--config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("--config {}: {problem}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// A key that no flag has.
    #[error("{}: unknown key {key}{}", path.display(), suggestion(.nearest))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Its path in the file.
        key: String,
        /// A key that looks like it.
        nearest: Option<String>,
    },
    /// A value that the flag does not take.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Its path in the file, or all of it.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |key| format!("; did you mean {key}?"))
}

/// What can be wrong with flags and file together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line (or a request for help).
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Parses a command line whose subcommand may name a `--config FILE`. `args` includes the program's name.
///
/// # Errors
/// When flags or file are wrong, or help was asked for.
pub fn parse(command: &Command, args: &[OsString]) -> Result<ArgMatches, Error> {
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(args);
    let Ok(given) = lenient else {
        return Ok(command.clone().try_get_matches_from(args)?);
    };
    let Some((name, flags)) = given.subcommand() else {
        return Ok(command.clone().try_get_matches_from(args)?);
    };
    let file = flags.try_get_one::<PathBuf>("config").ok().flatten();
    let (Some(path), Some(sub)) = (file, command.find_subcommand(name)) else {
        return Ok(command.clone().try_get_matches_from(args)?);
    };
    let mut settings = read(path, sub)?;
    check(path, command, name, &settings)?;
    settings.retain(|s| flags.value_source(&s.id) != Some(ValueSource::CommandLine));
    let position = args.iter().position(|arg| arg == name).map_or(args.len(), |p| p + 1);
    let mut all = args[..position].to_vec();
    all.extend(settings.iter().flat_map(|s| s.flags.iter().map(OsString::from)));
    all.extend_from_slice(&args[position..]);
    Ok(command.clone().try_get_matches_from(all)?)
}

/// One key of a file, as flags.
struct Setting {
    id: String,
    key: String,
    flags: Vec<String>,
}

fn read(path: &Path, command: &Command) -> Result<Vec<Setting>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|e| FileError::Toml { path: path.to_owned(), problem: e.to_string() })?;
    let mut settings = Vec::new();
    collect(path, command, "", &table, &mut settings)?;
    Ok(settings)
}

fn collect(
    path: &Path,
    command: &Command,
    prefix: &str,
    table: &toml::Table,
    settings: &mut Vec<Setting>,
) -> Result<(), FileError> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if let toml::Value::Table(inner) = value {
            collect(path, command, &key, inner, settings)?;
            continue;
        }
        let flag = key.replace(['.', '_'], "-");
        let arg = keys(command).find(|arg| arg.get_long() == Some(flag.as_str()));
        let arg = arg.ok_or_else(|| FileError::UnknownKey {
            path: path.to_owned(),
            nearest: nearest(command, &flag),
            key: key.clone(),
        })?;
        let flags = flags(arg, &flag, value).map_err(|problem| FileError::Value {
            path: path.to_owned(),
            key: key.clone(),
            problem,
        })?;
        settings.push(Setting { id: arg.get_id().to_string(), key, flags });
    }
    Ok(())
}

/// The flags of a command that a file may set.
pub fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    let no_key = |arg: &&Arg| {
        let settable = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue);
        settable && arg.get_long().is_some() && arg.get_id() != "config"
    };
    command.get_arguments().filter(no_key)
}

fn flags(arg: &Arg, flag: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Ok(format!("--{flag}={text}")),
        toml::Value::Integer(_) | toml::Value::Float(_) => Ok(format!("--{flag}={value}")),
        toml::Value::Boolean(_) => Err("a text or a number is expected, not true or false".to_owned()),
        _ => Err("a text or a number is expected".to_owned()),
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, toml::Value::Boolean(true)) => Ok(vec![format!("--{flag}")]),
        (ArgAction::SetTrue, toml::Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err("true or false is expected".to_owned()),
        (ArgAction::Append, toml::Value::Array(values)) => values.iter().map(one).collect(),
        (_, value) => one(value).map(|flag| vec![flag]),
    }
}

/// Checks the file by itself, so that its errors name it; what it leaves out may come from the command line.
fn check(path: &Path, command: &Command, name: &str, settings: &[Setting]) -> Result<(), FileError> {
    for setting in settings {
        let args = [command.get_name(), name].into_iter().chain(setting.flags.iter().map(String::as_str));
        let Err(error) = command.clone().try_get_matches_from(args) else { continue };
        if error.kind() == ErrorKind::MissingRequiredArgument {
            continue;
        }
        let text = error.to_string();
        let problem = text.lines().next().unwrap_or(&text).trim_start_matches("error: ").to_owned();
        return Err(FileError::Value { path: path.to_owned(), key: setting.key.clone(), problem });
    }
    Ok(())
}

fn nearest(command: &Command, flag: &str) -> Option<String> {
    let close = |long: &&str| long.contains(flag) || flag.contains(*long) || distance(long, flag) <= 2;
    keys(command).filter_map(Arg::get_long).find(close).map(|long| long.replace('-', "_"))
}

/// Edits that make one word the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
