//! The signals that end the process.

use std::io;

use tokio::signal::unix::{SignalKind, signal as on};

/// Ends at the first SIGTERM or SIGINT from now on.
pub fn signal() -> io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
