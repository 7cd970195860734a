//! Running parts to their end: logs, signals, what is announced, and the drain.

use std::future::Future;
use std::io::Write;
use std::time::{Duration, Instant};

use hadal_shell::config::FileOption;
use hadal_shell::exit::Exit;
use hadal_shell::log::{self, LogOptions};
use hadal_shell::signal;
use hadal_shell::tasks::Tasks;
use hadal_shell::units;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::fault::{Fault, OrExit};

/// What every serving command takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    file: FileOption,
    /// How long running streams may take to finish after SIGTERM or Ctrl-C; a second signal ends them at once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    drain_timeout: Duration,
    /// Say on stdout where it listens as one line of JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogOptions,
}

/// What serves now.
pub(crate) struct Running {
    /// In the order in which they drain.
    pub(crate) tasks: Vec<Tasks>,
    /// Where it listens, for people.
    pub(crate) text: String,
    /// The same for programs.
    pub(crate) json: serde_json::Value,
}

/// Starts parts, says where they listen, and drains them at a signal.
///
/// # Errors
/// When they do not start, or could not go on.
pub(crate) fn serve(options: RunOptions, start: impl Future<Output = Result<Running, Fault>>) -> Result<Exit, Fault> {
    log::init(&options.log).or_exit(Exit::Usage)?;
    let runtime = Runtime::new().or_exit(Exit::Os)?;
    let ended = runtime.block_on(until_drained(&options, start));
    // A checkpoint may still be loading on a thread of its own: nothing to wait for.
    runtime.shutdown_background();
    ended
}

/// Runs a command that asks a cluster.
///
/// # Errors
/// The command's.
pub(crate) fn client(command: impl Future<Output = Result<Exit, Fault>>) -> Result<Exit, Fault> {
    let runtime = Runtime::new().or_exit(Exit::Os)?;
    let ended = runtime.block_on(command);
    // It may hold a thread that waits for input.
    runtime.shutdown_background();
    ended
}

/// Prints a report on stdout. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print(report: &str) -> Result<(), Fault> {
    let mut out = std::io::stdout();
    match writeln!(out, "{report}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Fault::new(Exit::Io, error)),
        _ => Ok(()),
    }
}

async fn until_drained(
    options: &RunOptions,
    start: impl Future<Output = Result<Running, Fault>>,
) -> Result<Exit, Fault> {
    let drain = CancellationToken::new();
    signal::drain_on_signal(drain.clone()).or_exit(Exit::Os)?;
    let running = tokio::select! {
        started = start => started?,
        () = drain.cancelled() => return Ok(Exit::Ok),
    };
    announce(options, &running);
    for tasks in &running.tasks {
        let (drain, failed) = (drain.clone(), tasks.drain_token());
        tokio::spawn(async move {
            failed.cancelled().await;
            drain.cancel();
        });
    }
    drain.cancelled().await;
    let until = Instant::now() + options.drain_timeout;
    let mut late = Vec::new();
    for tasks in &running.tasks {
        late.extend(tasks.join(until.saturating_duration_since(Instant::now())).await.err());
    }
    if let Some(why) = running.tasks.iter().find_map(Tasks::failure) {
        return Err(Fault::say(Exit::Software, why));
    }
    match late.into_iter().next() {
        Some(unfinished) => Err(Fault::new(Exit::Temporary, unfinished)),
        None => Ok(Exit::Ok),
    }
}

/// Whoever started it may have closed stdout; that is no reason not to serve.
fn announce(options: &RunOptions, running: &Running) {
    let mut stdout = std::io::stdout();
    drop(match options.json {
        true => writeln!(stdout, "{}", running.json),
        false => writeln!(stdout, "{}", running.text),
    });
    drop(stdout.flush());
}
