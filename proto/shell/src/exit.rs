//! Exit codes, as sysexits.h says, so that scripts can tell a wrong flag from a machine that is not there.

use std::process::ExitCode;

/// Why a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// A finding, such as a check that failed.
    Failed = 1,
    /// The command line is wrong (EX_USAGE).
    Usage = 64,
    /// Input data are malformed, such as a checkpoint (EX_DATAERR).
    Data = 65,
    /// An input file or folder is missing or unreadable (EX_NOINPUT).
    NoInput = 66,
    /// Something needed is not available, such as a port or a peer (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A fault of the program (EX_SOFTWARE).
    Software = 70,
    /// The operating system refused something (EX_OSERR).
    Os = 71,
    /// Reading or writing failed (EX_IOERR).
    Io = 74,
    /// Trying again later may help (EX_TEMPFAIL).
    Temporary = 75,
    /// A permission is missing (EX_NOPERM).
    Permission = 77,
    /// The configuration is wrong or inconsistent (EX_CONFIG).
    Config = 78,
    /// Interrupted a second time while draining (128 + SIGINT).
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
