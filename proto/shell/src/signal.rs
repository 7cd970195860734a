//! SIGTERM and SIGINT: the first asks for a drain, a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// Cancels `drain` at the first SIGTERM or SIGINT; exits the process at the second. Takes effect before it returns.
///
/// # Errors
/// When the operating system refuses the handlers.
pub fn drain_on_signal(drain: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Not one of the tracked tasks: it must outlive the drain to see the second signal.
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "draining: no new work, running streams finish; a second signal ends it at once");
        drain.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "ended by a second signal while draining");
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(())
}
