//! Logs: structured, to stderr, as text or one JSON object a line. Prompts, tokens and secrets are never logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags for logging.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogOptions {
    /// Level, or levels by module: error, warn, info, debug, trace, or hadal_worker=debug,info; debug and trace alone
    /// are this program's, and info its libraries'
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// How log lines look on stderr
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub log_format: Format,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level cannot be read.
    #[error(
        "--log-level {level}: {problem}; write error, warn, info, debug or trace, or MODULE=LEVEL, comma-separated"
    )]
    Level {
        /// As given.
        level: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It was started before.
    #[error("logging was started twice")]
    Twice,
}

/// Starts logging to stderr, once in a process.
///
/// # Errors
/// When the level cannot be read, or logging was started before.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let filter = filter(&options.log_level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match options.log_format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LogError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let wrong = |problem: String| LogError::Level { level: level.to_owned(), problem };
    // A misspelt level would be taken for a module, and all others would be silent.
    let unknown = level.split(',').map(str::trim).find(|d| !d.contains('=') && d.parse::<LevelFilter>().is_err());
    match unknown {
        Some(unknown) => Err(wrong(format!("{unknown:?} is no level"))),
        None => EnvFilter::builder().parse(directives(level)).map_err(|e| wrong(e.to_string())),
    }
}

/// A level alone is this program's: libraries have little to say that helps an operator, and drown the rest below info.
fn directives(level: &str) -> String {
    let alone = level.trim().to_ascii_lowercase();
    match alone.as_str() {
        "debug" | "trace" => format!("info,hadal={alone}"),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_is_named() {
        for level in ["info", "DEBUG", "off", "hadal_worker=debug,info", "h2=trace"] {
            filter(level).unwrap();
        }
        for (level, named) in [("inof", "inof"), ("hadal_worker=debug, loud", "loud")] {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("is no level"), "{error}");
        }
        assert!(filter("hadal_worker=loud").is_err());
    }

    #[test]
    fn a_level_alone_is_that_of_this_program() {
        assert_eq!(directives("DEBUG"), "info,hadal=debug");
        for level in ["info", "hadal_worker=debug,info", "h2=debug"] {
            assert_eq!(directives(level), level);
        }
    }
}
