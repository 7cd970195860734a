//! Why a command failed, and the exit code that says so to scripts.

use std::error::Error;
use std::fmt;

use hadal_shell::exit::Exit;
use hadal_shell::net::ListenError;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Fault {
    /// What the process ends with.
    pub(crate) exit: Exit,
    message: String,
}

impl Fault {
    /// From an error and all its sources.
    pub(crate) fn new(exit: Exit, error: impl Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors tell their source already.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self { exit, message }
    }

    /// From a sentence.
    pub(crate) fn say(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Turns any error into a fault.
pub(crate) trait OrExit<T> {
    /// The value, or a fault with that exit code.
    fn or_exit(self, exit: Exit) -> Result<T, Fault>;
}

impl<T, E: Error> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Fault> {
        self.map_err(|error| Fault::new(exit, error))
    }
}

/// What a listener's failure ends with.
pub(crate) fn listen_exit(error: &ListenError) -> Exit {
    match error {
        ListenError::Address { .. } | ListenError::Exposed { .. } => Exit::Config,
        ListenError::InUse { .. } => Exit::Unavailable,
        ListenError::Os { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Exit::Permission,
        ListenError::Os { .. } => Exit::Os,
    }
}
