//! How a running node is asked to stop: SIGINT, SIGTERM, SIGHUP or `node stop`, in order and within a bound.
//! A second signal ends the process at once; the journal makes that safe.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// An orderly stop takes no longer than this.
pub const BOUND: Duration = Duration::from_secs(10);

/// Signals that follow the first within this time say the same once more.
const ONE_WISH: Duration = Duration::from_millis(500);

/// Cancels `token` at the first signal; ends the process at the second, or when the bound is over.
pub fn watch_signals(token: CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A terminal that is closed takes its node down in order, as SIGTERM does.
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("stopping (Ctrl-C again stops at once)"),
            _ = terminate.recv() => tracing::info!("stopping, as SIGTERM asked"),
            _ = hangup.recv() => tracing::info!("stopping: the terminal is gone"),
            () = token.cancelled() => {}
        }
        token.cancel();
        // Supervisors send a signal twice, or to the process and to its group: that is one wish.
        tokio::time::sleep(ONE_WISH).await;
        while futures::FutureExt::now_or_never(interrupt.recv()).is_some()
            || futures::FutureExt::now_or_never(terminate.recv()).is_some()
        {}
        tokio::select! {
            _ = interrupt.recv() => tracing::warn!("stopped at once; the journal is intact"),
            _ = terminate.recv() => tracing::warn!("stopped at once; the journal is intact"),
            () = tokio::time::sleep(BOUND) => tracing::warn!("not stopped after {} s, ended; the journal is intact", BOUND.as_secs()),
        }
        std::process::exit(2);
    });
    Ok(())
}
