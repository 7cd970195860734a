//! Presses of Ctrl-C, for commands that end by themselves then.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Presses of Ctrl-C, which from now on do not end the process.
pub(crate) fn interrupts() -> io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    let mut signals = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            // One that nobody has seen yet says as much as two.
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}
